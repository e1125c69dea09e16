using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Threading.Tasks;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// `simulator sabotage NAME … | all`: the deliberate defects of the product, each of which the battery or unit tests must detect. If a
/// snippet below no longer fits the product's source, the test names the sabotage.
/// </summary>
public static class Sabotages
{
    private const string Head = "Merge/MetadataImage.cs";
    private const string Life = "Merge/Lifecycle/MergeLifecycle.cs";
    private const string Slots = "Control/MergeSlots.cs";
    private const string Engine = "Merge/MergeEngine.cs";
    private const string Loop = "Merge/MergeLoop.cs";
    private const string Rules = "Merge/MergeRules.cs";
    private const string Protocols = "Merge/MergeProtocols.cs";
    private const string Schedule = "Merge/CheckpointSchedule.cs";
    private const string Filler = "Merge/BatchFiller.cs";
    private const string BeginMarker = "if (marks.Durable < plan.Count) setup.Marker?.Begin(cow, marks.Durable);";
    private const string Left = "Merge/RecoveredWindow.cs";
    private const string Plan = "Merge/MergePlan.cs";
    private const string Image = "Merge/MergedImage.cs";
    private const string Batch = "Merge/Batch.cs";
    private const string Scheduler = "Block/IoScheduler.cs";
    private const string Gate = "Merge/ReaderGate.cs";
    private const string Line = "Merge/Pipeline.cs";
    private const string Memory = "Block/Arena.cs";
    private const string Read = "Serve/ViewRead.cs";
    private const string Order = "Cow/MergeOrder.cs";
    private const string Map = "Block/StorageMap.cs";

    private const string Update = "Recovery/UpdateMerge.cs", Layout = "Recovery/MergeLayout.cs";
    private const string Phases = "AndroidDevice/MergeOrder.cs", Composer = "AndroidDevice/PlanComposer.cs";
    private const string Tables = "AndroidDevice/DeviceReader.cs", Piece = "AndroidDevice/DevicePiece.cs", Pieces = "Block/PieceQueue.cs";

    private const string Snapshots = "Control/Snapshot.cs";
    private const string Marker = "Merge/Lifecycle/MergeMarker.cs";
    private const string MarkerFlush = "if (result == 0) result = FileFlush.Of(fd);";
    private const string MarkerName = "if (result >= 0 && isNew) result = Libc.Rename(path, PathOf(cow));";
    private const string MarkerFolderFlush = "if (result >= 0) result = FolderFlush.Of(cow, fd, out unsupported);";
    private const string Magic = "Images/DeferredMagic.cs";
    private const string Merge = "Cli/MergeVerb.cs";
    private const string ImageFile = "Images/ImageFile.cs";
    private const string BootFile = "Boot/BootSystem.cs";
    private const string BootRows = "Boot/BootSequence.cs";
    private const string Guard = "Merge/Lifecycle/ObserverGuard.cs";
    private const string MakesMark = "MergeMarker.Make(row.Cow, devices.Says) is < 0 and int error", NoMark = "0 is < 0 and int error";
    private const string TemporaryName = "Images/TemporaryName.cs";
    private const string CowFlush = "Cow/Writing/FileCowOutput.cs";
    private const string WriterV2 = "Cow/Writing/OpWriterV2.cs";
    private const string WriterV3 = "Cow/Writing/OpWriterV3.cs";
    private const string FinishedBefore = "MergeResult? Confirm(", Finished = "Merge/Lifecycle/FinishedMerge.cs";

    private static readonly UnitTests s_swap = new("Control", "SwapOrderTests");
    private static readonly UnitTests s_durable = new("Images", "DurableFirstTests");
    private static readonly UnitTests s_durableMark = new("Merge", "DurableMarkerTests");
    private static readonly UnitTests s_finished = new("Merge", "FinishedMergeTests");
    private static readonly UnitTests s_observers = new("Control", "ThrowingObserverTests", "path: \"serve\"");
    private static readonly UnitTests s_boot = new("Boot", "BootTests.Every_decision_is_the_documented_one");
    private static readonly UnitTests s_bootMerged = new("Boot", "BootTests.A_row_that_was_merged_before");
    private static readonly UnitTests s_bootResult = new("Boot", "BootTests.A_result_that_cannot");
    private static readonly UnitTests s_newMarker = new("Merge", "MergeMarkerTests.A_new_mark");

    /// <summary>
    /// The sabotages that `make test` tries: the first one of each source file. `make simulate SABOTAGE=all` tries all of them.
    /// </summary>
    public static IReadOnlyList<Sabotage> Sample => [.. All.DistinctBy(sabotage => sabotage.Edits[0].File)];

    /// <summary>The builds without a change that `make test` tries: one that the battery judges, and one that unit tests judge.</summary>
    public static IReadOnlyList<Sabotage> SampleOfNone => [.. None.DistinctBy(sabotage => sabotage.Tests == null)];

    private const string ForgetWindow =
        "metadata.State = ScratchLayout.Invalid;\n            foreach (IoGroup transfers in metadata.Commit()) yield return transfers;";
    private const string FlushBase = "foreach (IoGroup transfers in target.Flush()) yield return transfers;";

    /// <summary>All sabotages, by name.</summary>
    public static IReadOnlyList<Sabotage> All { get; } =
    [
        // Flushes.
        new("start-leaves-cow-unflushed", "the start writes page 0 back and does not flush it",
            new SourceEdit(Head, "MakeDurable(", "IsWrittenBack = true;\n        Flush();", "IsWrittenBack = true;")),
        new("start-leaves-slots-unflushed", "the start writes slots back and flushes them only together with page 0",
            new SourceEdit(Head, "MakeDurable(", "Check(doing);\n            Flush();", "Check(doing);")),
        new("start-leaves-base-unflushed", "the start does not flush Base",
            new SourceEdit(Protocols, "> Recover(", "target.BeginFlush();", "")),
        new("start-does-not-wait-for-base", "batches are written while the start still flushes Base",
            new SourceEdit(Protocols, "> Recover(", "yield return target.Pending;\n        target.CheckFlush();", "")),
        new("writes-before-the-start-has-flushed", "the first batch is written while the start is still flushing",
            new SourceEdit(Loop, "bool Write()", "if (!_rules.IsRecovered) return false;", ""),
            new SourceEdit(Rules, "void CheckRule1(", "if (!IsRecovered)", "if (marks.Durable < 0)")) { WithoutAssertion = true },
        new("start-flushes-on-after-a-failed-flush", "the start continues with the COW after a failed flush of Base",
            new SourceEdit(Protocols, "> Recover(", "target.CheckFlush();\n        }", "}")),
        new("start-writes-back-page-0-only", "the start does not write back the slots of a valid window",
            new SourceEdit(Head, "MakeDurable(", "if (entries > 0)", "if (entries < 0)")),
        new("start-leaves-no-trace", "the start does not set the state byte to 1",
            new SourceEdit(Head, "MakeDurable(", "if (begins &&", "if (!begins &&")),
        new("start-writes-back-nothing", "the start only flushes",
            new SourceEdit(Head, "MakeDurable(", "if (entries > 0)", "if (entries < 0)"),
            new SourceEdit(Head, "MakeDurable(", "WritePage0();", "")),
        new("planned-before-the-image-is-written-back", "ops are read ahead before the start has written the metadata image back",
            new SourceEdit(Loop, "bool Fill()", " && _metadata.IsWrittenBack", "")) { Step = Battery.Changing },
        new("written-back-before-page-0-is", "ops are read ahead while page 0 is still being written back",
            new SourceEdit(Head, "MakeDurable(", "WritePage0();", "IsWrittenBack = true; WritePage0();")) { Step = Battery.Changing },
        new("mark-before-the-cow", "the marker says that the merge has begun before the COW does",
            new SourceEdit(Protocols, "> Recover(", "target.BeginFlush();",
                "setup.Marker?.Begin(cow, marks.Durable); target.BeginFlush();"), new SourceEdit(Protocols, "> Recover(", BeginMarker, "")),
        new("mark-after-the-base", "the marker says that the merge has begun only after Base is written",
            new SourceEdit(Protocols, "> Recover(", BeginMarker, ""), new SourceEdit(Protocols, "> Recover(", "rules.EndRecovery();",
                "rules.EndRecovery(); setup.Marker?.Begin(cow, marks.Durable);")),
        new("mark-never", "the marker never says that the merge has begun", new SourceEdit(Protocols, "> Recover(", BeginMarker, "")),
        new("mark-goes-early", "the marker is removed before the last count is durable",
            new SourceEdit(Loop, "bool IsFinished()", "_stopping = _setup.Stop.Requested;", "_stopping = _setup.Stop.Requested; if "
                + "(_marks.Written == _plan.Count) _setup.Marker?.End();"), new SourceEdit(Life, "void Done()", "mark?.End();", "")),
        new("mark-stays", "the marker stays after the merge", new SourceEdit(Life, "MergeResult Run(", "Done();", "")),
        new("mark-end-dropped", "the marker is not removed by the call that ends a merge",
            new SourceEdit(Life, "void Done()", "mark?.End();", "")),
        new("mark-goes-before-the-merge", "the marker is removed before the engine runs",
            new SourceEdit(Life, "MergeResult Run(", "Done();", ""),
            new SourceEdit(Life, "MergeResult Run(", "Check();", "Check(); mark?.End();")),
        new("mark-unchecked", "nothing checks the marker", new SourceEdit(Life, "MergeResult Run(", "Check();", "")),
        new("scratch-unflushed", "a window is claimed before its scratch is flushed",
            new SourceEdit(Head, "WriteScratch(", "Flush();", "")),
        new("claim-unflushed", "Base is written before the claim of its window is flushed",
            new SourceEdit(Head, " Commit()", "Flush();", "if (State != 2) Flush();")),
        new("count-unflushed", "a count is taken as durable before it is flushed",
            new SourceEdit(Head, " Commit()", "Flush();", "if (State == 2) Flush();")),
        new("window-counted-before-its-base-is-flushed", "a window is counted without a flush of Base",
            new SourceEdit(Protocols, " WriteWindow(int", FlushBase, "")),
        new("replay-counted-before-its-base-is-flushed", "a replayed window is counted without a flush of Base",
            new SourceEdit(Protocols, " WriteWindow(int", FlushBase, "if (Replayed == 0 || checkpoints.Count > 0) " + FlushBase)),
        new("checkpoint-without-flush-of-base", "a checkpoint counts writes to Base that it did not flush",
            new SourceEdit(Protocols, "> Checkpoint()", FlushBase, "")),
        new("count-before-base", "a checkpoint counts first and flushes Base after it",
            new SourceEdit(Protocols, "> Checkpoint()", FlushBase, ""),
            new SourceEdit(Protocols, "> Checkpoint()", "Counted(to);", "Counted(to); " + FlushBase)),
        new("no-final-checkpoint", "the last ops are not counted", new SourceEdit(Loop, "bool IsFinished()",
            "return _marks.Durable == _plan.Count && (_marks.Published == _marks.Durable || _stopping) && _target.IsWriteBackDone;",
            "return _marks.Written == _plan.Count && _target.IsWriteBackDone;")),
        new("no-checkpoint-by-bytes", "checkpoints ignore the byte interval: they come by time or at the limit of uncounted writes",
            new SourceEdit(Schedule, "void Update()", "|| marks.BytesWritten - _bytes >= setup.Options.CheckpointBytes", "")),
        new("no-checkpoint-by-time", "checkpoints come by bytes alone, even on a slow device",
            new SourceEdit(Schedule, "void Update()", "IsIntervalOver(setup.Time.Milliseconds)", "_end < 0")),
        new("writes-on-whatever-a-flush-takes", "during a slow checkpoint, writes continue beyond the limit of uncounted writes",
            new SourceEdit(Rules, "WritePermission MayWrite(", "if (uncounted >= options.UncountedBytes)", "if (uncounted < 0)")),
        new("final-count-unwritten", "the last count stays in memory", new SourceEdit(Protocols, "> Checkpoint()",
            "foreach (IoGroup transfers in metadata.Commit())", "if (to < plan.Count) foreach (IoGroup transfers in metadata.Commit())")),
        new("page-0-flushed-before-it-is-reaped", "the flush of a count or claim is queued while its write is in flight",
            new SourceEdit(Head, " Commit()", "yield return _transfers;\n        Check(\"writing the header of\");", "")),
        new("scratch-flushed-before-it-is-reaped", "the flush of scratch is queued while its writes are in flight",
            new SourceEdit(Head, "WriteScratch(", "yield return _transfers;\n        Check(\"writing the scratch of\");", "")),
        new("window-flushed-before-it-is-reaped", "the flush of Base is queued while a window is in flight", new SourceEdit(Protocols,
            "> WriteFirst(", "yield return batch.Pending;", "if (batch.Count < 0) yield return batch.Pending;")),
        new("failed-flush-asked-again", "a failed flush is repeated, and the result of the second is trusted", new SourceEdit(Scheduler,
            "void Progress(", "End(slot, result < 0 ? result : 0);", "if (result < 0) Ask(slot); else End(slot, 0);")),
        new("failed-flush-ignored", "a failed flush counts as done",
            new SourceEdit(Scheduler, "void End(int", "errno < 0 ?", "errno < 0 && attempt.Whole.Verb != BlockVerb.Flush ?")),

        // Rules 1 to 3.
        new("claim-with-the-scratch", "the state byte says valid in the same write as the data",
            new SourceEdit(Head, "WriteScratch(", "WritePage0();", "_arena[_image][Layout.StateOffset] = 2; WritePage0();")),
        new("claim-before-the-scratch", "page 0 says valid and is flushed, then the slots are written",
            new SourceEdit(Head, "WriteScratch(", "WritePage0();", "_arena[_image][Layout.StateOffset] = 2; WritePage0(); yield return "
                + "_transfers; Flush(); yield return _transfers; Page0IsDurable();")),
        new("long-lists-written-with-the-claim", "the entries of a long window are written together with its claim, in one piece",
            new SourceEdit(Head, "WriteScratch(", "WritePage0();", "if (Layout.EntryOffset(entries + 1) <= 512) WritePage0();"))
        { Step = Battery.LongLists },
        new("scratch-written-while-a-window-is-valid",
            "the scratch of the second window is written while the claim of the first is on the medium",
            new SourceEdit(Head, " Commit()", "Flush();", "if (State == 2 || Count >= 4) Flush();")) { WithoutAssertion = true },
        new("window-stays-claimed", "the count moves on and the state byte stays valid",
            new SourceEdit(Protocols, " WriteWindow(int", "metadata.State = ScratchLayout.Invalid;", "")),
        new("replace-exempt-from-rule-1", "a Replace or Zero overwrites data that ops after the count still read", new SourceEdit(Plan,
            "int PlainRun(", "safeFroms[position] <= durable", "(safeFroms[position] <= durable || !this[position].IsOrdered)"),
            new SourceEdit(Rules, "WritePermission MayWrite(", "if (batch.SafeFrom > marks.Released)", "if (batch.SafeFrom > plan.Count)")),
        new("replace-exempt-from-rule-1-unasserted", "the same, and the batch ignores the op's limit", new SourceEdit(Plan, "int PlainRun(",
            "safeFroms[position] <= durable", "(safeFroms[position] <= durable || !this[position].IsOrdered)"), new SourceEdit(Filler,
                "bool TryAdd(", "batch.TryAdd(plan.SafeFrom(_position))",
                "batch.TryAdd(plan[_position].IsOrdered ? plan.SafeFrom(_position) : 0)")) { WithoutAssertion = true },
        new("limit-off-by-one", "an op overwrites data that the op at the count still reads",
            new SourceEdit(Plan, "int PlainRun(", "safeFroms[position] <= durable", "safeFroms[position] <= durable + 1"),
            new SourceEdit(Rules,
                "WritePermission MayWrite(", "if (batch.SafeFrom > marks.Released)", "if (batch.SafeFrom > marks.Durable + 1)")),
        new("limit-off-by-one-unasserted", "the same, and the assertion is off by one as well",
            new SourceEdit(Plan, "int PlainRun(", "safeFroms[position] <= durable", "safeFroms[position] <= durable + 1"),
            new SourceEdit(Plan, "int SafeFrom(", "SafeFroms[position]", "SafeFroms[position] - 1")) { WithoutAssertion = true },
        new("rule-1-by-what-is-written", "the limit is compared with the written count, not the durable one", new SourceEdit(Rules,
            "WritePermission MayWrite(", "if (batch.SafeFrom > marks.Released)", "if (batch.SafeFrom > marks.Written)")),
        new("rule-1-by-what-is-written-unasserted", "the same, and the assertion compares likewise", new SourceEdit(Rules,
            "WritePermission MayWrite(", "if (batch.SafeFrom > marks.Released)", "if (batch.SafeFrom > marks.Written)"),
            new SourceEdit(Rules, "void CheckRule1(", "batch.SafeFrom > marks.Released", "batch.SafeFrom > marks.Written"))
        {
            WithoutAssertion = true,
        },
        new("checkpoint-counts-what-came-after-its-flush", "a checkpoint also counts writes that ended during its flush of Base",
            new SourceEdit(Protocols, "> Checkpoint()", "metadata.Count = to;", "metadata.Count = to = marks.Written;")),
        new("batch-counts-as-written-when-it-is-begun", "a batch is retired while its writes are in flight",
            new SourceEdit(Loop, "bool Retire()", "Phase: BatchPhase.Written,", "Phase: BatchPhase.Written or BatchPhase.Writing,")),
        new("stops-with-requests-in-flight", "an error ends the run before the requests in flight are reaped",
            new SourceEdit(Engine, "MergeResult Run(", "_pipeline.Abandon();", "")),
        new("window-shorter-than-W", "a window leaves the last op for the next one",
            new SourceEdit(Plan, "int WindowAt(", "from + Window :", "from + Window - 1 :")),
        new("window-goes-on-after-a-replace", "a window continues after a Replace",
            new SourceEdit(Plan, "int WindowAt(", "&& this[position].IsOrdered", "")),
        new("entries-off-by-one", "entry i names the block of op i + 1",
            new SourceEdit(Head, "void SetEntries(", "? blocks[i] :", "? blocks[Math.Min(i + 1, blocks.Length - 1)] :")),
        new("entries-without-terminator", "the list of entries has no terminator",
            new SourceEdit(Head, "void SetEntries(", "i <= blocks.Length", "i < blocks.Length")),
        new("entry-points-at-the-wrong-slot", "entry i points at slot i + 1",
            new SourceEdit(Head, "void SetEntries(", "(ulong)Layout.SlotOffset(i)", "(ulong)Layout.SlotOffset(i + 1)")),
        new("wrong-slot", "the first two slots of a window are swapped", new SourceEdit(Head, "Slice Slot(",
            "Layout.SlotOffset(index)", "Layout.SlotOffset(index == 0 && Slots > 1 ? 1 : index == 1 ? 0 : index)")),
        new("last-slot-unwritten", "the last page that slots occupy is not written",
            new SourceEdit(Head, "void WriteSlots(", "(Layout.SlotOffset(entries) + Page - 1) & -Page",
                "((Layout.SlotOffset(entries) + Page - 1) & -Page) - Page")),
        new("unsafe-op-unmarked-unasserted", "an Xor in place without scratch does not change the magic first",
            new SourceEdit(Protocols, "> WriteUnsafe(", "metadata.Magic = CowHeader.UnsafeMagic;", ""),
            new SourceEdit(Rules, "void CheckRule1(", "&& metadata.Magic == CowHeader.UnsafeMagic", "")) { WithoutAssertion = true },

        // Readers.
        new("window-written-with-readers-inside", "a window overwrites data that readers from before its publication still read",
            new SourceEdit(Protocols, "> Journal(", "while (!setup.Readers.IsDone) yield return setup.Readers;", "")),
        new("window-memory-reused-with-readers-inside", "the next window reuses memory that readers still read",
            new SourceEdit(Loop, "bool BeginProtocol(", "if (_marks.Released < _marks.Durable) return false;", ""),
            new SourceEdit(Rules, "void CheckRule3(", "|| marks.Released != marks.Durable", "")) { WithoutAssertion = true },
        new("limit-by-what-is-durable", "an op overwrites the source of a counted op that readers still read", new SourceEdit(Rules,
            "WritePermission MayWrite(", "if (batch.SafeFrom > marks.Released)", "if (batch.SafeFrom > marks.Durable)")),
        new("limit-by-what-is-durable-unasserted", "the same, and the assertion compares likewise", new SourceEdit(Rules,
            "WritePermission MayWrite(", "if (batch.SafeFrom > marks.Released)", "if (batch.SafeFrom > marks.Durable)"),
            new SourceEdit(Rules, "void CheckRule1(", "batch.SafeFrom > marks.Released", "batch.SafeFrom > marks.Durable"))
        {
            WithoutAssertion = true,
        },
        new("published-with-readers-inside", "locations are published while readers from before the previous publication are inside",
            new SourceEdit(Protocols, "bool FollowCount()", "|| !setup.Readers.IsDone", "")),
        new("count-published-before-it-is-durable", "readers are sent to Base at the beginning of the checkpoint",
            new SourceEdit(Protocols, "> Checkpoint()", "checkpoints.Begin();",
                "checkpoints.Begin(); if (marks.Released == marks.Durable) setup.Readers.Publish(new OpLocations(to, 0));")),
        new("window-published-before-it-is-durable", "readers are sent to a window that is not claimed yet",
            new SourceEdit(Protocols, "> Journal(", "metadata.State = ScratchLayout.Valid;", "setup.Readers.Publish(new "
                + "OpLocations(marks.Durable, window)); metadata.State = ScratchLayout.Valid;"), new SourceEdit(Protocols, "> Journal(",
                "setup.Readers.Publish(new OpLocations(marks.Durable, window));\n        running.SwitchTo", "running.SwitchTo")),
        new("left-window-not-published", "after a crash, readers read sources that the window overwrites",
            new SourceEdit(Engine, "RecoveredWindow Prepare()", "left.IsStale ? 0 : left.Entries", "0")),
        new("count-and-window-in-two-words", "a reader may get a count together with the window of another count", new SourceEdit(Gate,
            "void Publish(", "Volatile.Write(ref _locations, ((long)locations.Counted << 32) | (uint)locations.Window);",
            "Volatile.Write(ref _locations, ((long)locations.Counted << 32) | (uint)_locations); Interleave?.Invoke(); Volatile.Write(ref "
            + "_locations, ((long)locations.Counted << 32) | (uint)locations.Window);")),
        new("enter-without-second-look", "a reader may enter under an epoch that the merge no longer checks",
            new SourceEdit(Gate, "int Enter()", "if (Volatile.Read(ref _epoch) == epoch) return epoch;", "return epoch;")),
        new("leave-without-signal", "the last reader that leaves does not wake the merge",
            new SourceEdit(Gate, "void Leave(int", "_wakeUp?.Signal();", "_ = _wakeUp;")),
        new("reader-leaves-before-its-reads-ended", "a read leaves the gate as soon as its requests are issued",
            new SourceEdit(Read, "void BeginRound()", "Issue();", "Issue(); Leave();"),
            new SourceEdit(Read, "void EndRound()", "Leave();", "")),
        new("window-forgotten-by-readers", "a read takes an op of the window from its source",
            new SourceEdit(Read, "void Plan(", "position - locations.Counted < locations.Window", "position < 0")),
        new("unit-read-from-its-beginning", "a read of the middle of a unit returns the unit's beginning",
            new SourceEdit(Read, "int Decode(", "unit.Slice(item.From, target.Length)", "unit[..target.Length]")),
        new("locations-read-before-entering", "a reader looks up the locations before it enters the gate",
            new SourceEdit(Read, "void BeginRound()", "_pass =", "OpLocations before = _view.Gate.Locations; _pass ="),
            new SourceEdit(Read, "void BeginRound()", "Plan(_view.Gate.Locations);", "Plan(before);")) { Step = Battery.Entering },
        new("locations-of-the-first-round-kept", "a long read uses the locations of its first round in all rounds",
            new SourceEdit(Read, "", "private bool _ended;", "private bool _ended; private OpLocations _now;"),
            new SourceEdit(Read, "void BeginRound()", "Plan(_view.Gate.Locations)",
                "if (_planned == 0) _now = _view.Gate.Locations; Plan(_now)"))
        { Step = Battery.Entering },

        // Recovery.
        new("journal-not-replayed", "the start ignores a valid window", new SourceEdit(Left, "RecoveredWindow Read(",
            "if (metadata.State != ScratchLayout.Valid) return default;", "if (metadata.State < 3) return default;")),
        new("journal-not-replayed-unasserted", "the same, and nothing is asserted before scratch is written",
            new SourceEdit(Left, "RecoveredWindow Read(", "if (metadata.State != ScratchLayout.Valid) return default;",
                "if (metadata.State < 3) return default;"),
            new SourceEdit(Head, "WriteScratch(", "DurableState != ScratchLayout.Valid", "true")) { WithoutAssertion = true },
        new("torn-scratch-trusted", "entries are not compared with the ops after the count",
            new SourceEdit(Left, "RecoveredWindow Read(", "&& differs == entries", "")),
        new("entry-offsets-trusted", "only the block of an entry is compared", new SourceEdit(Left, "int FirstDifference(",
            "metadata.Entry(i) != (op.NewBlock, (ulong)metadata.Layout.SlotOffset(i))", "metadata.Entry(i).NewBlock != op.NewBlock")),
        new("stale-window-replayed", "a window that is already counted is written again", new SourceEdit(Left, "RecoveredWindow Read(",
            "return new RecoveredWindow(entries, true);", "return new RecoveredWindow(entries, false);")),
        new("stale-window-left-claimed", "a window that is already counted stays marked valid",
            new SourceEdit(Protocols, "> Recover(", ForgetWindow, "")) { Step = Battery.Scratched },
        new("stale-window-left-claimed-unasserted", "the same, and nothing is asserted before scratch is written",
            new SourceEdit(Protocols, "> Recover(", ForgetWindow, ""),
            new SourceEdit(Head, "WriteScratch(", "DurableState != ScratchLayout.Valid", "true"))
        { Step = Battery.Scratched, WithoutAssertion = true },
        new("stale-window-checked-by-its-first-entry", "of the entries of a counted window only the first is compared",
            new SourceEdit(Left, "RecoveredWindow Read(", "count - entries, entries) == entries", "count - entries, 1) == 1"))
        { Step = Battery.Scratched },
        new("finished-merge-unflushed", "a merge that finds all ops counted flushes nothing",
            new SourceEdit(Engine, "MergeResult Run(", "_loop.Start(", "if (_marks.Durable == _plan.Count) return Result; _loop.Start("))
        { Step = Battery.Done },
        new("finished-merge-leaves-base-unflushed", "a merge that finds all ops counted flushes the COW alone",
            new SourceEdit(Protocols, "> Recover(", "target.BeginFlush();", "if (marks.Durable < plan.Count) target.BeginFlush();"))
        { Step = Battery.Done },
        new("empty-window-trusted", "a valid state byte without entries is treated as no window",
            new SourceEdit(Left, "RecoveredWindow Read(", "int differs", "if (entries == 0) return default; int differs")),
        new("reads-ignore-the-window", "reads of the merged image ignore the window in scratch",
            new SourceEdit(Image, "", "_windowEnd = _count + left.Entries;", "_windowEnd = _count;")),
        new("reads-repeat-counted-ops", "reads of the merged image use sources that are already overwritten",
            new SourceEdit(Image, "", "if (position < _count)", "if (false)"),
            new SourceEdit(Image, "", "if (position < _windowEnd)", "if (position >= _count && position < _windowEnd)")),

        // A source that overlaps Base.
        new("overlap-ignored", "a source that shares storage with Base is treated as Base itself", new SourceEdit(Plan,
            "public MergePlan(", "if (overlap is { } ranges)", "if (overlap is { Length: < 0 } ranges)")) { Step = Battery.Overlaps },
        new("overlap-first-block-only", "if a source block covers two blocks of Base, only the first is checked",
            new SourceEdit(Order, "void CheckOverlap(", "block <= last;", "block <= Math.Min(last, part.BaseOffset / CowOp.BlockSize);"))
        {
            Step = Battery.Overlaps,
        },
        new("overlap-first-range-only", "of several ranges that an op reads, one is checked", new SourceEdit(Order, "void CheckOverlap(",
            "ref cursor, out SharedRange part);)", "ref cursor, out SharedRange part) && cursor < 2;)")) { Step = Battery.Overlaps },
        new("overlap-later-reader-forgotten", "an op may overwrite data that a later op reads",
            new SourceEdit(Order, "void CheckOverlap(", "limits[writer] = Math.Max(limits[writer], position + 1);",
                "limits[writer] = Math.Max(limits[writer], Math.Min(writer, position) + 1);")) { Step = Battery.Overlaps },
        new("overlap-earlier-reader-forgotten", "an op does not wait for an earlier op that reads the data it overwrites",
            new SourceEdit(Order, "void CheckOverlap(", "writer >= 0 &&", "writer >= position &&")) { Step = Battery.Overlaps },
        new("overlap-copy-onto-itself-by-number", "a copy from the same block number is skipped, even if it is other storage",
            new SourceEdit(Order, "bool IsNoOp(in CowOp op, StorageMap map)",
                "map.LiesExactlyAt(op.SourceByte, CowOp.BlockSize, (long)op.NewBlock * CowOp.BlockSize)", "op.Source == op.NewBlock"))
        {
            Step = Battery.Overlaps,
        },
        new("overlap-range-of-one-sector-too-few", "the end of a shared range is looked up a sector too early", new SourceEdit(Map,
            "int FirstThatEndsAfter(", "_ends[middle] <= offset", "_ends[middle] <= offset + 512")) { Step = Battery.Overlaps },
        new("overlap-window-placed-anywhere", "a window begins without a check of its end, which may lie between a writer and its reader",
            new SourceEdit(Plan, "MergeStep Next(", "if (!IsSafe(written + window)) window = 0;", "")) { Step = Battery.Overlaps },
        new("overlap-window-placed-anywhere-unasserted", "the same, and nothing is asserted before the window is written",
            new SourceEdit(Plan, "MergeStep Next(", "if (!IsSafe(written + window)) window = 0;", ""),
            new SourceEdit(Rules, "void PermitWindow(", "if (!plan.IsSafe(end))", "if (end < 0)"), new SourceEdit(Rules, "void CheckRule1(",
                "&& batch.SafeFrom <= _journaledTo &&", "&&")) { Step = Battery.Overlaps, WithoutAssertion = true },
        new("overlap-plain-run-past-the-window", "ops are written and counted up to the middle of a run that needs a window, which then "
            + "begins too late", new SourceEdit(Plan, "int PlainRun(", " && IsSafe(position + 1)", "")) { Step = Battery.Overlaps },
        new("overlap-windows-as-long-as-needed", "the plan assumes windows as long as their run of ordered ops", new SourceEdit(Plan,
            "void FindSafeCounts()", "Math.Min(Window, endOfRun - at)", "Window == 0 ? 0 : endOfRun - at")) { Step = Battery.Overlaps },
        new("overlap-windows-across-a-replace", "the plan assumes that a window continues after a Replace",
            new SourceEdit(Plan, "void FindSafeCounts()", "if (!this[at].IsOrdered) endOfRun = at;", "")) { Step = Battery.Overlaps },
        new("overlap-never-journaled", "a merge that a window could protect is refused", new SourceEdit(Plan, "void FindSafeCounts()",
            "window > 0 && counts[at + window] == Safe", "false")) { Step = Battery.Overlaps },
        new("overlap-not-refused", "a merge begins although no order makes it safe",
            new SourceEdit(Engine, "MergeResult Run(", "if (_setup.Overlap is not null) RefuseOverlap();", "")) { Step = Battery.Overlaps },
        new("overlap-refused-too-late", "the refusal comes only after the start has written the metadata image back",
            new SourceEdit(Engine, "MergeResult Run(", "if (_setup.Overlap is not null) RefuseOverlap();", ""),
            new SourceEdit(Engine, "MergeResult Run(", "_loop.Run();", "if (_setup.Overlap is not null) RefuseOverlap(); _loop.Run();"),
            new SourceEdit(Loop, "void Start(", "_protocols.BeginRecovery(left);", "{ _protocols.BeginRecovery(left); while "
                + "(!_rules.IsRecovered) { _running.Continue(); if (!_rules.IsRecovered) _pipeline.Wait(); } }"))
        {
            Step = Battery.Overlaps,
        },
        new("overlap-merges-on-with-sources-gone", "a merge continues from a count between a writer and its reader",
            new SourceEdit(Plan, "private void CheckSources(", "Counts[count] != Gone", "Counts[count] <= Safe"), new SourceEdit(Plan,
                "void CheckMergeable(", "if (IsSafe(count)) return;", "if (Counts[count] != Stuck) return;")) { Step = Battery.Overlaps },
        new("overlap-window-that-was-left-not-looked-at", "a recovered window is replayed although it overwrites what later ops read",
            new SourceEdit(Plan, "public void CheckSources(", "if (!left.IsStale) CheckSources(count + left.Entries, setup);", ""))
        {
            Step = Battery.Overlaps,
        },
        new("overlap-reads-sources-that-are-gone", "an image is read although a counted op has overwritten data that another op needs",
            new SourceEdit(Image, "private MergedImage(", "plan.CheckSources(_count, left, setup);", "")) { Step = Battery.Overlaps },

        // Memory.
        new("rooms-of-blocks", "a buffer is not a whole number of pages, so part of it cannot be given back", new SourceEdit(
            Line, "int Buffers) Divide(", "? page : Arena.Alignment", "? Arena.Alignment : Arena.Alignment")) { Step = Battery.Pages },
        new("forgets-a-page-of-the-next-room", "a buffer that is given back also frees a page of the next one", new SourceEdit(Memory,
            "void Forget(", "slice.Length)", "Math.Min(slice.Length + System.Page, Size - slice.Offset))")) { Step = Battery.Pages },

        // Single requests.
        new("short-read-accepted", "a short read counts as a whole one", new SourceEdit(Scheduler, "void Progress(",
            "if (result < 0) { End(slot, result); return; }", "if (result < 0) { End(slot, result); return; } if (result > 0 && "
                + "attempt.Whole.Verb == BlockVerb.Read) { End(slot, 0); return; }")),
        new("short-write-accepted", "a short write counts as a whole one", new SourceEdit(Scheduler, "void Progress(",
            "if (result < 0) { End(slot, result); return; }", "if (result < 0) { End(slot, result); return; } if (result > 0 && "
                + "attempt.Whole.Verb == BlockVerb.Write) { End(slot, 0); return; }")),
        new("nothing-accepted", "a request that moves nothing counts as done", new SourceEdit(Scheduler, "void Progress(",
            "if (result == 0 || result > remaining) { End(slot, -Errno.EIO); return; }", "if (result == 0) { End(slot, 0); return; }")),
        new("short-transfer-goes-on-at-its-byte", "a short transfer continues in the middle of a granule",
            new SourceEdit(Scheduler, "void Progress(", "result - (result % _granules[attempt.Whole.Device])", "result")),
        new("short-transfer-skips-a-byte", "a short transfer skips a byte",
            new SourceEdit(Scheduler, "void Progress(", "attempt.Done += whole;", "attempt.Done += Math.Min(whole + 1, remaining - 1);")),
        new("plain-call-repeats-the-whole", "the synchronous call after a short transfer repeats the whole transfer",
            new SourceEdit(Scheduler, "int PerformPlainly(", "= Rest(slot);", "= _attempts[slot].Whole with { Tag = (uint)slot };"))
        { Step = Battery.Cancelled },
        new("error-of-a-write-ignored", "a failed write counts as done",
            new SourceEdit(Scheduler, "void End(int", "errno < 0 ?", "errno < 0 && attempt.Whole.Verb != BlockVerb.Write ?")),
        new("error-of-a-read-ignored", "a failed read counts as done",
            new SourceEdit(Scheduler, "void End(int", "errno < 0 ?", "errno < 0 && attempt.Whole.Verb != BlockVerb.Read ?")),
        new("EAGAIN-for-ever", "a request that ends with EAGAIN is repeated for ever",
            new SourceEdit(Scheduler, "void Progress(", " && ++attempt.Tries <= Retry.AttemptsBeforeSync", "")),
        new("EAGAIN-counts-as-done", "a request that ends with EAGAIN counts as done", new SourceEdit(Scheduler, "void Progress(",
            "<= Retry.AttemptsBeforeSync) { Ask(slot); return; }", "<= Retry.AttemptsBeforeSync) { End(slot, 0); return; }")),
        new("ECANCELED-is-final", "a cancelled request is not repeated by a synchronous call",
            new SourceEdit(Scheduler, "void Progress(", " or -Errno.ECANCELED) result", ") result")),
        new("first-failure-forgotten", "a drain forgets a failure after a later successful transfer",
            new SourceEdit(Scheduler, "void End(TransferFailure?", "_failure ??= failure;", "_failure = failure;")),
        new("wrong-errno", "the message names another errno than the device's",
            new SourceEdit(Scheduler, "void End(int", "attempt.Whole, errno,", "attempt.Whole, -Errno.EINVAL,")),
        new("worker-error-ignored", "the output of a failed worker is written",
            new SourceEdit(Batch, "void JobEnded(", "_jobFailed |=", "_ =")),

        // Guarantees outside the engine: unit tests detect these.
        new("hand-over-unflushed", "the mapped device is put on a base whose count may go back in a power cut",
            new SourceEdit(Snapshots, "ExitCode HandOver(", "FinishedMerge.Flush(target, Devices.Devices[0])",
                "default((BlockDevice, int)?)"))
        { Tests = s_swap },
        new("hand-over-flushes-base-only", "the hand-over flushes the base and not the COW",
            new SourceEdit(Finished, "? Flush(", "[target, cow]", "[target]"))
        { Tests = s_swap },
        new("hand-over-flushes-cow-only", "the hand-over flushes the COW and not the base",
            new SourceEdit(Finished, "? Flush(", "[target, cow]", "[cow]"))
        { Tests = s_swap },
        new("hand-over-goes-on-after-a-failed-flush", "the hand-over continues after a failed flush of base or COW",
            new SourceEdit(Finished, "? Flush(", "return (device, flushed);", "continue;")) { Tests = s_swap },
        new("opened-as-merged-unflushed", "a snapshot that finds all ops counted reports that it is merged without a flush",
            new SourceEdit(Snapshots, "public void Open()", "result.AlreadyMerged && !handedOver ? MakeMergedDurable()",
                "result.OpsTotal < 0 ? MakeMergedDurable()"))
        { Tests = s_swap },
        new("mark-unflushed", "a marker is made without a flush", new SourceEdit(Marker, "int Make(", MarkerFlush, ""))
        {
            Tests = s_durableMark,
        },
        new("mark-folder-unflushed", "a marker is made without a flush of its folder",
            new SourceEdit(Marker, "int Make(", MarkerFolderFlush, "")) { Tests = s_durableMark },
        new("mark-folder-unflushed-when-it-was-there", "the folder is not flushed if the marker already exists",
            new SourceEdit(Marker, "int Make(", "if (result >= 0)",
                "if (result >= 0 && there.Kind == MarkerKind.None)")) { Tests = s_durableMark },
        new("mark-content-unflushed", "a new marker gets its name without a flush of its content",
            new SourceEdit(Marker, "int Make(", MarkerFlush,
                "if (result == 0 && !isNew) result = FileFlush.Of(fd);")) { Tests = s_newMarker },
        new("mark-named-before-its-content", "a new marker with content gets its name before its content is flushed",
            new SourceEdit(Marker, "int Make(", MarkerFlush, MarkerName + MarkerFlush),
            new SourceEdit(Marker, "int Make(", "fd);\n        " + MarkerName, "fd);"))
        { Tests = s_newMarker },
        new("mark-begun-unflushed", "a marker that says that the merge has begun is not flushed",
            new SourceEdit(Marker, "void Begin(", MarkerFlush, "")) { Tests = s_durableMark },
        new("mark-removed-unflushed", "a marker is removed without a flush of its folder",
            new SourceEdit(Marker, "void Remove(", "_ = FolderFlush.Of(cow, fd >= 0 ? fd : newFd, out _)", "_ = fd"))
        { Tests = s_durableMark },
        new("magic-before-the-data-is-durable", "the magic of a COW on a device is written before its data is flushed",
            new SourceEdit(Magic, "void Release()", "output.Flush();\n        output.Write(", "output.Write(")) { Tests = s_durable },
        new("magic-unflushed", "the magic of a COW on a device is not flushed",
            new SourceEdit(Magic, "void Release()", "_magic);\n        output.Flush();", "_magic);")) { Tests = s_durable },
        new("magic-withdrawn-unflushed", "a new COW is written to a device on which the old magic may still be",
            new SourceEdit(Magic, "void Withdraw()", "output.Flush();", "")) { Tests = s_durable },
        new("magic-not-withdrawn", "a new COW is written to a device under the old magic",
            new SourceEdit(Magic, "void Write(", "if (!_withdrawn) Withdraw();", "")) { Tests = s_durable },
        new("image-unflushed", "an image gets its name before its data is flushed",
            new SourceEdit(ImageFile, "void Finish(", "Check(FileFlush.Of(Fd), \"flushing\");", "")) { Tests = s_durable },
        new("output-name-unflushed", "create and extract end before the name of their output is durable",
            new SourceEdit(TemporaryName, "int Publish(", "result = FolderFlush.Of(Target, fd, out int unsupported);",
                "int unsupported = 0;"))
        { Tests = s_durable },
        new("boot-flushes-base-only", "boot puts a mapped device on a base whose count may go back in a power cut",
            new SourceEdit(BootFile, "void Flush(", "FinishedMerge.Flush(target, cow)", "FinishedMerge.Flush(target, target)"))
        { Tests = new("Boot", "BootSystemTests") },
        new("boot-flushes-cow-only", "boot puts a mapped device on a base that may not be on the disk",
            new SourceEdit(BootFile, "void Flush(", "FinishedMerge.Flush(target, cow)", "FinishedMerge.Flush(cow, cow)"))
        { Tests = new("Boot", "BootSystemTests") },
        new("boot-unflushed", "boot puts a mapped device on a merged base without a flush",
            new SourceEdit("Boot/BootSequence.cs", "", "if (devices.State.Kind == CowKind.Merged) system.Flush(row);", ""))
        { Tests = new("Boot", "BootTests.Every_decision") },
        new("stream-unflushed", "extract to a file on standard output ends with 0 without a flush",
            new SourceEdit("Images/StreamImage.cs", "void Finish()", "IsStored ? FileFlush.Of(fd) : 0", "0")) { Tests = s_durable },
        new("cow-unflushed", "a COW gets its name before its data is flushed",
            new SourceEdit(CowFlush, "void Flush()", "FileFlush.OfData(_device.Fd)", "0")) { Tests = s_durable },
        new("cow-header-before-its-ops-are-durable", "the header of a COW of format 3 counts ops that may not be on the disk",
            new SourceEdit(WriterV3, "void Finish(", "_output.Flush();", "")) { Tests = s_durable },
        new("cow-footer-before-its-ops-are-durable", "a COW of format 2 gets its footer before its ops are flushed",
            new SourceEdit(WriterV2, "void Finish(", "ZeroSlots();\n        Send();\n        _output.Flush();",
                "ZeroSlots();\n        Send();")) { Tests = s_durable },
        new("finished-before-unflushed", "an already finished merge is reported without a flush",
            new SourceEdit(Finished, FinishedBefore, "if (Flush(target, input.Device) != null) return null;", ""))
        { Tests = s_finished },
        new("finished-before-mark-goes-first", "the marker of an already finished merge is removed before base and COW are flushed",
            new SourceEdit(Finished, FinishedBefore, "if (Flush(target, input.Device)", "marker.End(); if (Flush(target, input.Device)"))
        { Tests = s_finished },
        new("finished-before-mark-stays", "the marker of an already finished merge stays",
            new SourceEdit(Finished, FinishedBefore, "marker.End();", "")) { Tests = s_finished },
        new("mark-without-its-name-stays", "the unnamed new marker of a killed process stays after the merge",
            new SourceEdit(Marker, "void Remove(", "newFd >= 0 && Libc.Unlink(NewPathOf(cow)) == 0", "false"))
        { Tests = new("Merge", "MergeMarkerCallTests.A_new_mark_that") },
        new("opened-as-merged-mark-goes-unflushed", "a snapshot that finds all ops counted removes the marker without a flush",
            new SourceEdit(Life, "void ConfirmMerged()", "engine.MakeMergedDurable();", "")) { Tests = s_swap },
        new("opened-as-merged-mark-stays", "a snapshot that finds all ops counted leaves the marker",
            new SourceEdit(Life, "void ConfirmMerged()", "Done();", "")) { Tests = s_observers },
        new("served-merge-mark-stays", "a finished merge leaves the marker, whether served or from the command line",
            new SourceEdit(Life, "MergeResult Run(", "Done();", "")) { Tests = s_observers },
        new("served-mark-unchecked", "a snapshot is opened beside the marker of another COW",
            new SourceEdit(Snapshots, "public void Open()", "_merge.Check();", ""),
            new SourceEdit(Snapshots, "ExitCode Merge(", "Lifecycle.Run(share)", "Engine.Run(share)"))
        { Tests = s_observers },
        new("observer-ends-the-merge", "an observer that throws ends the merge",
            new SourceEdit(Guard, "void Progress(", "Report(e);", "Report(e); throw;")) { Tests = s_observers },
        new("observer-ends-the-check", "an observer that throws ends the check of the payloads",
            new SourceEdit(Guard, "void Checking(", "Report(e);", "Report(e); throw;")) { Tests = s_observers },
        new("observer-decides-the-state", "a merge fails if its result cannot be reported",
            new SourceEdit(Snapshots, "ExitCode Merge(", "_guard?.Tell(() => _options.Observer!.Merged(this, result));",
                "_options.Observer?.Merged(this, result);"))
        { Tests = s_observers },
        new("observer-is-reported-every-time", "an observer that throws is reported at each of its calls",
            new SourceEdit(Guard, "void Report(", "if (_failed) return;", ""),
            new SourceEdit(Guard, "void Progress(", "if (_failed) return;", ""))
        { Tests = s_observers },
        new("report-ends-the-merge", "a report about an observer that throws ends the merge",
            new SourceEdit(Guard, "void Report(", "catch (Exception)", "catch (TimeoutException)")) { Tests = s_observers },
        new("client-ends-its-snapshot", "an exception from a client's notification ends its snapshot",
            new SourceEdit("Control/SnapshotSet.cs", "void Tell(", "call();\n        }\n        catch (Exception e)",
                "call();\n        }\n        catch (TimeoutException e)"))
        { Tests = new("Control", "ThrowingObserverTests", "path: \"daemon\"") },
        new("check-unnoted", "the progress of a server's payload check is not saved for the next server",
            new SourceEdit(Snapshots, "void IMergeObserver.Checking(", "_options.Checked?.Invoke(progress.OpsDone);",
                "")) { Tests = s_observers },
        new("hand-over-in-the-ramdisk", "the hand-over looks up its paths in the ramdisk",
            new SourceEdit(Snapshots, "ExitCode HandOver(", "_options.BeforeHandOver?.Invoke();", ""))
        { Tests = new("Control", "SnapshotTests.Hand_over_leaves") },
        new("woken-under-the-lock", "a snapshot is woken under the lock of the queue, against the lock order",
            new SourceEdit(Slots, "void WakeFirst()", "lock (_gate) next = Next;\n        next?.Wake();",
                "lock (_gate)\n        {\n            next = Next;\n            next?.Wake();\n        }"))
        { Tests = new("Control", "MergeSlotsTests") },
        new("boot-serves-unmarked", "boot starts a server that may merge without making a marker",
            new SourceEdit(BootRows, "RowResult? Serve(", MakesMark, NoMark)) { Tests = s_boot },
        new("boot-merges-unmarked", "boot starts a merge without making a marker",
            new SourceEdit(BootRows, "RowResult? MergeNow(", MakesMark, NoMark)) { Tests = s_boot },
        new("boot-merged-mark-stays", "boot leaves the marker of a row that it has merged",
            new SourceEdit(BootRows, "RowResult? MergeNow(", "if (devices.CowIsFile) MergeMarker.Remove(row.Cow);", "")) { Tests = s_boot },
        new("boot-plain-mark-stays", "boot leaves the marker of a row that was already merged",
            new SourceEdit(BootRows, "RowResult Direct(", "if (devices.State.Kind == CowKind.Merged) MergeMarker.Remove(row.Cow);",
                "")) { Tests = s_bootMerged },
        new("boot-old-mark-stays", "boot leaves the marker of a row that falls back to the old image",
            new SourceEdit(BootRows, "RowResult Fallback(", "MergeMarker.Remove(row.Cow);", "")) { Tests = s_boot },
        new("boot-result-unshown-ends-it", "boot stops serving rows after the result of one cannot be reported",
            new SourceEdit(BootRows, "void Tell(", "log.Write(", "throw; log.Write(")) { Tests = s_bootResult },
        new("finished-before-flushes-cow-only", "an already finished merge is reported after a flush of the COW alone",
            new SourceEdit(Finished, FinishedBefore, "Flush(target, input.Device)",
                "Flush(input.Device, input.Device)")) { Tests = s_finished },

        // Whole devices.
        new("phases-reversed", "partitions that grow are merged before those that shrink",
            new SourceEdit(Phases, "void Sort(", "a.Phase - b.Phase :", "b.Phase - a.Phase :")) { Step = Battery.Devices },
        new("no-flush-between-phases", "a partition that an ended process has merged is taken for durable, and the next phase begins",
            new SourceEdit(Update, "void Run()", "using IOpenMerge open =",
                "if (_partitions[i].IsComplete) continue; using IOpenMerge open =")) { Step = Battery.Devices },
        new("table-of-the-other-slot", "the partitions are those of the old slot's table",
            new SourceEdit(Tables, "Read(string? slot, IMetadataFiles", "ReadSuper(super, number,", "ReadSuper(super, 1 - number,"))
        {
            Step = Battery.Devices,
        },
        new("source-from-the-new-table", "copies read the partition as the new table has it",
            new SourceEdit(Composer, "Source(string name, SnapshotRecord", "_old.Readable(oldName)", "_current.Readable(name)"))
        {
            Step = Battery.Devices,
        },
        new("cow-begins-on-userdata", "the part of a COW on userdata stands before the part in super",
            new SourceEdit(Composer, "List<DevicePiece> Cow(", "pieces.AddRange(PiecesOfCow(_images,",
                "pieces.InsertRange(0, PiecesOfCow(_images,")) { Step = Battery.Devices },
        new("piece-off-by-a-sector", "every piece begins one sector too late", new SourceEdit(Layout, "PieceMap MapOf(",
            "piece.Start * LpGeometry.SectorBytes", "(piece.Start + 1) * LpGeometry.SectorBytes")) { Step = Battery.Devices },
        new("equal-source-shares-nothing", "a source that is the base is one that shares no storage with it",
            new SourceEdit(Layout, "MergeLayout Of(", "[merge.Cow, merge.Base], null)", "[merge.Cow, merge.Base], [])"))
        {
            Step = Battery.Devices,
        },
        new("old-partition-shares-nothing", "the old partition is one that shares no storage with the new one",
            new SourceEdit(Layout, "MergeLayout Of(", "DevicePiece.SharedBytes(merge.Source, merge.Base).ToArray()", "[]"))
        {
            Step = Battery.Devices,
        },
        new("shared-bytes-of-the-first-piece", "all pieces of the base begin where the first one does",
            new SourceEdit(Piece, "SharedBytes(", "targetAt += theirs.Sectors;", "")) { Step = Battery.Devices },
        new("cache-not-dropped", "reads through another device over the same disk may see what was there before the merge",
            new SourceEdit("Block/BlockDevice.cs", "void DropCache(", "int none = 0;", "if (fd >= 0) return; int none = 0;"))
        {
            Tests = new UnitTests("Block", "SharedCachesTests.Dropped_cache"),
        },
        new("flush-of-the-first-device-only", "of the devices that pieces lie on, only the first is flushed",
            new SourceEdit(Pieces, "bool TryQueue(", "foreach (int device in _devices[request.Device].Devices)",
                "foreach (int device in (int[])[_devices[request.Device].Devices[0]])")) { Step = Battery.Devices },
    ];

    /// <summary>The unchanged product, built in the same way: the battery must find nothing.</summary>
    public static IReadOnlyList<Sabotage> None { get; } =
    [
        new("nothing-in-Merge", "Merge is compiled unchanged", new SourceEdit(Head, "", "class MetadataImage", "class MetadataImage")),
        new("nothing-in-Cow", "Cow is compiled unchanged", new SourceEdit(Order, "", "class MergeOrder", "class MergeOrder"))
        {
            Step = Battery.Overlaps,
        },
        new("nothing-in-Serve", "Serve is compiled unchanged", new SourceEdit(Read, "", "class ViewRead", "class ViewRead")),
        new("nothing-in-Block", "Block is compiled unchanged", new SourceEdit(Scheduler, "", "class IoScheduler", "class IoScheduler")),
        new("nothing-in-Recovery", "Recovery is compiled unchanged", new SourceEdit(Update, "", "class UpdateMerge(", "class UpdateMerge("))
        {
            Step = Battery.Devices,
        },
        new("nothing-in-AndroidDevice", "AndroidDevice is compiled unchanged",
            new SourceEdit(Composer, "", "class PlanComposer", "class PlanComposer")) { Step = Battery.Devices },
        new("nothing-in-Control", "Control is compiled unchanged",
            new SourceEdit(Snapshots, "", "class Snapshot : ", "class Snapshot : ")) { Tests = s_swap },
        new("nothing-in-Images", "Images is compiled unchanged",
            new SourceEdit(Magic, "", "class DeferredMagic", "class DeferredMagic")) { Tests = s_durable },
        new("nothing-in-Boot", "Boot is compiled unchanged",
            new SourceEdit(BootFile, "", "class BootSystem(", "class BootSystem(")) { Tests = new("Boot", "BootSystemTests") },
        new("nothing-in-Merge-for-its-tests", "Merge is compiled unchanged, for its unit tests",
            new SourceEdit(Finished, "", "class FinishedMerge", "class FinishedMerge")) { Tests = s_finished },
        new("nothing-in-Cli", "Cli is compiled unchanged",
            new SourceEdit(Merge, "", "class MergeVerb", "class MergeVerb")) { Tests = new("Cli", "MergeTellingTests") },
    ];

    /// <summary>
    /// Runs each sabotage, as many at a time as the machine has processors. Each has its own folder, which is removed at the end. Calls
    /// <paramref name="done"/> under a lock.
    /// </summary>
    public static void Run(IReadOnlyCollection<Sabotage> sabotages, Action<SabotageResult> done)
    {
        string folder = Path.Combine(AppContext.BaseDirectory, $"sabotage.{Environment.ProcessId}");
        object gate = new();
        try
        {
            Parallel.ForEach(sabotages,
                new ParallelOptions { MaxDegreeOfParallelism = Math.Max(1, Environment.ProcessorCount) }, sabotage =>
                {
                    SabotageResult result;
                    try
                    {
                        result = sabotage.Run(Path.Combine(folder, sabotage.Name));
                    }
                    catch (Exception e)
                    {
                        result = new SabotageResult(sabotage.Name, null, e.Message, 0);
                    }
                    lock (gate) done(result);
                });
        }
        finally
        {
            if (Directory.Exists(folder)) Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>
    /// Prints the check that caught each sabotage. Returns 1 if one was not caught, or if the battery fails on the unchanged product.
    /// </summary>
    public static int Simulate(Budget budget)
    {
        List<Sabotage> chosen =
        [
            .. None.Concat(All).Where(sabotage => budget.Words.Contains(sabotage.Name) || budget.Words is [] or ["all"]),
        ];
        if (chosen.Count == 0)
        {
            Console.Error.WriteLine($"simulator: no sabotage is called {string.Join(' ', budget.Words)}; the names are");
            Console.Error.WriteLine($"all | {string.Join(" | ", All.Select(sabotage => sabotage.Name))}");
            return 64;
        }
        int bad = 0;
        Run(chosen, result =>
        {
            bool right = IsRight(result);
            if (!right) bad++;
            Console.WriteLine($"{(right ? "" : "UNEXPECTED: ")}{result.Name} ({result.Seconds:F1} s): {result.Line}");
        });
        Console.WriteLine($"sabotage: {chosen.Count(All.Contains)} sabotages, {bad} with unexpected results");
        return bad == 0 ? 0 : 1;
    }

    /// <summary>
    /// True if the sabotage was caught, and not by an assertion that it removes; for the unchanged product, true if nothing was caught.
    /// </summary>
    public static bool IsRight(SabotageResult result)
    {
        if (None.Any(sabotage => sabotage.Name == result.Name))
        {
            bool passed = result.Line == Sabotage.UnitTestsPass || result.Line.StartsWith("battery:", StringComparison.Ordinal);
            return passed && result.Check is null;
        }
        return result.Check is not null
            && !(All.First(sabotage => sabotage.Name == result.Name).WithoutAssertion && result.Check == Sabotage.Assertion);
    }
}
