using System;
using System.Buffers.Binary;
using System.IO;
using System.Text.Json;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>Peak of resident memory, as the kernel counts it, against the documented bound.</summary>
public sealed class MemoryTests(ITestOutputHelper output)
{
    private const long Mebi = 1 << 20;

    private long Peak(string cow, string image, string memory, string io)
    {
        // Through a shell that forks: a process inherits the peak of the process that forked it, and the test host is large.
        string command =
            $"\"$0\" merge --cow \"$1\" --base \"$2\" --memory {memory} --io {io} --no-verify-first --json --progress never; exit $?";
        BinaryResult result = Binary.RunProgram("/bin/sh", ["-c", command, Binary.Path, cow, image]);
        Assert.True(result.ExitCode == 0, result.ToString());
        JsonElement done = JsonDocument.Parse(result.Output.TrimEnd('\n').Split('\n')[^1]).RootElement;
        long peak = done.GetProperty("peak_memory").GetInt64();
        output.WriteLine($"{memory}, {io}, {done.GetProperty("ops").GetInt64()} ops: {peak / 1024} KiB");
        return peak;
    }

    [Theory]
    [InlineData("v2-gz-xor", "8M", "uring")]
    [InlineData("v2-gz-xor", "8M", "sync")]
    [InlineData("v2-brotli-xor", "8M", "sync")]
    [InlineData("v3-zstd-256k-xor", "8M", "uring")]
    [InlineData("v3-zstd-256k-xor", "32M", "uring")]
    [InlineData("v3-lz4-64k-xor", "32M", "sync")]
    public void Peak_memory_of_a_golden_merge_is_below_memory_and_16_MiB_and_48_bytes_per_op(string name, string memory, string io)
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["cow"], Golden.Cow(name));
        File.WriteAllBytes(folder["base"], Golden.Old);
        long bound = (long.Parse(memory[..^1]) * Mebi) + (16 * Mebi) + (48L * Golden.Row(name).MergeOps);
        Assert.InRange(Peak(folder["cow"], folder["base"], memory, io), Mebi, bound);
    }

    [Theory]
    [InlineData("uring")]
    [InlineData("sync")]
    public void Peak_memory_of_a_million_ops_is_below_memory_and_16_MiB_and_48_bytes_per_op(string io)
    {
        const int ops = 1_000_000, left = 500;
        using TempFolder folder = new();
        File.WriteAllBytes(folder["cow"], MillionZeros(ops, ops - left));
        using (FileStream image = File.Create(folder["base"])) image.SetLength((long)ops * CowOp.BlockSize);
        Assert.InRange(Peak(folder["cow"], folder["base"], "8M", io), 24L * ops, (8 * Mebi) + (16 * Mebi) + (48L * ops));
    }

    /// <summary>A v3 COW of Zero ops for blocks 0 … n−1, most of them already counted, so that little is left to write.</summary>
    private static byte[] MillionZeros(int ops, int merged)
    {
        byte[] head = new CowBuilder { ScratchBytes = 0, NumMergeOps = (ulong)merged }.Zero(0).Build();
        int opsAt = head.Length - 16;
        byte[] cow = new byte[opsAt + (16 * ops)];
        head.CopyTo(cow, 0);
        BinaryPrimitives.WriteUInt64LittleEndian(cow.AsSpan(54), (ulong)ops);
        BinaryPrimitives.WriteUInt64LittleEndian(cow.AsSpan(62), (ulong)ops);
        for (int i = 0; i < ops; i++)
        {
            head.AsSpan(opsAt, 16).CopyTo(cow.AsSpan(opsAt + (16 * i)));
            BinaryPrimitives.WriteUInt32LittleEndian(cow.AsSpan(opsAt + (16 * i) + 4), (uint)i);
        }
        return cow;
    }
}
