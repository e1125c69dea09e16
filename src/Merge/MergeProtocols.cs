using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Merge;

/// <summary>
/// The protocols of a merge: the order in which Base, scratch and page 0 are written and flushed, as listed in design §5, "How ops run". A
/// protocol is an iterator: each step begins I/O and yields the operation that the next step waits for. <see cref="MergeProtocol"/> names
/// the protocols; <see cref="RunningProtocol"/> runs one at a time.
/// </summary>
internal sealed class MergeProtocols(MergeSetup setup, CowFile cow, MergePlan plan, MetadataImage metadata, Pipeline pipeline,
    BaseWriter target, Watermarks marks, MergeRules rules, CheckpointSchedule checkpoints, RunningProtocol running)
{
    private readonly uint[] _windowBlocks = new uint[metadata.Slots];

    // Ops of the window at the durable count whose contents are already in the metadata image. 0 except between the batches of a window
    // that does not fit into one batch.
    private int _staged;

    /// <summary>Ops of the window that the previous run left in scratch and this run writes to Base; 0 if there was none.</summary>
    public int Replayed { get; private set; }

    /// <summary>Ops saved in scratch.</summary>
    public int Journaled { get; private set; }

    /// <summary>Begins a checkpoint: a flush of Base, then the new count.</summary>
    public void BeginCheckpoint() => running.Begin(MergeProtocol.Checkpoint, Checkpoint());

    /// <summary>Begins recovery: makes the previous run's writes durable, then finishes or discards its window.</summary>
    public void BeginRecovery(RecoveredWindow left) => running.Begin(MergeProtocol.Recovery, Recover(left));

    /// <summary>
    /// Begins to write the first batch, whose Xors overwrite their own sources, without scratch. All ops before the batch must be durable.
    /// </summary>
    public void BeginUnsafe(Batch batch) => running.Begin(MergeProtocol.WriteUnsafe, WriteUnsafe(batch));

    /// <summary>
    /// Copies the first batch, which holds a window or the next part of one, to the metadata image. Once the window is complete there,
    /// begins to journal it. All ops before the window must be durable.
    /// </summary>
    public void AddToWindow(Batch batch)
    {
        if (batch.From != marks.Durable + _staged)
            throw new InvalidOperationException("rule 3: a window does not begin at the durable count");
        foreach (ref readonly Batch.Item item in batch.Items) metadata.SetSlot(item.Position - marks.Durable, item.Data);
        int before = _staged;
        _staged += batch.Items.Length;
        bool isComplete = batch.To - batch.From == batch.Step.Ops;
        // A window of several batches is written to Base from the metadata image, so their buffers are no longer needed.
        if (before > 0 || !isComplete) pipeline.Release();
        if (!isComplete) return;
        int window = _staged;
        _staged = 0;
        running.Begin(MergeProtocol.Journal, Journal(window, before == 0 ? batch : null));
    }

    /// <summary>
    /// Makes the previous run's writes durable, on both devices in parallel, then finishes or discards its window. As soon as the metadata
    /// image is written back, later ops may be read and decoded, because none of them reads a block that the window writes. They are not
    /// written until this protocol ends.
    /// </summary>
    public IEnumerable<IPending> Recover(RecoveredWindow left)
    {
        target.BeginFlush();
        foreach (IoGroup transfers in metadata.MakeDurable(left.IsStale ? 0 : left.Entries, begins: marks.Durable == 0 && plan.Count > 0))
        {
            yield return transfers;
            // Stop at a failed flush of Base. A flush of the COW after it could make a count durable whose blocks Base has lost.
            target.CheckFlush();
        }
        yield return target.Pending;
        target.CheckFlush();
        if (marks.Durable < plan.Count) setup.Marker?.Begin(cow, marks.Durable);
        checkpoints.BeginInterval();

        if (left.IsStale)
        {
            metadata.State = ScratchLayout.Invalid;
            foreach (IoGroup transfers in metadata.Commit()) yield return transfers;
        }
        else if (left.Entries > 0)
        {
            Replayed = left.Entries;
            foreach (IPending pending in WriteWindow(left.Entries, null)) yield return pending;
        }
        rules.EndRecovery();
    }

    /// <summary>Flushes Base, then makes the new count durable. Meanwhile later ops that the old count permits are written.</summary>
    private IEnumerable<IPending> Checkpoint()
    {
        int to = marks.Written;
        checkpoints.Begin();
        foreach (IoGroup transfers in target.Flush()) yield return transfers;
        metadata.Count = to;
        foreach (IoGroup transfers in metadata.Commit()) yield return transfers;
        Counted(to);
    }

    /// <summary>
    /// Saves the window at the durable count in scratch, then writes it to Base. Its contents are in the slots of the metadata image and,
    /// unless <paramref name="batch"/> is null, also in the buffer of that batch.
    /// </summary>
    private IEnumerable<IPending> Journal(int window, Batch? batch)
    {
        rules.CheckRule3(window);
        for (int i = 0; i < window; i++) _windowBlocks[i] = plan[marks.Written + i].NewBlock;
        metadata.State = ScratchLayout.Invalid;
        metadata.SetEntries(_windowBlocks.AsSpan(0, window));
        foreach (IoGroup transfers in metadata.WriteScratch(window)) yield return transfers;
        metadata.State = ScratchLayout.Valid;
        foreach (IoGroup transfers in metadata.Commit()) yield return transfers;
        Journaled += window;
        // Writing the window to Base overwrites blocks that its own ops read, so readers first switch to the contents in memory.
        setup.Readers.Publish(new OpLocations(marks.Durable, window));
        running.SwitchTo(MergeProtocol.AwaitReaders);
        while (!setup.Readers.IsDone) yield return setup.Readers;
        running.SwitchTo(MergeProtocol.WriteWindow);
        foreach (IPending pending in WriteWindow(window, batch)) yield return pending;
    }

    /// <summary>Writes a window that is durable in scratch to Base, then makes the new count durable.</summary>
    private IEnumerable<IPending> WriteWindow(int window, Batch? batch)
    {
        int end = marks.Written + window;
        rules.PermitWindow(end);
        if (batch != null)
        {
            foreach (IPending pending in WriteFirst(batch)) yield return pending;
        }
        else
        {
            rules.CheckSlots(window);
            target.BeginSlots(window);
            yield return target.Pending;
            target.CheckSlots();
            marks.AdvanceWritten(end, journaled: true);
        }
        foreach (IoGroup transfers in target.Flush()) yield return transfers;
        // Not marks.Written: plain ops after the window may have been written too late for this flush.
        metadata.Count = end;
        metadata.State = ScratchLayout.Invalid;
        foreach (IoGroup transfers in metadata.Commit()) yield return transfers;
        Counted(end);
    }

    /// <summary>
    /// Merges Xors that overwrite their own sources, without scratch, if the user allowed it. While they are written, the magic on disk is
    /// <see cref="CowHeader.UnsafeMagic"/>, which tells a run after a crash that Base is lost. The last commit writes the normal magic and
    /// the new count.
    /// </summary>
    private IEnumerable<IPending> WriteUnsafe(Batch batch)
    {
        rules.CheckUnsafe();
        metadata.Magic = CowHeader.UnsafeMagic;
        foreach (IoGroup transfers in metadata.Commit()) yield return transfers;
        int end = batch.To;
        rules.PermitUnsafe(end);
        foreach (IPending pending in WriteFirst(batch)) yield return pending;
        foreach (IoGroup transfers in target.Flush()) yield return transfers;
        metadata.Magic = CowHeader.Magic;
        metadata.Count = end;
        foreach (IoGroup transfers in metadata.Commit()) yield return transfers;
        Counted(end);
    }

    /// <summary>Writes and retires the first batch of the pipeline, which is the one that the running protocol merges.</summary>
    private IEnumerable<IPending> WriteFirst(Batch batch)
    {
        rules.CheckRule1(batch);
        batch.BeginWriting(wait: true);
        yield return batch.Pending;
        batch.Advance();
        batch.ThrowIfFailed();
        marks.AdvanceWritten(batch.To, journaled: batch.Step.Kind == StepKind.Journal);
        pipeline.Release();
    }

    /// <summary>Records that <paramref name="count"/> is durable on disk, and moves readers to it.</summary>
    private void Counted(int count)
    {
        marks.AdvanceDurable(count);
        checkpoints.End();
        FollowCount();
    }

    /// <summary>
    /// Moves readers to the durable count. Does nothing while readers still use an earlier count; the merge loop calls it again. Raises
    /// <see cref="Watermarks.Released"/> once no reader uses a lower count. True if a watermark changed.
    /// </summary>
    public bool FollowCount()
    {
        if (marks.Released == marks.Durable || !setup.Readers.IsDone) return false;
        int before = marks.Released;
        marks.Release();
        if (marks.Published < marks.Durable)
        {
            marks.Publish();
            setup.Readers.Publish(new OpLocations(marks.Durable, 0));
            if (setup.Readers.IsDone) marks.Release();
            return true;
        }
        return marks.Released != before;
    }
}
