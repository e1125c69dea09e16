using System;
using System.Buffers.Binary;
using System.Diagnostics;
using System.IO;
using System.Threading;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Serve;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Serve;

/// <summary>Tests with the clients of other projects: libnbd, QEMU and fio.</summary>
public sealed class NbdForeignTests
{
    private const int BlockBytes = CowOp.BlockSize;

    [Fact]
    public void Nbdinfo_sees_a_read_only_export_that_several_connections_may_share()
    {
        using NbdFixture fixture = new(options: new NbdOptions { ExportName = "system" });
        string text = Run("nbdinfo", "--list", fixture.Uri);
        Assert.Contains("newstyle-fixed", text, StringComparison.Ordinal);
        Assert.Contains("structured packets", text, StringComparison.Ordinal);
        Assert.Contains("export=\"system\"", text, StringComparison.Ordinal);
        foreach (string line in (string[])[$"export-size: {fixture.Target.Length} ", "is_read_only: true", "can_multi_conn: true",
            "can_df: true",
            "can_flush: true", "can_trim: false", "block_size_minimum: 1", "block_size_preferred: 4096", "block_size_maximum: 33554432"])
            Assert.Contains(line, text, StringComparison.Ordinal);
        Assert.Equal($"{fixture.Target.Length}\n", Run("nbdinfo", "--size", $"nbd+unix:///system?socket={fixture.Path}"));
        Assert.NotEqual(0, Binary.RunProgram("nbdinfo", [$"nbd+unix:///other?socket={fixture.Path}"]).ExitCode);
    }

    [Theory]
    [InlineData("v3-zstd-256k-xor")]
    [InlineData("v2-gz-xor")]
    [InlineData("v3-lz4-64k-xor")]
    public void Nbdcopy_and_qemu_img_read_the_target_before_during_and_after_the_merge(string name)
    {
        ThrottledMerge throttle = new();
        using NbdFixture fixture = new(new ViewFixture(Golden.Cow(name), Golden.Old, observer: throttle), Golden.New);
        throttle.Server = fixture.Server;
        string copy = Path.Combine(fixture.Folder, "copy"), target = Path.Combine(fixture.Folder, "target");
        File.WriteAllBytes(target, fixture.Target);

        Run("nbdcopy", fixture.Uri, copy);
        Assert.Equal(fixture.Target, File.ReadAllBytes(copy));
        string[] compare = ["compare", "-f", "raw", "-F", "raw", fixture.Uri, target];
        Run("qemu-img", compare);

        File.Delete(copy);
        Beside(fixture, throttle, "nbdcopy", ["--connections=2", "--requests=4", "--request-size=32768", fixture.Uri, copy]);
        Assert.Equal(fixture.Target, File.ReadAllBytes(copy));

        File.Delete(copy);
        Run("nbdcopy", "--connections=2", "--requests=16", fixture.Uri, copy);
        Assert.Equal(fixture.Target, File.ReadAllBytes(copy));
        Run("qemu-img", compare);
        Assert.Null(fixture.Server.Failure);
    }

    [Fact]
    public void Fio_verifies_every_block_while_the_merge_runs()
    {
        // Every block is filled with its own offset, which fio uses as a verification pattern. The old image is shifted by one block, so
        // the copies form one chain, which is journaled window by window. Every 16th block is new data.
        const int blocks = 4096;
        byte[] target = new byte[blocks * BlockBytes], old = new byte[target.Length];
        for (long at = 0; at < target.Length; at += sizeof(long))
            BinaryPrimitives.WriteInt64LittleEndian(target.AsSpan((int)at), at & -BlockBytes);
        target.AsSpan(0, target.Length - BlockBytes).CopyTo(old.AsSpan(BlockBytes));
        CowBuilder builder = new() { Compression = CowCompression.Lz4 };
        for (uint n = 0; n < blocks; n++)
        {
            if (n % 16 != 5 && n != blocks - 1) builder.Copy(n, n + 1);
        }
        for (uint n = 0; n < blocks; n++)
        {
            if (n % 16 == 5 || n == blocks - 1) builder.Replace(n, target.AsSpan((int)n * BlockBytes, BlockBytes));
        }
        ThrottledMerge throttle = new();
        using NbdFixture fixture = new(new ViewFixture(builder.Build(), old, observer: throttle), target);
        throttle.Server = fixture.Server;

        string[] fio =
        [
            "--name=view", "--ioengine=nbd", $"--uri={fixture.Uri}", "--rw=randread", "--bs=4k", $"--size={target.Length}", "--iodepth=16",
            "--readonly", "--loops=2",
            "--verify=pattern", "--verify_pattern=%o", "--verify_fatal=1", "--randseed=1", "--output-format=terse",
        ];
        Beside(fixture, throttle, "fio", fio);
        Assert.Equal(target, fixture.View.Base);
        Run("fio", fio);
        Assert.Null(fixture.Server.Failure);
    }

    /// <summary>
    /// Merges while a program reads. The merge makes one step each time the program has sent requests, so that merge and reads overlap.
    /// </summary>
    private static void Beside(NbdFixture fixture, ThrottledMerge throttle, string program, string[] arguments)
    {
        BinaryResult? result = null;
        throttle.Begin();
        Thread client = new(() =>
        {
            result = Binary.RunProgram(program, arguments);
            throttle.Release();
        });
        client.Start();
        fixture.View.Engine.Run();
        client.Join();
        Assert.True(result!.ExitCode == 0, $"{program}: {result}; {fixture.View.Failure}");
        // The first step waits for the first request. The number of further steps depends on the machine's speed.
        Assert.True(throttle.Steps > 0, "the merge ended before the first read");
    }

    private static string Run(string program, params string[] arguments)
    {
        BinaryResult result = Binary.RunProgram(program, arguments);
        Assert.True(result.ExitCode == 0, $"{program}: {result}");
        return result.Output;
    }

    /// <summary>Lets the merge continue when requests have arrived since its last step, or when the client has ended.</summary>
    private sealed class ThrottledMerge : IMergeObserver
    {
        private long _seen;
        private bool _released;

        internal NbdServer? Server { get; set; }

        internal int Steps { get; private set; }

        internal void Begin() => (_seen, Steps, _released) = (Server!.Requests, 0, false);

        internal void Release() => Volatile.Write(ref _released, true);

        public void Progress(in MergeProgress progress)
        {
            SpinWait wait = default;
            while (true)
            {
                bool released = Volatile.Read(ref _released);
                long now = Server!.Requests;
                if (now > _seen)
                {
                    _seen = now;
                    Steps++;
                    return;
                }
                if (released) return;
                wait.SpinOnce();
            }
        }
    }
}
