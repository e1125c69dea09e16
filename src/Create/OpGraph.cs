using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>
/// The order constraints between ops. An op that reads block b must come before the op that writes b. Only Copy and Xor matter, because
/// Zero and Replace come last anyway. An op reads at most two blocks, so the edges follow from the ops themselves and need no memory.
/// </summary>
internal static class OpGraph
{
    /// <summary>Edges of an op: one per block that it may read.</summary>
    public const int Edges = 2;

    /// <summary>
    /// The op that must come after the op of <paramref name="block"/>, because it overwrites a block that the latter reads; -1 if there is
    /// none. An op that reads its own block does not wait for itself: the journal handles that.
    /// </summary>
    public static long After(NativeArray<PackedChange> changes, long block, PackedChange change, int edge)
    {
        long read = edge == 0 ? change.FirstRead : change.LastRead;
        if (edge == 1 && read == change.FirstRead) return -1;
        return read != block && read < changes.Length && changes[read].IsOrdered ? read : -1;
    }

    /// <summary>
    /// True if the op reads the block that it writes. Then no checkpoint permits it, and it needs the journal (design §5, rule 1).
    /// </summary>
    public static bool ReadsItself(long block, PackedChange change) => change.FirstRead == block || change.LastRead == block;

    /// <summary>True for an Xor of a block with itself. It needs the journal, and no other op waits for it.</summary>
    public static bool IsInPlace(long block, PackedChange change) => change.Type == CowOpType.Xor && change.FirstRead == block
        && change.LastRead == block;
}
