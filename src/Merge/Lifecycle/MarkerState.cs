namespace Snapuserd.Merge;

/// <summary>The content of the file at the path of a marker.</summary>
public enum MarkerKind
{
    /// <summary>No file, for certain.</summary>
    None,
    /// <summary>A file that is not a marker.</summary>
    Unknown,
    /// <summary>A file that cannot be read and may be a marker.</summary>
    Unreadable,
    /// <summary>An empty marker: a merge may begin, and none has written to the base.</summary>
    Empty,
    /// <summary>A merge may have begun, of a COW that cannot itself show whether it has.</summary>
    Maybe,
    /// <summary>A merge has written to the base, or was about to.</summary>
    Begun,
}

/// <summary>A marker as it was read (<see cref="MergeMarker.Look"/>).</summary>
/// <param name="Kind">The kind of content.</param>
/// <param name="Digest">The <see cref="Cow.CowDigest"/> of the marker's COW, as 64 hexadecimal digits; null if the marker has none.</param>
/// <param name="Count">Ops that were merged when the marker was last written: the COW has as many or more.</param>
public readonly record struct MarkerState(MarkerKind Kind, string? Digest = null, ulong Count = 0)
{
    /// <summary>A merge has begun, or may have.</summary>
    public bool HasContent => Kind is MarkerKind.Maybe or MarkerKind.Begun;

    /// <summary>
    /// True if the marker contradicts a COW with this <paramref name="start"/>: its merge has begun according to the marker, and not
    /// according to the COW. Then the COW is a copy from before the merge.
    /// </summary>
    public bool Denies(MergeStart start) => start switch
    {
        MergeStart.NotBegun => HasContent,
        // A marker says "maybe" if the process that made it saw the same uncertainty.
        MergeStart.NotBegunHere => Kind == MarkerKind.Begun,
        _ => false,
    };

    /// <summary>
    /// The reason, as a clause, why a COW with this digest and count of merged ops is not the marker's COW; null if the marker does not
    /// contradict it.
    /// </summary>
    public string? Contradicts(string digest, ulong count)
    {
        if (!HasContent || Digest == null) return null;
        if (Digest != digest) return "it is the COW of another update";
        return count < Count ? $"it is an older copy: {count} ops are merged in it, but the marker says {Count}" : null;
    }
}
