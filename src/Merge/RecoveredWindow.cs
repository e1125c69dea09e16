using System;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Merge;

/// <summary>
/// The contents that an earlier run left in scratch: <paramref name="Entries"/> slots with the window at the count, or stale contents to
/// discard (<paramref name="IsStale"/>), or nothing.
/// </summary>
internal readonly record struct RecoveredWindow(int Entries, bool IsStale)
{
    /// <summary>
    /// Reads the window from the loaded metadata image of a COW whose count is <paramref name="count"/>. State 2 announces the window at
    /// the count. Android leaves stale contents if a write-back happens between its two stores: the entries name the ops just counted. Once
    /// no ordered op is left, Android ignores the state byte and continues to count. Neither program leaves any other state: exit code 65,
    /// naming the first entry that differs.
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
        string due = count + differs < plan.Count ? plan.Describe(count + differs) : "no op at all";
        throw new SnapuserdException(ExitCode.CowCorrupt,
            $"{cow.Name}: scratch is marked valid (state 2, num_merge_ops {count}), but {found} where {due} is due at offset "
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
