using System;
using Snapuserd.Block;

namespace Snapuserd.Tests.Support;

/// <summary>A byte source over an array; counts its reads.</summary>
public sealed class MemorySource(byte[] bytes, string name = "memory.cow") : IByteSource
{
    /// <summary>Calls of <see cref="Read"/> so far.</summary>
    public int Reads { get; private set; }

    /// <inheritdoc/>
    public string Name => name;

    /// <inheritdoc/>
    public long Length => bytes.Length;

    /// <inheritdoc/>
    public void Read(long offset, Span<byte> destination)
    {
        Reads++;
        if (offset < 0 || offset > bytes.Length - destination.Length)
            throw new ArgumentOutOfRangeException(nameof(offset), $"{destination.Length} bytes at {offset} of {bytes.Length}");
        bytes.AsSpan((int)offset, destination.Length).CopyTo(destination);
    }
}
