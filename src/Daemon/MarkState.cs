namespace Snapuserd.Daemon;

/// <summary>What is found where a mark would be.</summary>
public enum MarkKind
{
    /// <summary>Nothing, for certain.</summary>
    None,
    /// <summary>Something that is no mark.</summary>
    Unknown,
    /// <summary>Something that cannot be read, and may be a mark.</summary>
    Unreadable,
    /// <summary>An empty mark: a merge may begin, and none has written to the base.</summary>
    Empty,
    /// <summary>A COW that cannot say itself whether its merge has begun was going to be merged.</summary>
    Maybe,
    /// <summary>A merge has written to the base, or was about to.</summary>
    Begun,
}

/// <summary>A mark as it was read (<see cref="MergingMark.Look"/>).</summary>
/// <param name="Kind">What it says.</param>
/// <param name="Digest">The <see cref="Cow.CowDigest"/> of the COW it speaks of, as 64 hexadecimal digits; null if it does not say.</param>
/// <param name="Count">Ops that were merged when it was written last: the COW has as many or more.</param>
public readonly record struct MarkState(MarkKind Kind, string? Digest = null, ulong Count = 0)
{
    /// <summary>A merge has begun, or may have.</summary>
    public bool HasContent => Kind is MarkKind.Maybe or MarkKind.Begun;

    /// <summary>Why a COW with this digest, of which so many ops are merged, is not the one that the mark speaks of, as a clause; null if nothing says so.</summary>
    public string? Contradicts(string digest, ulong count)
    {
        if (!HasContent || Digest == null) return null;
        if (Digest != digest) return "it is the COW of another update";
        return count < Count ? $"it is an older copy: {count} ops are merged in it, and {Count} were" : null;
    }
}
