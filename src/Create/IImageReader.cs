using System;
using Snapuserd.Block;

namespace Snapuserd.Create;

/// <summary>An image, read at any place by any thread.</summary>
public interface IImageReader
{
    /// <summary>How sentences call it.</summary>
    string Name { get; }

    /// <summary>Length in bytes.</summary>
    long Length { get; }

    /// <summary>Fills <paramref name="destination"/> from byte <paramref name="offset"/> on. <see cref="SnapuserdException"/> 74 if that fails.</summary>
    void Read(long offset, Span<byte> destination);

    /// <summary>
    /// True if all bytes from <paramref name="offset"/> to <paramref name="nextData"/>, which is at most <see cref="Length"/>, were proved to be zeros: quicker than by
    /// <see cref="Read"/>, and not by trusting what a file system says of its holes. More zeros may follow. False costs nothing but reading.
    /// </summary>
    bool TrySkipHole(long offset, out long nextData);
}
