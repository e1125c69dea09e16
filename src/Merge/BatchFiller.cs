using System;

namespace Snapuserd.Merge;

/// <summary>
/// Turns the steps of the plan into batches, in merge order. Only free buffers limit how far it runs ahead of the writes. A batch holds
/// ops of one step; a step takes as many batches as it needs.
/// </summary>
internal sealed class BatchFiller(MergePlan plan, Pipeline pipeline)
{
    // The position after the last op that is in a batch; the part of its step that is in no batch yet; and the durable count that the merge
    // will have reached when the next batch is written.
    private int _position;
    private MergeStep _rest;
    private int _expected;

    /// <summary>Begins at <paramref name="position"/>. Recovery counts all ops before it before the first batch is written.</summary>
    public void BeginAt(int position) => _position = _expected = position;

    /// <summary>Fills free buffers with the next ops. True if at least one buffer was filled.</summary>
    public bool Fill()
    {
        bool changed = false;
        while (_position < plan.Count)
        {
            if (_rest.Ops == 0) NextStep();
            if (pipeline.TryOpen(_position, _rest, _expected) is not { } batch) break;
            int end = _position + _rest.Ops;
            while (_position < end && TryAdd(batch)) _position++;
            if (batch.To == batch.From) throw new InvalidOperationException("an empty buffer is too small for a single op");
            _rest = _rest with { Ops = end - _position };
            if (_rest.Kind is StepKind.Journal or StepKind.Unsafe) _expected = _position;
            batch.Close();
            changed = true;
        }
        return changed;
    }

    private void NextStep()
    {
        _rest = plan.Next(_expected, _position);
        if (_rest.Kind != StepKind.Checkpoint) return;
        _expected = _position;
        _rest = plan.Next(_expected, _position);
    }

    private bool TryAdd(Batch batch)
    {
        // A window has an entry for each of its ops, including a Copy onto itself.
        if (_rest.Kind != StepKind.Journal && plan.IsNoOp(_position))
        {
            batch.Skip(plan[_position].UnitBytes);
            return true;
        }
        return batch.TryAdd(plan.SafeFrom(_position));
    }
}
