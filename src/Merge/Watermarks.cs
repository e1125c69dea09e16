using System;
using Snapuserd.Cow;

namespace Snapuserd.Merge;

/// <summary>
/// The progress of a merge: four counts of ops in merge order, and the bytes of Base that these ops write. Each count includes the ops
/// with positions below it. The counts only rise, and keep this order:
/// <code>
///   0 ≤ Released ≤ Published ≤ Durable ≤ Written ≤ End
/// </code>
/// <list type="bullet">
/// <item><see cref="Written"/>: ops that are written to Base, durable or not. Later plain batches may be written or in flight as
/// well.</item>
/// <item><see cref="Durable"/>: <c>num_merge_ops</c> on disk. After a power cut the next run starts there and writes all later ops
/// again.</item>
/// <item><see cref="Published"/>: the count for readers that enter now.</item>
/// <item><see cref="Released"/>: the lowest count that a reader inside may still use. Rule 1 compares safe-from counts with it. Without
/// readers it is equal to <see cref="Durable"/>.</item>
/// </list>
/// A change that breaks this order throws <see cref="InvalidOperationException"/>. Only for the merge thread.
/// </summary>
internal sealed class Watermarks
{
    private readonly MergePlan _plan;
    private readonly IMergeObserver? _observer;

    /// <summary>
    /// Sets all four counts to <paramref name="start"/>, the count in the COW. Each change of <see cref="Written"/> is reported to
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

    /// <summary>Ops that are written to Base.</summary>
    public int Written { get; private set; }

    /// <summary>The count on disk.</summary>
    public int Durable { get; private set; }

    /// <summary>The count that was last published to readers.</summary>
    public int Published { get; private set; }

    /// <summary>The lowest count that a reader inside may use.</summary>
    public int Released { get; private set; }

    /// <summary>Bytes of the units of all ops.</summary>
    public long BytesTotal { get; }

    /// <summary>Bytes of the units of the ops before <see cref="Written"/>.</summary>
    public long BytesWritten { get; private set; }

    /// <summary>Bytes of the units of the ops before <see cref="Durable"/>.</summary>
    public long BytesDurable { get; private set; }

    /// <summary>Bytes that are written and not yet durable: the next run writes them again. Without batches that are not retired.</summary>
    public long BytesUncounted => BytesWritten - BytesDurable;

    /// <summary>Blocks written to Base since <see cref="Start"/>.</summary>
    public long BlocksWritten { get; private set; }

    /// <summary>The progress to report.</summary>
    public MergeProgress Progress => new(Written, End, BytesWritten, BytesTotal);

    /// <summary>
    /// Records that all ops before <paramref name="to"/> are written to Base. A window (<paramref name="journaled"/>) also writes the ops
    /// that a plain batch skips because they change nothing.
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

    /// <summary>Records that the count <paramref name="to"/> is on disk.</summary>
    public void AdvanceDurable(int to)
    {
        if (to < Durable || to > Written) throw Refused(nameof(Durable), to, Durable, Written);
        for (; Durable < to; Durable++) BytesDurable += _plan[Durable].UnitBytes;
    }

    /// <summary>
    /// Records that the durable count is published to readers. All readers inside must use the count published before, because
    /// <see cref="ReaderGate"/> distinguishes readers of two counts only.
    /// </summary>
    public void Publish()
    {
        if (Released != Published) throw Refused(nameof(Published), Durable, Released, Released);
        Published = Durable;
    }

    /// <summary>Records that every reader that used a lower count than the published one has left.</summary>
    public void Release() => Released = Published;

    private static InvalidOperationException Refused(string mark, int to, int from, int end) =>
        new($"the watermark {mark} cannot move to {to}: it must be between {from} and {end}");
}
