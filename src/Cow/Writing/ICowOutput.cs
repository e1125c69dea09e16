using System;
using Snapuserd.Block;

namespace Snapuserd.Cow;

/// <summary>
/// Destination of a COW: a file, a block device, or an estimate that stores nothing. One thread at a time. Written bytes are durable once a
/// later <see cref="Flush"/> has returned. Every failure has exit code 74.
/// </summary>
public interface ICowOutput : IByteSource
{
    /// <summary>Size in bytes of a block device; null for an output that grows. Nothing is written beyond it.</summary>
    long? Capacity { get; }

    /// <summary>
    /// Writes all of <paramref name="bytes"/> at <paramref name="offset"/>. An output that can grow does so; skipped bytes read as zeros.
    /// </summary>
    void Write(long offset, ReadOnlySpan<byte> bytes);

    /// <summary>Makes all earlier writes durable.</summary>
    void Flush();

    /// <summary>Sets the length of an output that can grow, with zeros where it gets longer; does nothing on a block device.</summary>
    void Truncate(long length);

    /// <summary>
    /// Exit code 74 if the output cannot hold <paramref name="end"/> bytes, or the format cannot address them.
    /// </summary>
    internal void RequireSpace(long end)
    {
        if (end > Capacity)
        {
            throw new SnapuserdException(ExitCode.InputOutput,
                $"{Name}: no space is left: the file would have {end} bytes, but there are only {Capacity}");
        }
        if ((ulong)end > PackedOp.Max48)
        {
            throw new SnapuserdException(ExitCode.InputOutput,
                $"{Name}: the file would have {end} bytes, more than the format can address");
        }
    }
}
