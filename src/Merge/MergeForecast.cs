using Snapuserd.Cow;

namespace Snapuserd.Merge;

/// <summary>
/// Predicts how a COW merges: ops that go through scratch, the number of their windows, ops that cannot be protected without scratch, and
/// checkpoints that the order itself requires. Bytes and time may add more checkpoints.
/// </summary>
public readonly record struct MergeForecast(int Journaled, int Windows, int Unprotected, int Checkpoints)
{
    /// <summary>
    /// Simulates the engine's own decisions, from the op at position <paramref name="from"/> on. Exit code 65 if the order is not valid.
    /// </summary>
    public static MergeForecast Of(CowFile cow, bool sharedBlocks = true, int from = 0)
    {
        using MergePlan plan = new(cow, new ScratchLayout(cow.Header.HeaderBytes, cow.Header.ScratchBytes).Window, sharedBlocks,
            sourceIsBase: sharedBlocks);
        return Of(plan, from);
    }

    /// <summary>Predicts the same from an existing plan.</summary>
    internal static MergeForecast Of(MergePlan plan, int from)
    {
        // If the rest cannot be merged, no step leads to the end.
        if (!plan.IsSafe(from)) return default;
        int journaled = 0, windows = 0, unprotected = 0, checkpoints = 0;
        for (int durable = from, written = from; written < plan.Count;)
        {
            MergeStep step = plan.Next(durable, written);
            if (step.Kind == StepKind.Journal) (journaled, windows) = (journaled + step.Ops, windows + 1);
            if (step.Kind == StepKind.Unsafe) unprotected += step.Ops;
            written += step.Ops;
            if (step.Kind != StepKind.Plain || written == plan.Count) (durable, checkpoints) = (written, checkpoints + 1);
        }
        return new MergeForecast(journaled, windows, unprotected, checkpoints);
    }
}
