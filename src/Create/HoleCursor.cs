namespace Snapuserd.Create;

/// <summary>Remembers the hole it found last, so that a huge one is asked for once. For offsets that mostly ascend; one thread.</summary>
internal struct HoleCursor(IImageReader image)
{
    private long _start;
    private long _end;

    /// <summary>All of these bytes are known to be zeros.</summary>
    public bool Covers(long offset, long length)
    {
        if (offset >= _start && offset + length <= _end) return true;
        if (!image.TrySkipHole(offset, out long nextData)) return false;
        (_start, _end) = (offset, nextData);
        return offset + length <= nextData;
    }
}
