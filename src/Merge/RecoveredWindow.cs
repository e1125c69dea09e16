using System;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Merge;

/// <summary>
/// What scratch holds at the start of a run: a window of <paramref name="Entries"/> ops from the durable count on; stale contents to
/// discard, if <paramref name="IsStale"/>; or nothing.
/// </summary>
internal readonly record struct RecoveredWindow(int Entries, bool IsStale)
{
    /// <summary>
    /// Reads the window from the loaded metadata image of a COW whose count is <paramref name="count"/>. State 2 says that scratch holds
    /// the window at the count. Android's engine can leave state 2 with stale contents in two cases:
    /// <list type="bullet">
    /// <item>It stores count and state separately. If the page is written back between the two, the entries name the ops just
    /// counted.</item>
    /// <item>Once no ordered op remains, it ignores the state byte and continues to count.</item>
    /// </list>
    /// Any other content with state 2 is damage: throws with exit code 65 and names the first entry that differs.
    /// </summary>
    public static RecoveredWindow Read(CowFile cow, MergePlan plan, MetadataImage metadata, int count)
    {
        if (metadata.State != ScratchLayout.Valid) return default;
        if (metadata.Slots == 0) return new RecoveredWindow(0, true);
        int entries = 0;
        while (entries < plan.Window && metadata.Entry(entries) != (0, 0)) entries++;

        int differs = FirstDifference(plan, metadata, count, entries);
        if (entries > 0 && differs == entries) return new RecoveredWindow(entries, false);
        if (entries > 0 && entries <= count && FirstDifference(plan, metadata, count - entries, entries) == entries)
            return new RecoveredWindow(entries, true);

        string found = "the list of its entries is empty";
        if (entries > 0)
        {
            (ulong block, ulong offset) = metadata.Entry(differs);
            found = $"entry {differs} is block {block} at offset {offset}";
        }
        string expected = count + differs < plan.Count ? plan.Describe(count + differs) : "no op at all";
        throw new SnapuserdException(ExitCode.CowCorrupt,
            $"{cow.Name}: scratch is marked valid (state 2, num_merge_ops {count}), but {found} where {expected} is due at offset "
            + $"{metadata.Layout.SlotOffset(differs)}");
    }

    private static int FirstDifference(MergePlan plan, MetadataImage metadata, int from, int entries)
    {
        for (int i = 0; i < entries; i++)
        {
            if (from + i >= plan.Count) return i;
            CowOp op = plan[from + i];
            if (!op.IsOrdered || metadata.Entry(i) != (op.NewBlock, (ulong)metadata.Layout.SlotOffset(i))) return i;
        }
        return entries;
    }
}
