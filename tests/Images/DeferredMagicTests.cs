using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Cow;
using Snapuserd.Images;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Images;

/// <summary>
/// The states that a power cut can leave on a device while `create` writes a COW over another one. The device writes unflushed data in any
/// order.
/// </summary>
public sealed class DeferredMagicTests
{
    private const int Capacity = 4 << 20;

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public void At_any_moment_the_device_has_the_old_cow_or_none_or_the_new_one(int version)
    {
        byte[] old = new byte[Capacity];
        Golden.Cow("v3-lz4-64k-xor").CopyTo(old, 0);
        MemoryOutput device = new([.. old], Capacity);
        DeferredMagic held = new(device);
        CowWriterOptions options = new() { Version = version, Compression = CowCompression.Lz4, OpCountMax = 16 };
        using (CowWriter writer = CowWriter.Create(held, options))
        {
            writer.Copy(1, 2);
            writer.Replace(3, new byte[4096]);
            writer.Finish();
        }
        held.Release();
        byte[] whole = device.Bytes;

        byte[] durable = [.. old];
        List<MemoryOutput.Step> unflushed = [];
        int states = 0;
        foreach (MemoryOutput.Step step in device.Steps)
        {
            if (!step.IsFlush)
            {
                unflushed.Add(step);
                continue;
            }
            // Checks each write alone, and all writes but one: a single write decides whether a state is bad.
            for (int one = 0; one < unflushed.Count; one++)
            {
                Check(With(durable, [unflushed[one]]));
                Check(With(durable, [.. unflushed.Where((_, i) => i != one)]));
                states += 2;
            }
            durable = With(durable, unflushed);
            Check(durable);
            unflushed.Clear();
        }
        Assert.Empty(unflushed);
        Assert.Equal(whole, durable);
        Assert.True(states > 10, $"only {states} states");

        void Check(byte[] found)
        {
            bool isCow = found.AsSpan(0, 8).ContainsAnyExcept((byte)0);
            Assert.True(!isCow || found.AsSpan().SequenceEqual(old) || found.AsSpan().SequenceEqual(whole),
                "something between two COWs has a magic");
        }
    }

    [Fact]
    public void A_cow_that_turned_out_to_be_wrong_durably_has_no_magic()
    {
        MemoryOutput device = new(Golden.Cow("v3-lz4-64k-xor"), Capacity);
        DeferredMagic held = new(device);
        held.Write(0, Golden.Cow("v3-lz4-noseq").AsSpan(0, 4096));
        held.Release();
        Assert.True(device.Bytes.AsSpan().StartsWith("!!WOcwoC"u8));
        held.Withdraw();
        Assert.Equal(new byte[8], device.Bytes[..8]);
        Assert.True(device.Steps[^1].IsFlush);
    }

    [Fact]
    public void Written_bytes_are_read_back_with_the_magic_at_any_offset_and_length()
    {
        const int length = 20;
        byte[] bytes = new byte[length];
        new Random(7).NextBytes(bytes);
        for (int step = 1; step <= length; step++)
        {
            MemoryOutput device = new(new byte[64], 64);
            DeferredMagic held = new(device);
            for (int at = 0; at < length; at += step) held.Write(at, bytes.AsSpan(at, Math.Min(step, length - at)));
            Assert.Equal([.. new byte[8], .. bytes[8..]], device.Bytes[..length]);
            for (int from = 0; from <= length; from++)
            {
                for (int to = from; to <= length; to++)
                {
                    byte[] read = new byte[to - from];
                    held.Read(from, read);
                    Assert.Equal(bytes[from..to], read);
                }
            }
            held.Release();
            Assert.Equal(bytes, device.Bytes[..length]);
        }
    }

    [Fact]
    public void The_output_gets_each_byte_once_and_the_old_magic_is_withdrawn_once()
    {
        CallOutput output = new();
        DeferredMagic held = new(output);
        held.Write(4, new byte[12]);
        held.Write(0, new byte[8]);
        held.Write(16, new byte[1]);
        held.Flush();
        held.Truncate(12);
        held.Read(3, new byte[9]);
        held.Release();
        held.Withdraw();
        Assert.Equal(
        [
            "write 8 at 0", "flush", "write 4 at 4", "write 8 at 8", "write 8 at 0", "write 1 at 16", "flush", "12 bytes", "read 9 at 3",
            "flush", "write 8 at 0", "flush", "write 8 at 0", "flush",
        ], output.Calls);
        Assert.Equal((output.Name, output.Length, output.Capacity), (held.Name, held.Length, held.Capacity));
    }

    [Fact]
    public void A_magic_that_is_written_after_the_release_is_held_again()
    {
        MemoryOutput device = new(new byte[64], 64);
        DeferredMagic held = new(device);
        held.Write(0, "whole COW"u8);
        held.Release();
        Assert.Equal("whole COW"u8.ToArray(), device.Bytes[..9]);
        held.Write(0, "OTHER"u8);
        Assert.Equal("\0\0\0\0\0 COW"u8.ToArray(), device.Bytes[..9]);
        held.Release();
        Assert.Equal("OTHER COW"u8.ToArray(), device.Bytes[..9]);
    }

    private static byte[] With(byte[] bytes, IEnumerable<MemoryOutput.Step> steps)
    {
        byte[] with = [.. bytes];
        foreach (MemoryOutput.Step step in steps) step.Bytes!.CopyTo(with, step.Offset);
        return with;
    }

    /// <summary>A device that lists the calls that it gets.</summary>
    private sealed class CallOutput : ICowOutput
    {
        internal List<string> Calls { get; } = [];

        public string Name => "a device";

        public long Length => 64;

        public long? Capacity => 65;

        public void Write(long offset, ReadOnlySpan<byte> bytes) => Calls.Add($"write {bytes.Length} at {offset}");

        public void Read(long offset, Span<byte> destination) => Calls.Add($"read {destination.Length} at {offset}");

        public void Flush() => Calls.Add("flush");

        public void Truncate(long length) => Calls.Add($"{length} bytes");
    }
}
