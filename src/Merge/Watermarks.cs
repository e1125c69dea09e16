using System;
using Snapuserd.Cow;

namespace Snapuserd.Merge;

/// <summary>
/// How far a merge has come: four counts of ops, and the bytes of Base that they stand for. An op with a position below a count is done in
/// the sense of that count. The counts only rise, and never overtake one another:
/// <code>
///   0 ≤ Released ≤ Published ≤ Durable ≤ Written ≤ End
/// </code>
/// <list type="bullet">
/// <item><see cref="Written"/>: Base is written, durable or not. Plain batches after it may be written or in flight as well.</item>
/// <item><see cref="Durable"/>: <c>num_merge_ops</c> on disk. A power cut leaves it, and the next run writes everything after it
/// again.</item>
/// <item><see cref="Published"/>: the count that a reader who enters now is told.</item>
/// <item><see cref="Released"/>: no reader inside uses a lower count. Rule 1 compares with this one. Without readers it is equal to
/// <see cref="Durable"/>.</item>
/// </list>
/// Each move checks these rules and throws <see cref="InvalidOperationException"/>. Only for the merge thread.
/// </summary>
internal sealed class Watermarks
{
    private readonly MergePlan _plan;
    private readonly IMergeObserver? _observer;

    /// <summary>
    /// All four at <paramref name="start"/>, the count that the COW has. Each move of <see cref="Written"/> is reported to
    /// <paramref name="observer"/>.
    /// </summary>
    public Watermarks(MergePlan plan, int start, IMergeObserver? observer = null)
    {
        if (start < 0 || start > plan.Count) throw Refused(nameof(Start), start, 0, plan.Count);
        _plan = plan;
        _observer = observer;
        Start = Written = Durable = Published = Released = start;
        for (int position = 0; position < plan.Count; position++)
        {
            int bytes = plan[position].UnitBytes;
            BytesTotal += bytes;
            if (position < start) BytesWritten += bytes;
        }
        BytesDurable = BytesWritten;
    }

    /// <summary>The count at the start of the run.</summary>
    public int Start { get; }

    /// <summary>All ops of the merge order.</summary>
    public int End => _plan.Count;

    /// <summary>Base is written up to this count.</summary>
    public int Written { get; private set; }

    /// <summary>The count on disk.</summary>
    public int Durable { get; private set; }

    /// <summary>The count that readers were told last.</summary>
    public int Published { get; private set; }

    /// <summary>The lowest count that a reader inside may use.</summary>
    public int Released { get; private set; }

    /// <summary>Bytes of the units of all ops.</summary>
    public long BytesTotal { get; }

    /// <summary>Bytes of the units of the ops before <see cref="Written"/>.</summary>
    public long BytesWritten { get; private set; }

    /// <summary>Bytes of the units of the ops before <see cref="Durable"/>.</summary>
    public long BytesDurable { get; private set; }

    /// <summary>Bytes that a power cut makes the next run write again, apart from batches that are not retired.</summary>
    public long BytesUncounted => BytesWritten - BytesDurable;

    /// <summary>Blocks written to Base since <see cref="Start"/>.</summary>
    public long BlocksWritten { get; private set; }

    /// <summary>The progress to report.</summary>
    public MergeProgress Progress => new(Written, End, BytesWritten, BytesTotal);

    /// <summary>
    /// Base is written up to <paramref name="to"/>. A window (<paramref name="journaled"/>) also writes the ops that have nothing to write
    /// elsewhere.
    /// </summary>
    public void AdvanceWritten(int to, bool journaled = false)
    {
        if (to < Written || to > End) throw Refused(nameof(Written), to, Written, End);
        for (; Written < to; Written++)
        {
            CowOp op = _plan[Written];
            BytesWritten += op.UnitBytes;
            if (journaled || !_plan.IsNoOp(Written)) BlocksWritten += op.Blocks;
        }
        _observer?.Progress(Progress);
    }

    /// <summary>The count <paramref name="to"/> is on disk.</summary>
    public void AdvanceDurable(int to)
    {
        if (to < Durable || to > Written) throw Refused(nameof(Durable), to, Durable, Written);
        for (; Durable < to; Durable++) BytesDurable += _plan[Durable].UnitBytes;
    }

    /// <summary>
    /// Readers are told the durable count. Only after all of them use the count published before: readers of three counts cannot be told
    /// apart.
    /// </summary>
    public void Publish()
    {
        if (Released != Published) throw Refused(nameof(Published), Durable, Released, Released);
        Published = Durable;
    }

    /// <summary>Every reader that used a lower count than the published one has left.</summary>
    public void Release() => Released = Published;

    private static InvalidOperationException Refused(string mark, int to, int from, int end) =>
        new($"the watermark {mark} cannot move to {to}: it must be between {from} and {end}");
}
