using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;

namespace Snapuserd.Merge;

/// <summary>What the engine does next.</summary>
internal enum StepKind
{
    /// <summary>Make what is written durable and count it.</summary>
    Checkpoint,
    /// <summary>Ops that rule 1 lets through.</summary>
    Plain,
    /// <summary>A window through scratch.</summary>
    Journal,
    /// <summary>Xors in place without scratch, if the user allows them.</summary>
    Unsafe,
}

/// <summary>A step and how many ops it takes.</summary>
internal readonly record struct MergeStep(StepKind Kind, int Ops);

/// <summary>
/// The ops of a COW by position in merge order, and what rule 1 of design §5 makes of each: an op may overwrite its blocks once the
/// durable count has reached its <see cref="Limit"/>, which is the position behind the last op that reads one of them.
/// A valid order has no reader behind the writer, so the limit is at most the op's own position plus 1, and it is that exactly when the
/// op reads what it overwrites.
/// </summary>
internal sealed class MergePlan : IDisposable
{
    private readonly CowFile _cow;
    private readonly MappedMemory? _limits;

    /// <summary>Checks the order (exit code 65 if an op reads what an earlier one writes) and works out the limits: 4 bytes per op.</summary>
    public MergePlan(CowFile cow, int window, bool sharedBlocks, bool sourceIsBase)
    {
        _cow = cow;
        Window = window;
        if (Count == 0) return;
        int result = MappedMemory.Map((nint)Count * sizeof(int), out _limits);
        if (result < 0) throw new SnapuserdException(ExitCode.OutOfResources, $"cannot map memory for {Count} ops: {Reason.Of(result)}");
        try
        {
            cow.Order.Check(sharedBlocks, Limits, sourceIsBase);
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

    private Span<int> Limits => _limits!.Span<int>(0, Count);

    /// <summary>The op at a position of the merge order.</summary>
    public CowOp this[int position] => _cow[_cow.Order.OpIndex(position)];

    /// <summary>The durable count from which on the op's blocks may be overwritten without the journal.</summary>
    public int Limit(int position) => Limits[position];

    /// <summary>The op reads what it overwrites: an Xor in place. No checkpoint helps, only the journal does.</summary>
    public bool IsInPlace(int position) => Limit(position) > position;

    /// <summary>There is nothing to write: a Copy onto itself, or a duplicate of an op that comes before.</summary>
    public bool IsNoOp(int position) => Limit(position) < 0;

    /// <summary>The step that follows when <paramref name="durable"/> is the durable count and Base is written up to <paramref name="written"/>, which is less than all.</summary>
    public MergeStep Next(int durable, int written)
    {
        int run = PlainRun(durable, written);
        if (run == 0 && written > durable) return new MergeStep(StepKind.Checkpoint, 0);
        int window = written == durable ? WindowAt(written) : 0;
        // A plain run ends with two flushes, a window takes four and writes every byte twice: a run of more than half the window's ops is
        // cheaper. An Xor in place makes a run of none.
        if (window > 0 && run <= window / 2) return new MergeStep(StepKind.Journal, window);
        return run > 0 ? new MergeStep(StepKind.Plain, run) : new MergeStep(StepKind.Unsafe, InPlaceRun(written));
    }

    /// <summary>How many Xors in place follow each other.</summary>
    private int InPlaceRun(int from)
    {
        int position = from;
        while (position < Count && IsInPlace(position)) position++;
        return position - from;
    }

    /// <summary>How many ops from <paramref name="from"/> on rule 1 lets through while <paramref name="durable"/> is the durable count.</summary>
    private int PlainRun(int durable, int from)
    {
        ReadOnlySpan<int> limits = Limits;
        int position = from;
        while (position < limits.Length && limits[position] <= durable) position++;
        return position - from;
    }

    /// <summary>Rule 3: how many ops the window at <paramref name="from"/> has, never more and never fewer; 0 if the op there is not ordered.</summary>
    public int WindowAt(int from)
    {
        int end = Window < Count - from ? from + Window : Count;
        int position = from;
        while (position < end && this[position].IsOrdered) position++;
        return position - from;
    }

    /// <summary>How many slots the windows from <paramref name="from"/> on need at the most: the longest run of ordered ops, but no more than W.</summary>
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

    /// <summary>How an error names the op at a position: "op 7 (xor of block 50)", with the op's index in file order.</summary>
    public string Describe(int position) => _cow.Describe(_cow.Order.OpIndex(position));

    /// <inheritdoc/>
    public void Dispose() => _limits?.Dispose();
}
