using System;
using System.Threading;
using Snapuserd.Create;

namespace Snapuserd.Tests.Create;

/// <summary>An image in memory that counts the bytes read and can have holes.</summary>
internal sealed class MemoryImage(byte[] bytes, string name = "memory.img") : IImageReader
{
    private long _bytesRead;

    /// <summary>The holes, as (first byte, length). Their bytes must be zeros.</summary>
    public (long Offset, long Length)[] Holes { get; init; } = [];

    public long BytesRead => Volatile.Read(ref _bytesRead);

    public string Name => name;

    public long Length => bytes.Length;

    public void Read(long offset, Span<byte> destination)
    {
        Interlocked.Add(ref _bytesRead, destination.Length);
        bytes.AsSpan(checked((int)offset), destination.Length).CopyTo(destination);
    }

    public bool TrySkipHole(long offset, out long nextData)
    {
        nextData = offset;
        foreach ((long start, long length) in Holes)
            if (offset >= start && offset < start + length) nextData = start + length;
        return nextData > offset;
    }
}
