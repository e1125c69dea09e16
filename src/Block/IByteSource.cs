using System;

namespace Snapuserd.Block;

/// <summary>Something with a length that can be read anywhere: a device through the queue, or bytes in memory in the tests.</summary>
public interface IByteSource
{
    /// <summary>What to call it in a sentence: the path as the user gave it.</summary>
    string Name { get; }

    /// <summary>Length in bytes.</summary>
    long Length { get; }

    /// <summary>Fills <paramref name="destination"/> from <paramref name="offset"/> on. The range must lie inside the length; exit code 74 when the device fails.</summary>
    void Read(long offset, Span<byte> destination);
}
