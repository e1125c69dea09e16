using System;
using Snapuserd.Block;

namespace Snapuserd.Cow;

/// <summary>Counts bytes and stores none, so that a <see cref="CowWriter"/> computes the size of a file without making it.</summary>
public sealed class NullCowOutput(string name = "estimate") : ICowOutput
{
    /// <inheritdoc/>
    public string Name => name;

    /// <summary>The end of the furthest byte written, as a file's length would be.</summary>
    public long Length { get; private set; }

    /// <summary>Bytes written; rewritten bytes count each time.</summary>
    public long BytesWritten { get; private set; }

    /// <summary>Always null: an estimate has no limit.</summary>
    public long? Capacity => null;

    /// <inheritdoc/>
    public void Write(long offset, ReadOnlySpan<byte> bytes)
    {
        BytesWritten += bytes.Length;
        Length = Math.Max(Length, offset + bytes.Length);
    }

    /// <summary>Always fails with exit code 74, because nothing was stored.</summary>
    public void Read(long offset, Span<byte> destination) =>
        throw new SnapuserdException(ExitCode.InputOutput, $"{Name}: an estimate cannot be read back");

    /// <inheritdoc/>
    public void Flush() { }

    /// <inheritdoc/>
    public void Truncate(long length) => Length = length;
}
