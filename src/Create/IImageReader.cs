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
    /// True if a hole is known to begin at <paramref name="offset"/> or before and to reach to <paramref name="nextData"/>, which is
    /// <see cref="Length"/> if only zeros follow. False costs nothing but reading.
    /// </summary>
    bool TrySkipHole(long offset, out long nextData);
}
