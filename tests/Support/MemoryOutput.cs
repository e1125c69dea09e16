using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Tests.Support;

/// <summary>
/// A COW output in memory that records every call in order and can fail. With a capacity it is a device: it keeps its previous content and
/// never changes its length.
/// </summary>
public sealed class MemoryOutput : ICowOutput
{
    /// <summary>One call: a write with its bytes, a flush (both null), or a new length.</summary>
    public readonly record struct Step(long Offset, byte[]? Bytes, long? Length)
    {
        /// <summary>A flush.</summary>
        public bool IsFlush => Bytes == null && Length == null;
    }

    private readonly List<Step> _steps = new();
    private byte[] _bytes;
    private long _length;

    /// <summary>A file with this content, or a device of <paramref name="capacity"/> bytes that begins with it.</summary>
    public MemoryOutput(byte[]? content = null, long? capacity = null)
    {
        _bytes = new byte[Math.Max(capacity ?? 0, content?.Length ?? 0)];
        content?.CopyTo(_bytes, 0);
        _length = capacity ?? _bytes.Length;
        Capacity = capacity;
    }

    /// <inheritdoc/>
    public string Name => "output.cow";

    /// <inheritdoc/>
    public long Length => _length;

    /// <inheritdoc/>
    public long? Capacity { get; }

    /// <summary>All steps so far.</summary>
    public IReadOnlyList<Step> Steps => _steps;

    /// <summary>A write beyond this offset stores the bytes before it and then fails, as on a full disk.</summary>
    public long FailFrom { get; set; } = long.MaxValue;

    /// <summary>The content.</summary>
    public byte[] Bytes => _bytes.AsSpan(0, (int)_length).ToArray();

    /// <inheritdoc/>
    public void Write(long offset, ReadOnlySpan<byte> bytes)
    {
        if (offset + bytes.Length > Capacity)
            throw new InvalidOperationException($"a write of {bytes.Length} bytes at {offset} exceeds the device's {Capacity} bytes");
        int fits = (int)Math.Clamp(FailFrom - offset, 0, bytes.Length);
        Put(offset, bytes[..fits]);
        if (fits < bytes.Length) throw new SnapuserdException(ExitCode.InputOutput, $"{Name}: no space is left");
    }

    /// <inheritdoc/>
    public void Read(long offset, Span<byte> destination)
    {
        if (offset < 0 || offset + destination.Length > _length)
            throw new ArgumentOutOfRangeException(nameof(offset), $"{destination.Length} bytes at {offset} of {_length}");
        _bytes.AsSpan((int)offset, destination.Length).CopyTo(destination);
    }

    /// <inheritdoc/>
    public void Flush() => _steps.Add(default);

    /// <inheritdoc/>
    public void Truncate(long length)
    {
        if (Capacity != null) return;
        _steps.Add(new Step(0, null, length));
        SetLength(length);
    }

    /// <summary>Applies a step of another output, to build states in which only some steps happened.</summary>
    public void Do(in Step step)
    {
        if (step.Bytes != null) Write(step.Offset, step.Bytes);
        else if (step.Length is { } length) Truncate(length);
        else Flush();
    }

    private void Put(long offset, ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length == 0) return;
        _steps.Add(new Step(offset, bytes.ToArray(), null));
        if (offset + bytes.Length > _length) SetLength(offset + bytes.Length);
        bytes.CopyTo(_bytes.AsSpan((int)offset));
    }

    private void SetLength(long length)
    {
        if (length > _bytes.Length) Array.Resize(ref _bytes, (int)Math.Max(length, _bytes.Length * 2L));
        if (length < _length) _bytes.AsSpan((int)length, (int)(_length - length)).Clear();
        _length = length;
    }
}
