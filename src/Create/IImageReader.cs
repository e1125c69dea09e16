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
    /// Fills <paramref name="destination"/> from byte <paramref name="offset"/> on. Throws <see cref="SnapuserdException"/> 74 if that
    /// fails.
    /// </summary>
    void Read(long offset, Span<byte> destination);

    /// <summary>
    /// True if all bytes from <paramref name="offset"/> to <paramref name="nextData"/>, which is at most <see cref="Length"/>, are proved
    /// to be zeros. This is faster than <see cref="Read"/> and does not trust the file system's hole map. More zeros may follow. After
    /// false the caller only has to read.
    /// </summary>
    bool TrySkipHole(long offset, out long nextData);
}
