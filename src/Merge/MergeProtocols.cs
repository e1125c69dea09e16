using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Merge;

/// <summary>
/// The protocols of a merge: in which order Base, scratch and page 0 are written and flushed (design §5, "How ops run"). Each reads like
/// the list there. Each step begins I/O and yields what must be done before the next step. <see cref="MergeProtocol"/> names them;
/// <see cref="RunningProtocol"/> takes the steps, one protocol at a time.
/// </summary>
internal sealed class MergeProtocols(MergeSetup setup, CowFile cow, MergePlan plan, MetadataImage metadata, Pipeline pipeline,
    BaseWriter target, Watermarks marks, MergeRules rules, CheckpointSchedule checkpoints, RunningProtocol running)
{
    private readonly uint[] _windowBlocks = new uint[metadata.Slots];

    // Ops of the window at the durable count that are in the metadata image already, from batches that hold only a part of it.
    private int _staged;

    /// <summary>Ops written from the scratch that the previous run left.</summary>
    public int Replayed { get; private set; }

    /// <summary>Ops saved in scratch.</summary>
    public int Journaled { get; private set; }

    /// <summary>Begins to make everything written durable and to count it.</summary>
    public void BeginCheckpoint() => running.Begin(MergeProtocol.Checkpoint, Checkpoint());

    /// <summary>Begins to make durable what the previous run left.</summary>
    public void BeginRecovery(RecoveredWindow left) => running.Begin(MergeProtocol.Recovery, Recover(left));

    /// <summary>Begins to write the first batch, Xors in place without scratch. Everything before it is durable.</summary>
    public void BeginUnsafe(Batch batch) => running.Begin(MergeProtocol.WriteUnsafe, WriteUnsafe(batch));

    /// <summary>
    /// Copies the contents of the first batch, a window or the next part of one, to the metadata image. Begins to journal the window if it
    /// is complete. Everything before it is durable.
    /// </summary>
    public void AddToWindow(Batch batch)
    {
        if (batch.From != marks.Durable + _staged)
            throw new InvalidOperationException("rule 3: a window does not begin at the durable count");
        foreach (ref readonly Batch.Item item in batch.Items) metadata.SetSlot(item.Position - marks.Durable, item.Data);
        int before = _staged;
        _staged += batch.Items.Length;
        bool whole = batch.To - batch.From == batch.Step.Ops;
        // A window that does not fit into one buffer is written from the metadata image.
        if (before > 0 || !whole) pipeline.Release();
        if (!whole) return;
        int window = _staged;
        _staged = 0;
        running.Begin(MergeProtocol.Journal, Journal(window, before == 0 ? batch : null));
    }

    /// <summary>
    /// Makes durable what the previous run left, on both devices in parallel, and finishes or discards its window. Once the metadata image
    /// is written back, later ops are read and decoded during the flushes, because none of them reads what the window writes. None is
    /// written before this protocol ends.
    /// </summary>
    public IEnumerable<IPending> Recover(RecoveredWindow left)
    {
        target.BeginFlush();
        foreach (IoGroup transfers in metadata.MakeDurable(left.IsStale ? 0 : left.Entries, begins: marks.Durable == 0 && plan.Count > 0))
        {
            yield return transfers;
            // A failed flush ends the run. No device is flushed after it: the later flush could succeed and make lost data look durable.
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

    /// <summary>Makes everything that is written durable and counts it. Later ops proceed meanwhile under the old count.</summary>
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
    /// Journals the window at the count. Its contents are in the metadata image's slots and, unless <paramref name="batch"/> is null, in a
    /// buffer as well.
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
        // The writes to Base destroy what the window's ops read. From here on readers take the window's contents from memory.
        setup.Readers.Publish(new OpLocations(marks.Durable, window));
        running.SwitchTo(MergeProtocol.AwaitReaders);
        while (!setup.Readers.IsDone) yield return setup.Readers;
        running.SwitchTo(MergeProtocol.WriteWindow);
        foreach (IPending pending in WriteWindow(window, batch)) yield return pending;
    }

    /// <summary>Writes the window to Base and counts it. Its scratch is durable.</summary>
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
        // Plain ops after the window may have been written in parallel; the flush does not cover them.
        metadata.Count = end;
        metadata.State = ScratchLayout.Invalid;
        foreach (IoGroup transfers in metadata.Commit()) yield return transfers;
        Counted(end);
    }

    /// <summary>
    /// Merges Xors in place without scratch, if the user allowed it. The magic says "unsafe" while Base is between two states, so that a
    /// run after a crash can tell. The last commit restores the magic together with the count.
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

    /// <summary>Writes and retires the first batch, which this protocol belongs to.</summary>
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

    /// <summary>The count <paramref name="count"/> is durable.</summary>
    private void Counted(int count)
    {
        marks.AdvanceDurable(count);
        checkpoints.End();
        FollowCount();
    }

    /// <summary>
    /// Moves readers to the durable count: publishes it at once, or after the last switch ends. Raises <see cref="Watermarks.Released"/>
    /// after all readers have followed. True if anything changed.
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
