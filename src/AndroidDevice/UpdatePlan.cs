using System;
using System.Collections.Generic;
using System.Globalization;
using Snapuserd.Block;

namespace Snapuserd.AndroidDevice;

/// <summary>Why nothing may be merged: the exit code, a sentence with file, value and rule, and what to do instead.</summary>
public sealed class Refusal(ExitCode code, string sentence, string remedy)
{
    /// <summary>The exit code.</summary>
    public ExitCode Code { get; } = code;
    /// <summary>What is wrong, without a full stop.</summary>
    public string Sentence { get; } = sentence;
    /// <summary>What to do; "" if the sentence says it.</summary>
    public string Remedy { get; } = remedy;
}

/// <summary>A snapshot that is not merged, and the reason.</summary>
public readonly record struct LeftOut(string Name, string Why);

/// <summary>
/// The COW of a snapshot that is not merged because its file says that it is merged, or that there is none. If this COW is not complete,
/// the file is wrong, and nothing may be merged.
/// </summary>
public sealed class CompleteCow(string name, IReadOnlyList<DevicePiece> cow)
{
    /// <summary>The partition.</summary>
    public string Name { get; } = name;
    /// <summary>The pieces of the COW.</summary>
    public IReadOnlyList<DevicePiece> Cow { get; } = cow;
}

/// <summary>One partition to merge, with the pieces of its three devices.</summary>
public sealed class PlannedMerge(string name, SnapshotRecord record, IReadOnlyList<DevicePiece> target, IReadOnlyList<DevicePiece> source,
    IReadOnlyList<DevicePiece> cow)
{
    /// <summary>The partition.</summary>
    public string Name { get; } = name;
    /// <summary>Its snapshot file.</summary>
    public SnapshotRecord Record { get; } = record;
    /// <summary>The pieces of the partition as the new table has it.</summary>
    public IReadOnlyList<DevicePiece> Base { get; } = target;
    /// <summary>The pieces of the partition as the old table has it.</summary>
    public IReadOnlyList<DevicePiece> Source { get; } = source;
    /// <summary>The pieces of its COW.</summary>
    public IReadOnlyList<DevicePiece> Cow { get; } = cow;
    /// <summary>1 if the partition shrinks, otherwise 2.</summary>
    public int Phase => Record.Shrinks ? 1 : 2;
}

/// <summary>
/// What may be merged on a device, in which order, and out of which pieces: a pure function of <see cref="DeviceFacts"/>. Either nothing is
/// left to do (<see cref="Nothing"/>), or nothing may be merged (<see cref="Refusal"/>), or <see cref="Merges"/> lists the merges. All of
/// the first phase must be durable before the first write of the second. Merges of one phase run one after the other, in this order.
/// </summary>
public sealed record UpdatePlan
{
    /// <summary>Nothing is left to merge; the sentence says why. Null if something is.</summary>
    public string? Nothing { get; init; }
    /// <summary>Nothing may be merged; null if something may be, or nothing is left.</summary>
    public Refusal? Refusal { get; init; }
    /// <summary>The merges, in order.</summary>
    public IReadOnlyList<PlannedMerge> Merges { get; init; } = [];
    /// <summary>Snapshots of the current slot that are not merged.</summary>
    public IReadOnlyList<LeftOut> LeftOut { get; init; } = [];
    /// <summary>COWs whose count must show that they are merged, before anything is written. Also set if nothing is left to do.</summary>
    public IReadOnlyList<CompleteCow> MustBeComplete { get; init; } = [];

    /// <summary>Computes the plan from the facts, by the rules of android-device §10 to §12.</summary>
    public static UpdatePlan Of(DeviceFacts facts)
    {
        try
        {
            return UpdateRules.CheckState(facts) is { } nothing
                ? new UpdatePlan { Nothing = nothing, MustBeComplete = CompleteCows(facts) } : new PlanComposer(facts).Compose();
        }
        catch (RefusedException e)
        {
            return new UpdatePlan { Refusal = e.Refusal };
        }
    }

    private static IReadOnlyList<CompleteCow> CompleteCows(DeviceFacts facts)
    {
        bool claims = facts.Status is { State: UpdateState.MergeNeedsReboot or UpdateState.MergeCompleted };
        if (!claims || facts.Slot == null || facts.SourceSlot == facts.Slot || facts.Status is not { UserspaceSnapshots: true }) return [];
        try
        {
            return new PlanComposer(facts).AllComplete();
        }
        catch (RefusedException)
        {
            // Android may have begun to clean up, and nothing is written here.
            return [];
        }
    }
}

/// <summary>Ends the composition of a plan.</summary>
internal sealed class RefusedException(ExitCode code, string sentence, string remedy) : Exception(sentence)
{
    /// <summary>The reason.</summary>
    internal Refusal Refusal { get; } = new(code, sentence, remedy);

    /// <summary>Damage, or files that contradict each other.</summary>
    internal static RefusedException Damaged(FormattableString sentence) => new(ExitCode.CowCorrupt,
        sentence.ToString(CultureInfo.InvariantCulture), "Nothing was written. Make a report with `snapuserd android report OUT.tar`, and "
        + "send it to someone who can analyse it.");
}
