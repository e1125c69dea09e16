using System;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>
/// Estimates how much more the ops of a cycle would cost as Replace, where that is unknown. It is unknown only for Copy ops. A Copy has no
/// payload, so the extra cost is the full cost of the block.
/// </summary>
internal sealed class ReplaceCosts(Comparison comparison) : IDisposable
{
    /// <summary>Ops per task: starting a thread costs about ten estimates, so a short cycle is estimated on the caller's thread.</summary>
    private const int TaskOps = 64;

    private EstimatePass? _own;

    /// <summary>Estimates every <paramref name="step"/>-th op of a part of the stack.</summary>
    public void Estimate(NativeArray<uint> stack, long first, long end, long step)
    {
        long unknown = 0;
        for (long p = first; p < end; p += step)
            if (comparison.Changes[stack[p]].ExtraCost == PackedChange.UnknownCost) unknown++;
        if (unknown == 0) return;
        long tasks = (((end - first + step - 1) / step) + TaskOps - 1) / TaskOps;
        if (unknown <= TaskOps)
        {
            _own ??= new EstimatePass(comparison);
            _own.Aim(stack, first, end, step);
            for (long task = 0; task < tasks; task++) _own.Do(task);
            return;
        }
        BlockPass.Run(tasks, comparison.Threads, () => new EstimatePass(comparison).Aim(stack, first, end, step),
            comparison.Options.Stop, null);
    }

    /// <inheritdoc/>
    public void Dispose() => _own?.Dispose();

    private sealed class EstimatePass(Comparison comparison) : IPassWorker
    {
        private readonly ICostEstimator _estimator = comparison.MakeEstimator();
        private readonly byte[] _block = new byte[CowOp.BlockSize];
        private NativeArray<uint>? _stack;
        private long _first;
        private long _end;
        private long _step;

        public EstimatePass Aim(NativeArray<uint> stack, long first, long end, long step)
        {
            (_stack, _first, _end, _step) = (stack, first, end, step);
            return this;
        }

        public void Do(long task)
        {
            long start = _first + (task * TaskOps * _step), end = Math.Min(start + (TaskOps * _step), _end);
            for (long p = start; p < end; p += _step)
            {
                long block = _stack![p];
                PackedChange change = comparison.Changes[block];
                if (change.ExtraCost != PackedChange.UnknownCost) continue;
                comparison.Target.Read(block * CowOp.BlockSize, _block);
                comparison.Changes[block] = change.WithExtraCost(Math.Clamp(_estimator.Cost(_block), 0, CowOp.BlockSize));
            }
        }

        public void Dispose() => _estimator.Dispose();
    }
}
