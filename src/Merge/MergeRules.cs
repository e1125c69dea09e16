using System;
using Snapuserd.Cow;

namespace Snapuserd.Merge;

/// <summary>The result of <see cref="MergeRules.MayWrite"/>.</summary>
internal enum WritePermission
{
    /// <summary>The batch may be written now.</summary>
    Granted,
    /// <summary>Not yet: the batch waits for readers to leave, for writes in flight or for the running protocol.</summary>
    NotYet,
    /// <summary>Only after a new checkpoint has raised the durable count.</summary>
    NeedsCheckpoint,
}

/// <summary>
/// What may be written to Base, and when: rules 1 and 3 of design §5. (Rule 2 is about scratch; <see cref="MetadataImage"/> checks it.)
/// <see cref="MayWrite"/> decides. The methods whose names begin with Check are assertions. They are made at every write, also in the
/// shipped program, and throw <see cref="InvalidOperationException"/>, which only an error in this program can cause.
/// </summary>
internal sealed class MergeRules(MergeOptions options, MergePlan plan, MetadataImage metadata, Watermarks marks, RunningProtocol protocol)
{
    // Ops before these positions may overwrite what they read: their results are durable in scratch, or the user allowed it.
    private int _journaledTo;
    private int _unsafeTo;

    /// <summary>True after <see cref="EndRecovery"/>.</summary>
    public bool IsRecovered { get; private set; }

    /// <summary>Permits writes to Base: recovery is complete, and the previous run's writes are durable.</summary>
    public void EndRecovery() => IsRecovered = true;

    /// <summary>
    /// Whether a plain batch may be written: if its safe-from count is reached, and <paramref name="uncounted"/> is below the limit of
    /// bytes that are written and not counted. They include batches in flight.
    /// </summary>
    public WritePermission MayWrite(Batch batch, long uncounted)
    {
        if (batch.SafeFrom > marks.Released)
        {
            // A checkpoint helps only if the batch waits for the durable count, not for readers. A running one may already be enough. It
            // begins only when batch.Expected is written, not just the safe-from count: else the next batch of the step needs another one.
            bool helps = batch.SafeFrom > marks.Durable && !protocol.IsRunning && marks.Written >= batch.Expected;
            return helps ? WritePermission.NeedsCheckpoint : WritePermission.NotYet;
        }
        if (uncounted >= options.UncountedBytes) return CanCount ? WritePermission.NeedsCheckpoint : WritePermission.NotYet;
        return WritePermission.Granted;
    }

    /// <summary>True if a checkpoint could begin now and raise the count.</summary>
    public bool CanCount => !protocol.IsRunning && marks.Written > marks.Durable;

    /// <summary>
    /// Permits the writes of the window from <see cref="Watermarks.Written"/> to <paramref name="end"/>, which must be durable in scratch.
    /// </summary>
    public void PermitWindow(int end)
    {
        if (!plan.IsSafe(end))
            throw new InvalidOperationException($"rule 1: the window from {marks.Written} to {end} overwrites what a later op reads");
        _journaledTo = end;
    }

    /// <summary>
    /// Permits the writes of Xors in place without scratch, up to <paramref name="end"/>. The magic on disk must be
    /// <see cref="CowHeader.UnsafeMagic"/>.
    /// </summary>
    public void PermitUnsafe(int end) => _unsafeTo = end;

    /// <summary>Throws unless the ops of a batch may be written now.</summary>
    public void CheckRule1(Batch batch)
    {
        if (!IsRecovered) throw new InvalidOperationException("Base is written before the previous run's writes are durable");
        bool journaled = batch.From >= marks.Durable && batch.To <= _journaledTo && batch.SafeFrom <= _journaledTo &&
            metadata.DurableState == ScratchLayout.Valid;
        bool allowed = batch.From >= marks.Durable && batch.To <= _unsafeTo && batch.SafeFrom <= _unsafeTo
            && metadata.Magic == CowHeader.UnsafeMagic;
        if (batch.SafeFrom > marks.Released && !journaled && !allowed)
            throw new InvalidOperationException(
                $"rule 1: positions {batch.From} to {batch.To} overwrite a block that is read from position {marks.Released} on");
    }

    /// <summary>
    /// Throws unless the first <paramref name="window"/> slots may be written to Base: they must be a window that is durable in scratch.
    /// </summary>
    public void CheckSlots(int window)
    {
        if (metadata.DurableState != ScratchLayout.Valid || marks.Written != marks.Durable || marks.Written + window > _journaledTo)
            throw new InvalidOperationException("rule 1: a window is written whose scratch is not durable");
    }

    /// <summary>
    /// Throws unless a window of <paramref name="window"/> ops may be saved in scratch: all ops before it are counted, no reader uses the
    /// memory of the previous window, and it has exactly the length that the format requires at this count.
    /// </summary>
    public void CheckRule3(int window)
    {
        if (marks.Written != marks.Durable || marks.Released != marks.Durable || window != plan.WindowAt(marks.Written))
            throw new InvalidOperationException("rule 3: the window is not the one that the count announces");
    }

    /// <summary>Throws unless the user allowed Xors in place, and no scratch can protect them.</summary>
    public void CheckUnsafe()
    {
        if (!options.AllowUnsafe || plan.Window > 0)
            throw new InvalidOperationException("rule 1: an op that reads what it overwrites is neither journaled nor allowed");
    }
}
