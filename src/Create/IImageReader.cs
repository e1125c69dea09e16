using System;
using Snapuserd.Block;

namespace Snapuserd.Create;

/// <summary>An image that any thread can read at any offset.</summary>
public interface IImageReader
{
    /// <summary>The name in messages.</summary>
    string Name { get; }

    /// <summary>Length in bytes.</summary>
    long Length { get; }

    /// <summary>
    /// Fills <paramref name="destination"/> from byte <paramref name="offset"/> on. Throws <see cref="SnapuserdException"/> with exit code
    /// 74 if a read fails.
    /// </summary>
    void Read(long offset, Span<byte> destination);

    /// <summary>
    /// Looks for zeros at <paramref name="offset"/>, faster than <see cref="Read"/>. True if the bytes before
    /// <paramref name="nextData"/>, at most <see cref="Length"/>, are certainly zeros; more zeros may follow. The file system's hole map is
    /// not trusted (<see cref="HoleProof"/>). False if nothing is known: the bytes may still be zeros, and the caller must read them.
    /// </summary>
    bool TrySkipHole(long offset, out long nextData);
}
