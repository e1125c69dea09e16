using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;

namespace Snapuserd.Merge;

/// <summary>The kind of the engine's next step.</summary>
internal enum StepKind
{
    /// <summary>Makes the written ops durable and counts them.</summary>
    Checkpoint,
    /// <summary>Ops that rule 1 permits.</summary>
    Plain,
    /// <summary>A window that goes through scratch.</summary>
    Journal,
    /// <summary>Xors in place without scratch, if the user allows them.</summary>
    Unsafe,
}

/// <summary>A step and its number of ops.</summary>
internal readonly record struct MergeStep(StepKind Kind, int Ops);

/// <summary>
/// The ops of a COW by position in merge order, with the effect of rule 1 of design §5 on each. An op may overwrite its blocks once the
/// durable count has reached its safe-from count (<see cref="SafeFrom"/>): the position after the last op that reads one of these blocks.
/// In a valid order no op reads a block after its writer. So the safe-from count is at most the op's own position plus one, and equals that
/// if and only if the op reads what it overwrites.
/// <para>
/// Where Source shares storage with Base under other block numbers (<see cref="StorageMap"/>), a later op may read what an earlier one
/// overwrites. Then both must be in one window, because all ops of a window are read before the first of them is written. The durable count
/// must never lie between the two. The format fixes the length of a window, so it cannot begin at every count. <see cref="IsSafe"/> says
/// from which counts the rest can be merged, and each step of the plan ends at such a count.
/// </para>
/// </summary>
internal sealed class MergePlan : IDisposable
{
    // One such byte is kept per count. Stuck: no op reads lost data, but no sequence of steps leads to the end. Gone: an op reads lost
    // data. Safe: the rest can be merged.
    private const byte Stuck = 0, Gone = 1, Safe = 2;

    private readonly CowFile _cow;
    private readonly MappedMemory? _limits;
    private readonly MappedMemory? _counts;
    private readonly StorageMap? _map;

    /// <summary>
    /// Checks the order (exit code 65 if an op reads what an earlier one writes) and computes the safe-from counts: 4 bytes per op. With an
    /// <paramref name="overlap"/> any order is accepted, and each op takes 5 bytes.
    /// </summary>
    public MergePlan(CowFile cow, int window, bool sharedBlocks, bool sourceIsBase, ReadOnlyMemory<SharedRange>? overlap = null)
    {
        _cow = cow;
        Window = window;
        if (Count == 0) return;
        _limits = Map((nint)Count * sizeof(int));
        try
        {
            if (overlap is { } ranges)
            {
                _map = new StorageMap(ranges.Span);
                cow.Order.CheckOverlap(_map, SafeFroms);
                _counts = Map((nint)Count + 1);
                FindSafeCounts();
            }
            else
            {
                cow.Order.Check(sharedBlocks, SafeFroms, sourceIsBase);
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Ops in the merge order.</summary>
    public int Count => _cow.Order.Count;

    /// <summary>W: ops per journaled window, 0 without scratch.</summary>
    public int Window { get; }

    private Span<int> SafeFroms => _limits!.Span<int>(0, Count);

    private Span<byte> Counts => _counts!.Span<byte>(0, Count + 1);

    /// <summary>
    /// True if everything from the durable count <paramref name="count"/> on can be merged. Without scratch this may need the user's
    /// permission.
    /// </summary>
    public bool IsSafe(int count) => _counts is null || Counts[count] == Safe;

    /// <summary>
    /// Throws with exit code 64 if no sequence of steps leads from the durable count <paramref name="count"/> to the end. The caller must
    /// have checked that no source is lost (<see cref="CheckSources(int, RecoveredWindow, MergeSetup)"/>).
    /// </summary>
    public void CheckMergeable(int count, MergeSetup setup)
    {
        if (IsSafe(count)) return;
        if (Counts[count] == Gone) throw new InvalidOperationException("CheckSources must be called first");
        (int writer, int reader) = FirstObstacle(count);
        string why = Window == 0 ? "and the COW has no scratch to protect it"
            : !HoldsOrderedOnly(writer, reader) ? "and the scratch takes copies and xors only, without a replace or zero among them"
            : $"and no window of {Window} ops in the scratch can begin so that it protects them";
        throw new SnapuserdException(ExitCode.Usage,
            $"{_cow.Name}: cannot be merged into {setup.Base.Name}: {Conflict(writer, reader, setup)}, {why}; nothing was written; "
            + "merge with --source naming a copy of the source elsewhere, or extract the image");
    }

    /// <summary>
    /// Throws with exit code 65 if an uncounted op reads blocks that an earlier op has overwritten: the data is lost, for readers as well.
    /// This engine never leaves such a state. The ops of a window in scratch count as written: their contents are in scratch.
    /// </summary>
    public void CheckSources(int count, RecoveredWindow left, MergeSetup setup)
    {
        CheckSources(count, setup);
        if (!left.IsStale) CheckSources(count + left.Entries, setup);
    }

    private void CheckSources(int count, MergeSetup setup)
    {
        if (_counts is null || Counts[count] != Gone) return;
        (int writer, int reader) = PairAcross(count);
        throw new SnapuserdException(ExitCode.CowCorrupt,
            $"{_cow.Name}: the merge has gone as far as op {count} of {Count}, and {Conflict(writer, reader, setup)}: "
            + "what it reads is gone; if --source names the device that the merge began with, the image is lost");
    }

    /// <summary>
    /// Computes for each count whether the rest can be merged from there. Goes from the last count to the first: a count is safe if one
    /// step leads from it to a safe count.
    /// </summary>
    private void FindSafeCounts()
    {
        ReadOnlySpan<int> safeFroms = SafeFroms;
        Span<byte> counts = Counts;
        int reach = 0, count = Count;
        for (int at = 0; at < count; at++)
        {
            counts[at] = reach > at ? Gone : Stuck;
            reach = Math.Max(reach, safeFroms[at]);
        }
        counts[count] = Safe;
        int endOfRun = count;
        for (int at = count - 1; at >= 0; at--)
        {
            if (!this[at].IsOrdered) endOfRun = at;
            if (counts[at] == Gone) continue;
            int window = Math.Min(Window, endOfRun - at);
            bool plain = safeFroms[at] <= at && counts[at + 1] == Safe;
            bool journaled = window > 0 && counts[at + window] == Safe;
            bool inPlace = Window == 0 && safeFroms[at] == at + 1 && counts[at + 1] == Safe;
            if (plain || journaled || inPlace) counts[at] = Safe;
        }
    }

    /// <summary>
    /// The writer and the later reader that stop a merge from <paramref name="count"/>: no sequence of steps gets further.
    /// </summary>
    private (int Writer, int Reader) FirstObstacle(int count)
    {
        ReadOnlySpan<byte> counts = Counts;
        // From a Stuck count, steps lead only to counts that are Stuck as well. Visits all of them in ascending order; at most two steps
        // lead forward from each.
        SortedSet<int> toDo = [count];
        int furthest = count;
        while (toDo.Count > 0)
        {
            int at = toDo.Min;
            toDo.Remove(at);
            furthest = at;
            if (SafeFrom(at) <= at + (Window == 0 ? 1 : 0) && counts[at + 1] != Gone) toDo.Add(at + 1);
            if (WindowAt(at) is > 0 and int window && counts[at + window] != Gone) toDo.Add(at + window);
        }
        if (SafeFrom(furthest) > furthest + 1) return (furthest, SafeFrom(furthest) - 1);
        return PairAcross(furthest + WindowAt(furthest));
    }

    /// <summary>A writer before <paramref name="count"/> and a reader at or after it.</summary>
    private (int Writer, int Reader) PairAcross(int count)
    {
        for (int writer = count - 1; writer >= 0; writer--)
            if (SafeFrom(writer) > count) return (writer, SafeFrom(writer) - 1);
        throw new InvalidOperationException($"nothing is read across count {count}");
    }

    private bool HoldsOrderedOnly(int from, int to)
    {
        for (int position = from; position <= to; position++)
            if (!this[position].IsOrdered) return false;
        return true;
    }

    private string Conflict(int writer, int reader, MergeSetup setup)
    {
        SharedRange range = _cow.Order.Destroyed(_map!, writer, reader) ?? throw new InvalidOperationException("the two ops share no byte");
        return $"{Describe(reader)} reads block {range.SourceOffset / CowOp.BlockSize} of {setup.Source.Name}, "
            + $"which {Describe(writer)} overwrites before it "
            + $"(byte {range.SourceOffset} of the source is byte {range.BaseOffset} of the base, a shift of {range.Shift} bytes)";
    }

    private static MappedMemory Map(nint bytes)
    {
        int result = MappedMemory.Map(bytes, out MappedMemory? memory);
        if (result < 0)
            throw new SnapuserdException(ExitCode.OutOfResources, $"cannot map {bytes} bytes for the ops: {ErrnoText.Of(result)}");
        return memory!;
    }

    /// <summary>The op at a position of the merge order.</summary>
    public CowOp this[int position] => _cow[_cow.Order.OpIndex(position)];

    /// <summary>
    /// The safe-from count of the op at <paramref name="position"/>: once the durable count reaches it, the op's blocks may be overwritten
    /// without the journal. Negative for an op that writes nothing.
    /// </summary>
    public int SafeFrom(int position) => SafeFroms[position];

    /// <summary>
    /// The op overwrites a block that it reads itself (an Xor in place) or that a later op reads. Checkpoints do not make this safe; only
    /// the journal does.
    /// </summary>
    public bool IsInPlace(int position) => SafeFrom(position) > position;

    /// <summary>The op has nothing to write: a Copy onto itself, or a duplicate of an earlier op.</summary>
    public bool IsNoOp(int position) => SafeFrom(position) < 0;

    /// <summary>
    /// The next step for the durable count <paramref name="durable"/> when Base is written up to <paramref name="written"/>, which is less
    /// than <see cref="Count"/>.
    /// </summary>
    public MergeStep Next(int durable, int written)
    {
        int run = PlainRun(durable, written);
        if (run == 0 && written > durable) return new MergeStep(StepKind.Checkpoint, 0);
        int window = written == durable ? WindowAt(written) : 0;
        if (!IsSafe(written + window)) window = 0;
        // A plain run ends with two flushes. A window takes four and writes every byte twice, so a run of more than half the window's ops
        // is cheaper. An Xor in place makes the run empty.
        if (window > 0 && run <= window / 2) return new MergeStep(StepKind.Journal, window);
        return run > 0 ? new MergeStep(StepKind.Plain, run) : new MergeStep(StepKind.Unsafe, InPlaceRun(written));
    }

    /// <summary>Number of consecutive Xors in place from <paramref name="from"/> on.</summary>
    private int InPlaceRun(int from)
    {
        int position = from;
        while (position < Count && IsInPlace(position)) position++;
        return position - from;
    }

    /// <summary>
    /// Number of consecutive ops from <paramref name="from"/> on that rule 1 permits at the durable count <paramref name="durable"/>.
    /// </summary>
    private int PlainRun(int durable, int from)
    {
        ReadOnlySpan<int> safeFroms = SafeFroms;
        int position = from;
        while (position < safeFroms.Length && safeFroms[position] <= durable && IsSafe(position + 1)) position++;
        return position - from;
    }

    /// <summary>Rule 3: the exact number of ops in the window at <paramref name="from"/>; 0 if the op there is not ordered.</summary>
    public int WindowAt(int from)
    {
        int end = Window < Count - from ? from + Window : Count;
        int position = from;
        while (position < end && this[position].IsOrdered) position++;
        return position - from;
    }

    /// <summary>Most slots that a window from <paramref name="from"/> on needs: the longest run of ordered ops, at most W.</summary>
    public int LongestWindowFrom(int from)
    {
        int longest = 0, run = 0;
        for (int position = from; position < Count && longest < Window; position++)
        {
            run = this[position].IsOrdered ? run + 1 : 0;
            longest = Math.Max(longest, run);
        }
        return longest;
    }

    /// <summary>
    /// The ranges of Base that the ops from <paramref name="from"/> on write: ascending, each byte once. With scratch they include a Copy
    /// onto itself, because a window writes it as well.
    /// </summary>
    public IEnumerable<ByteRange> WrittenFrom(int from)
    {
        long start = 0, end = 0;
        for (int rank = 0; rank < Count; rank++)
        {
            int position = _cow.Order.PositionByBlock(rank);
            if (position < from) continue;
            CowOp op = this[position];
            if (IsNoOp(position) && (Window == 0 || !op.IsOrdered)) continue;
            long at = op.NewBlock * (long)CowOp.BlockSize;
            if (at > end)
            {
                if (end > start) yield return new ByteRange(start, end - start);
                start = at;
            }
            end = Math.Max(end, at + op.UnitBytes);
        }
        if (end > start) yield return new ByteRange(start, end - start);
    }

    /// <summary>The name of the op at a position in errors: "op 7 (xor of block 50)", with the op's index in file order.</summary>
    public string Describe(int position) => _cow.Describe(_cow.Order.OpIndex(position));

    /// <inheritdoc/>
    public void Dispose()
    {
        _counts?.Dispose();
        _limits?.Dispose();
    }
}
