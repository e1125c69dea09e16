using System;
using Snapuserd.Block;

namespace Snapuserd.Cow;

/// <summary>
/// Where a COW is written: a file, a block device, or nothing at all. One thread at a time. What was written is durable once a later
/// <see cref="Flush"/> has returned. Any failure is exit code 74 with one sentence.
/// </summary>
public interface ICowOutput : IByteSource
{
    /// <summary>Bytes that there are, for a block device; null for what grows. Nothing is written behind it.</summary>
    long? Capacity { get; }

    /// <summary>Writes all of <paramref name="bytes"/> at <paramref name="offset"/>; what grows does so, and what was skipped reads as zeros.</summary>
    void Write(long offset, ReadOnlySpan<byte> bytes);

    /// <summary>Makes durable what was written before.</summary>
    void Flush();

    /// <summary>Sets the length of what grows, with zeros where it gets longer; does nothing on a block device.</summary>
    void Truncate(long length);
}
