using System;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// Reads of any offset and length from one device of a queue, through a window of arena memory that keeps the last range read. Sequential
/// reads load ever longer ranges. A jump starts again with a short one, so a file full of jumps costs little more than the bytes read.
/// </summary>
public sealed class TransferSource(IoScheduler transfers, Arena arena, Slice window, int device, string name, long length) : IByteSource
{
    private const int ShortLoad = 16 << 10;

    private long _start;
    private int _valid;
    private int _load = ShortLoad;

    /// <inheritdoc/>
    public string Name => name;

    /// <inheritdoc/>
    public long Length => length;

    /// <inheritdoc/>
    public void Read(long offset, Span<byte> destination)
    {
        if (offset < 0 || offset > length - destination.Length)
            throw new ArgumentOutOfRangeException(nameof(offset), $"{destination.Length} bytes at {offset} of {length}");
        while (destination.Length > 0)
        {
            if (offset < _start || offset >= _start + _valid) Load(offset);
            int from = (int)(offset - _start);
            int count = Math.Min(destination.Length, _valid - from);
            arena[window.Part(from, count)].CopyTo(destination);
            destination = destination[count..];
            offset += count;
        }
    }

    private void Load(long offset)
    {
        _load = Math.Min(window.Length, offset == _start + _valid ? _load * 2 : ShortLoad);
        _valid = 0;
        _start = Sizes.RoundDown(offset, Sizes.Granule);
        int count = (int)Math.Min(_load, length - _start);
        transfers.Read(device, _start, window.Part(0, count));
        if (transfers.Drain() is { } failure)
            throw new SnapuserdException(ExitCode.InputOutput,
                $"{name}: reading {count} bytes at {_start} failed: {ErrnoText.Of(failure.Errno)}");
        _valid = count;
    }
}
