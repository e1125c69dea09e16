using Snapuserd.Block;
using Snapuserd.Merge;

namespace Snapuserd.Boot;

/// <summary>The action of a boot for a row.</summary>
public enum BootAction
{
    /// <summary>Use the base itself: there is no update, or all of it is merged.</summary>
    Direct,
    /// <summary>Use the base itself, which is the old image, although there is an update.</summary>
    Fallback,
    /// <summary>Serve the new image, before or during its merge.</summary>
    Serve,
    /// <summary>Merge now, then use the base.</summary>
    Merge,
    /// <summary>Provide no device.</summary>
    Fail,
}

/// <summary>
/// The action of a boot for a row, and the reason; <paramref name="Code"/> is the exit code of a failure. docs/boot.md has the table of
/// decisions. <see cref="Of"/> implements its first three columns; <see cref="BootSequence"/> implements the last column and the phases.
/// </summary>
public sealed record BootDecision(BootAction Action, string Why, ExitCode Code = ExitCode.Done)
{
    public static BootDecision Of(BootRow row, CowState state, MarkerState mark, MergePolicy policy) => state.Kind switch
    {
        not CowKind.Absent when mark.Kind == MarkerKind.Unreadable => new(BootAction.Fail,
            $"{MergeMarker.PathOf(row.Cow)} cannot be read, and may say that the merge of another file has written to {row.Base}",
            ExitCode.InputOutput),
        not (CowKind.Absent or CowKind.Blank) when state.Digest is { } digest && mark.Contradicts(digest, state.Count) is { } why =>
            new(BootAction.Fail, MergeMarker.Sentence(row.Cow, why), ExitCode.CowCorrupt),
        not (CowKind.Absent or CowKind.Merged) when mark.HasContent
            && (state.BaseIsUntouched || state.IsIncomplete || mark.Denies(state.Start)) => new(BootAction.Fail,
                $"{state.Sentence}, but {MergeMarker.PathOf(row.Cow)} says that its merge has written to {row.Base}, or may have: "
                + $"{row.Cow} is not the file that was merged, perhaps an older copy of it; restore that file, or write an image to the "
                + "base and remove the COW and the marker", ExitCode.CowCorrupt),
        CowKind.Absent when mark.Kind != MarkerKind.None => new(BootAction.Fail,
            $"{row.Cow} is gone, but {MergeMarker.PathOf(row.Cow)} says that its merge may have begun, so {row.Base} may be neither the "
            + "old image nor the new one: restore that very file (an older copy will not do), or write an image to the base and remove "
            + "the marker", ExitCode.InputMissing),
        CowKind.Merged when policy == MergePolicy.Rollback =>
            new(BootAction.Fail, $"snapuserd.merge=rollback, but {state.Sentence}: there is no way back to the old image", ExitCode.Usage),
        CowKind.Absent or CowKind.Blank or CowKind.Merged => new(BootAction.Direct, state.Sentence),
        CowKind.Corrupt when state.BaseIsUntouched =>
            new(BootAction.Fallback, $"the update cannot be used, and nothing of it is merged: {state.Sentence}"),
        CowKind.Corrupt => new(BootAction.Fail, $"{state.Sentence}; whether {row.Base} is the old image cannot be known", state.Code),
        CowKind.Untouched when policy == MergePolicy.Rollback =>
            new(BootAction.Fallback, $"snapuserd.merge=rollback, and {state.Sentence}"),
        CowKind.Unknown when policy == MergePolicy.Rollback => new(BootAction.Fail,
            $"snapuserd.merge=rollback, but {state.Sentence}: whether {row.Base} is the old image cannot be known", ExitCode.Usage),
        CowKind.Begun when policy == MergePolicy.Rollback =>
            new(BootAction.Fail, $"snapuserd.merge=rollback, but {state.Sentence}: there is no way back to the old image", ExitCode.Usage),
        _ => new(policy == MergePolicy.Before ? BootAction.Merge : BootAction.Serve, state.Sentence),
    };
}
