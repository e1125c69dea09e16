using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Cli;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cli;

/// <summary>
/// What a power cut leaves on a device while `create` writes a COW over another one. The device writes what is not flushed in any order.
/// </summary>
public sealed class HeldMagicTests
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
        HeldMagic held = new(device);
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
            // Each write alone, and all but each: what is written together is what a single one can spoil.
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
    public void What_turned_out_to_be_wrong_has_no_magic_durably()
    {
        MemoryOutput device = new(Golden.Cow("v3-lz4-64k-xor"), Capacity);
        HeldMagic held = new(device);
        held.Write(0, Golden.Cow("v3-lz4-noseq").AsSpan(0, 4096));
        held.Release();
        Assert.True(device.Bytes.AsSpan().StartsWith("!!WOcwoC"u8));
        held.Withdraw();
        Assert.Equal(new byte[8], device.Bytes[..8]);
        Assert.True(device.Steps[^1].IsFlush);
    }

    private static byte[] With(byte[] bytes, IEnumerable<MemoryOutput.Step> steps)
    {
        byte[] with = [.. bytes];
        foreach (MemoryOutput.Step step in steps) step.Bytes!.CopyTo(with, step.Offset);
        return with;
    }
}
