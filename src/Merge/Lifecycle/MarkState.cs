namespace Snapuserd.Merge;

/// <summary>The content of the file at the path of a mark.</summary>
public enum MarkKind
{
    /// <summary>No file, for certain.</summary>
    None,
    /// <summary>A file that is not a mark.</summary>
    Unknown,
    /// <summary>A file that cannot be read and may be a mark.</summary>
    Unreadable,
    /// <summary>An empty mark: a merge may begin, and none has written to the base.</summary>
    Empty,
    /// <summary>A merge may have begun, of a COW that cannot itself show whether it has.</summary>
    Maybe,
    /// <summary>A merge has written to the base, or was about to.</summary>
    Begun,
}

/// <summary>A mark as it was read (<see cref="MergingMark.Look"/>).</summary>
/// <param name="Kind">The kind of content.</param>
/// <param name="Digest">The <see cref="Cow.CowDigest"/> of the mark's COW, as 64 hexadecimal digits; null if the mark has none.</param>
/// <param name="Count">Ops that were merged when the mark was last written: the COW has as many or more.</param>
public readonly record struct MarkState(MarkKind Kind, string? Digest = null, ulong Count = 0)
{
    /// <summary>A merge has begun, or may have.</summary>
    public bool HasContent => Kind is MarkKind.Maybe or MarkKind.Begun;

    /// <summary>
    /// True if a COW with this <paramref name="start"/> was not merged as far as the mark says: it is a copy from before the merge.
    /// </summary>
    public bool Denies(MergeStart start) => start switch
    {
        MergeStart.NotBegun => HasContent,
        // A mark says "maybe" if the process that made it saw the same uncertainty.
        MergeStart.NotBegunHere => Kind == MarkKind.Begun,
        _ => false,
    };

    /// <summary>
    /// The reason, as a clause, why a COW with this digest and count of merged ops is not the mark's COW; null if the mark does not
    /// contradict it.
    /// </summary>
    public string? Contradicts(string digest, ulong count)
    {
        if (!HasContent || Digest == null) return null;
        if (Digest != digest) return "it is the COW of another update";
        return count < Count ? $"it is an older copy: {count} ops are merged in it, and {Count} were" : null;
    }
}
