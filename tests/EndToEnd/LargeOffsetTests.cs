using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// Sources at the largest positions that the format can express: 2^48 blocks for a Copy, 2^48 bytes for an Xor. The files are sparse, up to
/// 8 EiB, on tmpfs, the only file system that supports them.
/// </summary>
public sealed class LargeOffsetTests : IDisposable
{
    private const int BlockBytes = CowOp.BlockSize;
    private const long PiB = 1L << 50, LargestFile = long.MaxValue - (BlockBytes - 1);
    private const int BaseBlocks = 64;

    private readonly TmpFs _files = new(64 << 20);
    private readonly List<Process> _servers = [];

    private string[] Devices => ["--cow", _files["cow"], "--base", _files["base"], "--source", _files["source"], "--source-separate"];

    public void Dispose()
    {
        foreach (Process server in _servers)
        {
            if (!server.HasExited) server.Kill();
            server.Dispose();
        }
        _files.Dispose();
    }

    /// <summary>The positions that ops read: in blocks for Copy, in bytes for Xor.</summary>
    private static readonly ulong[] s_copies =
    [
        0, 1, (1ul << 32) - 1, 1ul << 32, (1ul << 38) - 1, 1ul << 38, (1ul << 38) + 1, (1ul << 40) + 5,
        (1ul << 47) - 1, 1ul << 47, (1ul << 48) - 2, (1ul << 48) - 1,
    ];

    private static readonly ulong[] s_xors =
        [0, 4095, (1ul << 44) - 1, 1ul << 44, (1ul << 47) - 4096, (1ul << 47) + 123, (1ul << 48) - 4096, (1ul << 48) - 1];

    public static TheoryData<int, string, long> Cases
    {
        get
        {
            TheoryData<int, string, long> cases = [];
            foreach (int version in (int[])[2, 3])
            {
                foreach (string io in (string[])["uring", "sync"])
                {
                    // The length that the last Copy needs, and the maximum length of a file.
                    cases.Add(version, io, 1L << 60);
                    cases.Add(version, io, LargestFile);
                }
            }
            return cases;
        }
    }

    [RootTheory]
    [MemberData(nameof(Cases))]
    public void Sources_beyond_a_pebibyte_are_merged_extracted_and_served(int version, string io, long sourceBytes)
    {
        byte[] target = Write(version, sourceBytes);
        string[] devices = Devices;

        Succeed("extract", [.. devices, "--io", io, "--output", _files["extracted"], "--progress", "never"]);
        Assert.Equal(target, File.ReadAllBytes(_files["extracted"]));

        Process server = Binary.Start(["serve", .. devices, "--device", "nbd", "--socket", _files["socket"], "--progress", "never"]);
        _servers.Add(server);
        Assert.Equal(_files["socket"], server.StandardOutput.ReadLine());
        Assert.Equal(0, Binary.RunProgram("nbdcopy", [$"nbd+unix:///?socket={_files["socket"]}", _files["served"]]).ExitCode);
        Assert.Equal(target, File.ReadAllBytes(_files["served"]));
        server.Kill();
        server.WaitForExit();

        Succeed("verify", [.. devices, "--progress", "never"]);
        Succeed("merge", [.. devices, "--io", io, "--progress", "never"]);
        Assert.Equal(target, File.ReadAllBytes(_files["base"]));
    }

    [RootTheory]
    [InlineData(2)]
    [InlineData(3)]
    public void Source_that_ends_a_byte_too_early_is_refused_before_anything_is_written(int version)
    {
        Write(version, (1L << 60) - 1);
        byte[] before = File.ReadAllBytes(_files["base"]);
        foreach (string verb in (string[])["merge", "extract"])
        {
            string[] output = verb == "extract" ? ["--output", _files["extracted"]] : [];
            BinaryResult result = Binary.Run([verb, .. Devices, .. output, "--progress", "never"]);
            Assert.Equal(65, result.ExitCode);
            Assert.Contains($"reads up to byte {1L << 60}", result.Error, StringComparison.Ordinal);
        }
        Assert.Equal(before, File.ReadAllBytes(_files["base"]));
        Assert.False(File.Exists(_files["extracted"]));
    }

    /// <summary>Version 2 has 64 bits for a source, of which Android reads 48; version 3 has 48 bits.</summary>
    [RootTheory]
    [InlineData(CowOpType.Copy)]
    [InlineData(CowOpType.Xor)]
    public void Source_that_takes_more_than_48_bits_is_refused(CowOpType type)
    {
        CowBuilder builder = new() { Version = 2 };
        if (type == CowOpType.Copy) builder.Copy(1, 1ul << 48);
        else builder.Xor(1, 1ul << 48, new byte[BlockBytes]);
        File.WriteAllBytes(_files["cow"], builder.Build());
        File.WriteAllBytes(_files["base"], new byte[BaseBlocks * BlockBytes]);
        MakeSparse("source", LargestFile);
        BinaryResult result = Binary.Run(["merge", .. Devices, "--progress", "never"]);
        Assert.True(result.ExitCode == 65 && result.Error.Contains("48 bits", StringComparison.Ordinal), result.ToString());
    }

    [RootTheory]
    [InlineData(LargestFile)]
    [InlineData(long.MaxValue)]
    public void Base_of_the_maximum_file_size_is_served_to_its_last_byte(long baseBytes)
    {
        MakeSparse("base", baseBytes);
        byte[] end = new byte[100];
        new Random(5).NextBytes(end);
        using (FileStream file = new(_files["base"], FileMode.Open, FileAccess.Write))
        {
            file.Position = baseBytes - end.Length;
            file.Write(end);
        }
        byte[] block = new byte[BlockBytes];
        new Random(6).NextBytes(block);
        File.WriteAllBytes(_files["cow"], new CowBuilder { Version = 3 }.Replace(3, block).Replace(uint.MaxValue, block).Build());
        string[] devices = ["--cow", _files["cow"], "--base", _files["base"]];
        Process server = Binary.Start(["serve", .. devices, "--device", "nbd", "--socket", _files["socket"], "--progress", "never"]);
        _servers.Add(server);
        Assert.Equal(_files["socket"], server.StandardOutput.ReadLine());
        using (NbdClient client = NbdClient.Ready(_files["socket"]))
        {
            Assert.Equal(end, client.Read(baseBytes - end.Length, end.Length, structured: false));
            Assert.Equal(block, client.Read((long)uint.MaxValue * BlockBytes, BlockBytes, structured: false));
            // Beyond the end, and where the sum of offset and length overflows.
            foreach (ulong offset in (ulong[])[(ulong)baseBytes - 50, (ulong)baseBytes, long.MaxValue, ulong.MaxValue - 50, ulong.MaxValue])
            {
                client.SendRequest(0, 9, offset, 100);
                Assert.Equal(22u, client.TakeReply().Error);
            }
        }
        server.Kill();
        server.WaitForExit();
        Succeed("merge", [.. devices, "--progress", "never"]);
        using FileStream merged = new(_files["base"], FileMode.Open, FileAccess.Read);
        foreach (long at in (long[])[3L * BlockBytes, (long)uint.MaxValue * BlockBytes])
        {
            merged.Position = at;
            byte[] got = new byte[BlockBytes];
            merged.ReadExactly(got);
            Assert.Equal(block, got);
        }
    }

    /// <summary>
    /// Writes a COW that reads all positions above, mixed with payloads, its base and its source. Returns the target.
    /// </summary>
    private byte[] Write(int version, long sourceBytes)
    {
        Random random = new(version);
        byte[] old = new byte[BaseBlocks * BlockBytes];
        random.NextBytes(old);
        byte[] target = (byte[])old.Clone();
        MakeSparse("source", sourceBytes);
        using FileStream source = new(_files["source"], FileMode.Open, FileAccess.ReadWrite);
        // Whole blocks of random bytes at every position that an op reads.
        foreach (ulong block in s_copies) Scatter((long)block);
        foreach (ulong offset in s_xors)
        {
            Scatter((long)offset / BlockBytes);
            Scatter(((long)offset + BlockBytes - 1) / BlockBytes);
        }

        CowBuilder builder = new() { Version = version, Compression = CowCompression.Lz4, ScratchBytes = 0 };
        uint next = 0;
        foreach (ulong block in s_copies)
        {
            Read((long)block * BlockBytes).CopyTo(Target(next));
            builder.Copy(next++, block);
        }
        foreach (ulong offset in s_xors)
        {
            byte[] payload = new byte[BlockBytes];
            random.NextBytes(payload.AsSpan(0, 700));
            byte[] from = Read((long)offset);
            for (int i = 0; i < BlockBytes; i++) Target(next)[i] = (byte)(from[i] ^ payload[i]);
            builder.Xor(next++, offset, payload);
        }
        for (int i = 0; i < 8; i++)
        {
            byte[] fresh = new byte[BlockBytes];
            random.NextBytes(fresh.AsSpan(0, i % 2 == 0 ? 900 : BlockBytes));
            fresh.CopyTo(Target(next));
            builder.Replace(next++, fresh);
        }
        File.WriteAllBytes(_files["cow"], builder.Build());
        File.WriteAllBytes(_files["base"], old);
        return target;

        Span<byte> Target(uint block) => target.AsSpan((int)block * BlockBytes, BlockBytes);

        void Scatter(long block)
        {
            byte[] noise = new byte[BlockBytes];
            random.NextBytes(noise);
            if ((block + 1) * BlockBytes > sourceBytes) return;
            source.Position = block * BlockBytes;
            source.Write(noise);
        }

        byte[] Read(long offset)
        {
            byte[] bytes = new byte[BlockBytes];
            source.Position = offset;
            _ = source.ReadAtLeast(bytes, BlockBytes, throwOnEndOfStream: false);
            return bytes;
        }
    }

    private void MakeSparse(string name, long bytes)
    {
        using FileStream file = new(_files[name], FileMode.Create, FileAccess.Write);
        file.SetLength(bytes);
    }

    private static void Succeed(string verb, string[] arguments)
    {
        BinaryResult result = Binary.Run([verb, .. arguments]);
        Assert.True(result.ExitCode == 0, $"{verb}: {result}");
    }
}
