using System;

namespace Snapuserd.Block;

/// <summary>A source of known length with random access: a device through the queue, or bytes in memory in the tests.</summary>
public interface IByteSource
{
    /// <summary>The source's name in messages: the path as the user gave it.</summary>
    string Name { get; }

    /// <summary>Length in bytes.</summary>
    long Length { get; }

    /// <summary>
    /// Fills <paramref name="destination"/> from <paramref name="offset"/> on. The range must lie inside the length; exit code 74 when
    /// the device fails.
    /// </summary>
    void Read(long offset, Span<byte> destination);
}
