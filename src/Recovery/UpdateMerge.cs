using System.Collections.Generic;
using Snapuserd.AndroidDevice;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;

namespace Snapuserd.Recovery;

/// <summary>Progress of one partition: ops of its merge order that are durably merged, and how many there are.</summary>
public readonly record struct PartitionProgress(string Name, int Phase, int OpsDone, int OpsTotal, long BytesDone, long BytesTotal)
{
    /// <summary>All of its ops are merged.</summary>
    public bool IsComplete => OpsDone == OpsTotal;
}

/// <summary>Receives the progress of the merge of an update, on its thread. Must not block.</summary>
public interface IUpdateObserver
{
    /// <summary>The payloads of the COW of <paramref name="name"/> decode up to here.</summary>
    void Checking(string name, in MergeProgress progress);

    /// <summary>The partition <paramref name="name"/> is being merged; <paramref name="all"/> counts all partitions together.</summary>
    void Merging(string name, in MergeProgress all);
}

/// <summary>
/// The merge of a whole update (android-device §10): every COW is read and checked before the first write to any base; then the partitions
/// are merged one after the other, in the order of the plan. A merge ends when all of its ops are durable on the base and counted, so the
/// first phase is durable before the second begins. Interrupted anywhere, the same again continues.
/// </summary>
public sealed class UpdateMerge(UpdatePlan plan, IUpdateDevices devices, IUpdateObserver? observer = null)
{
    private readonly List<PartitionProgress> _partitions = [];

    /// <summary>The partitions in the order of the plan; known after <see cref="Read"/>.</summary>
    public IReadOnlyList<PartitionProgress> Partitions => _partitions;

    /// <summary>Every partition is merged.</summary>
    public bool IsComplete => _partitions.TrueForAll(partition => partition.IsComplete);

    /// <summary>
    /// Reads every COW without writing anything: header, ops, and whether they fit base and source. Exit code 65 if one is damaged or
    /// contradicts the state files, and those of <see cref="MergeEngine.Open(MergeSetup)"/>.
    /// </summary>
    public void Read()
    {
        _partitions.Clear();
        foreach (CompleteCow cow in plan.MustBeComplete) CheckComplete(cow);
        foreach (PlannedMerge merge in plan.Merges)
        {
            using IOpenMerge open = devices.Open(merge);
            using MergeEngine engine = MergeEngine.Open(open.Setup);
            MergeProgress progress = engine.Progress;
            _partitions.Add(new PartitionProgress(merge.Name, merge.Phase, progress.OpsDone, progress.OpsTotal, progress.BytesDone,
                progress.BytesTotal));
        }
        CheckPhases();
    }

    /// <summary>
    /// Decodes every payload that is not merged yet, if a merge has still to begin: what is damaged must be found while the old image of
    /// that partition is whole. Exit code 65 for a damaged payload.
    /// </summary>
    public void CheckPayloads()
    {
        if (!_partitions.Exists(partition => partition.OpsDone == 0 && partition.OpsTotal > 0)) return;
        for (int i = 0; i < _partitions.Count; i++)
        {
            if (_partitions[i].IsComplete) continue;
            string name = _partitions[i].Name;
            using IOpenMerge open = devices.Open(plan.Merges[i]);
            CheckObserver? watcher = observer == null ? null : new CheckObserver(observer, name);
            using CowFile cow = PayloadCheck.Run(open.Setup with { Observer = watcher });
        }
    }

    /// <summary>
    /// Merges what is left, after <see cref="Read"/> and <see cref="CheckPayloads"/>. Exit codes of <see cref="MergeEngine.Run"/>; 75 if
    /// interrupted.
    /// </summary>
    public void Run()
    {
        for (int i = 0; i < _partitions.Count; i++)
        {
            using IOpenMerge open = devices.Open(plan.Merges[i]);
            MergeSetup setup = open.Setup with
            {
                Options = open.Setup.Options with { VerifyFirst = false },
                Observer = new MergeObserver(this, i),
            };
            using MergeLifecycle merge = MergeLifecycle.Open(setup);
            try
            {
                _ = merge.Run();
            }
            catch (SnapuserdException e) when (e.Code == ExitCode.InputOutput)
            {
                open.TakeErrors();
                throw;
            }
            finally
            {
                _partitions[i] = _partitions[i] with { OpsDone = merge.Engine.DurableCount };
            }
        }
    }

    /// <summary>The progress of all partitions together.</summary>
    public MergeProgress Total
    {
        get
        {
            MergeProgress total = default;
            foreach (PartitionProgress one in _partitions)
                total = new MergeProgress(total.OpsDone + one.OpsDone, total.OpsTotal + one.OpsTotal, total.BytesDone + one.BytesDone,
                    total.BytesTotal + one.BytesTotal);
            return total;
        }
    }

    /// <summary>
    /// A partition of the second phase whose merge has begun while the first phase is not complete: it may have overwritten what the first
    /// phase has still to read.
    /// </summary>
    private void CheckPhases()
    {
        if (_partitions.Find(one => one.Phase == 1 && !one.IsComplete) is not { Name: not null } first) return;
        foreach (PartitionProgress one in _partitions)
            if (one.Phase == 2 && one.OpsDone > 0)
                throw Contradiction($"{one.OpsDone} ops of {one.Name} are merged, but {first.Name}, which has to be merged before, "
                    + $"stands at op {first.OpsDone} of {first.OpsTotal}");
    }

    private void CheckComplete(CompleteCow complete)
    {
        using IOpenMerge open = devices.OpenCow(complete.Name, complete.Cow);
        using CowFile cow = open.Setup.ReadCow();
        if ((ulong)cow.Order.Count != cow.Header.NumMergeOps)
            throw Contradiction($"/metadata/ota/snapshots/{complete.Name} does not ask for a merge, but its COW stands at op "
                + $"{cow.Header.NumMergeOps} of {cow.Order.Count}");
    }

    private static SnapuserdException Contradiction(string sentence) => new(ExitCode.CowCorrupt, sentence);

    private sealed class CheckObserver(IUpdateObserver observer, string name) : IMergeObserver
    {
        public void Progress(in MergeProgress progress)
        {
        }

        public void Checking(in MergeProgress progress) => observer.Checking(name, progress);
    }

    private sealed class MergeObserver(UpdateMerge update, int index) : IMergeObserver
    {
        public void Progress(in MergeProgress progress)
        {
            PartitionProgress before = update._partitions[index];
            update._partitions[index] = before with { OpsDone = progress.OpsDone, BytesDone = progress.BytesDone };
            update.Observe(before.Name);
        }
    }

    private void Observe(string name) => observer?.Merging(name, Total);
}
