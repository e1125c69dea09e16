using System;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Merge;

/// <summary>
/// The contents that an earlier run left in scratch: <paramref name="Entries"/> slots with the window at the count, or stale contents to
/// discard (<paramref name="IsStale"/>), or nothing.
/// </summary>
internal readonly record struct LeftWindow(int Entries, bool IsStale)
{
    /// <summary>
    /// Reads the window from the loaded metadata image of a COW whose count is <paramref name="count"/>. State 2 announces the window at
    /// the count. Android leaves stale contents if a write-back happens between its two stores: the entries name the ops just counted. Once
    /// no ordered op is left, Android ignores the state byte and continues to count. Neither program leaves any other state: exit code 65,
    /// naming the first entry that differs.
    /// </summary>
    public static LeftWindow Read(CowFile cow, MergePlan plan, CowHead head, int count)
    {
        if (head.State != ScratchLayout.Valid) return default;
        if (head.Slots == 0) return new LeftWindow(0, true);
        int entries = 0;
        while (entries < plan.Window && head.Entry(entries) != (0, 0)) entries++;

        int differs = FirstDifference(plan, head, count, entries);
        if (entries > 0 && differs == entries) return new LeftWindow(entries, false);
        if (entries > 0 && entries <= count && FirstDifference(plan, head, count - entries, entries) == entries) return new LeftWindow(entries, true);

        string found = "the list of its entries is empty";
        if (entries > 0)
        {
            (ulong block, ulong offset) = head.Entry(differs);
            found = $"entry {differs} is block {block} at offset {offset}";
        }
        string due = count + differs < plan.Count ? plan.Describe(count + differs) : "no op at all";
        throw new SnapuserdException(ExitCode.CowCorrupt,
            $"{cow.Name}: scratch is marked valid (state 2, num_merge_ops {count}), but {found} where {due} is due at offset {head.Layout.SlotOffset(differs)}");
    }

    private static int FirstDifference(MergePlan plan, CowHead head, int from, int entries)
    {
        for (int i = 0; i < entries; i++)
        {
            if (from + i >= plan.Count) return i;
            CowOp op = plan[from + i];
            if (!op.IsOrdered || head.Entry(i) != (op.NewBlock, (ulong)head.Layout.SlotOffset(i))) return i;
        }
        return entries;
    }
}
