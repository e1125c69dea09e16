using System;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>Small reads of a source through a buffer.</summary>
public sealed class ByteWindowTests
{
    private static readonly byte[] s_bytes = Bytes();

    private static byte[] Bytes()
    {
        byte[] bytes = new byte[200_000];
        new Random(1).NextBytes(bytes);
        return bytes;
    }

    [Fact]
    public void Each_read_returns_the_bytes_of_the_source_in_any_order_of_reads()
    {
        Random random = new(2);
        ByteWindow window = new(new MemorySource(s_bytes));
        long at = 0;
        for (int i = 0; i < 20_000; i++)
        {
            int length = random.Next(1, 100);
            // Most reads are near the previous one, some of them one byte before or after it.
            at = random.Next(4) == 0 ? random.Next(s_bytes.Length) : at + random.Next(-3, 3);
            at = Math.Clamp(at, 0, s_bytes.Length - length);
            long ahead = random.Next(3) == 0 ? random.Next(200) : 64 * 1024;
            Assert.True(window.At(at, length, ahead).SequenceEqual(s_bytes.AsSpan((int)at, length)), $"read {i}: {length} bytes at {at}");
        }
    }

    [Fact]
    public void Consecutive_records_take_one_read_per_64_KiB()
    {
        CountingSource source = new(s_bytes);
        ByteWindow window = new(source);
        for (int at = 0; at < s_bytes.Length; at += 16) window.At(at, 16);
        Assert.Equal((s_bytes.Length + 65535) / 65536, source.Reads);
    }

    private sealed class CountingSource(byte[] bytes) : Snapuserd.Block.IByteSource
    {
        public string Name => "counted";

        public long Length => bytes.Length;

        public int Reads { get; private set; }

        public void Read(long offset, Span<byte> destination)
        {
            Reads++;
            bytes.AsSpan((int)offset, destination.Length).CopyTo(destination);
        }
    }
}
