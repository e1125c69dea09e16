namespace Snapuserd.Create;

/// <summary>
/// Remembers the last range that <see cref="IImageReader.TrySkipHole"/> found to be zeros, so that requests within it need no other query.
/// For one thread, whose offsets mostly ascend.
/// </summary>
internal struct HoleCursor(IImageReader image)
{
    private long _start;
    private long _end;

    /// <summary>True if all of these bytes are known to be zeros.</summary>
    public bool Covers(long offset, long length)
    {
        if (offset >= _start && offset + length <= _end) return true;
        if (!image.TrySkipHole(offset, out long nextData)) return false;
        (_start, _end) = (offset, nextData);
        return offset + length <= nextData;
    }
}
