using Snapuserd.Block;
using Snapuserd.Daemon;

namespace Snapuserd.Cli.Boot;

/// <summary>What a boot does about a row.</summary>
internal enum BootAction
{
    /// <summary>The base itself: there is no update, or all of it is merged.</summary>
    Plain,
    /// <summary>The base itself, which is the old image, although there is an update.</summary>
    Old,
    /// <summary>The new image, before or while it is merged.</summary>
    Serve,
    /// <summary>Merge here and now, then the base.</summary>
    Merge,
    /// <summary>Nothing that could be mounted.</summary>
    Fail,
}

/// <summary>
/// What is to be done and why; <paramref name="Code"/> is that of a failure.
/// <code>
///   COW            policy      action
///   any, beside a mark that cannot be read: Fail (74)
///   untouched or cut short, but a mark says that a merge has begun or may have: Fail (65)
///   any, but a mark says that it is another file than the one that was merged: Fail (65)
///   absent         any         Plain;  Fail (66) if a mark beside it says that its merge may have begun
///   blank          any         Plain
///   merged         rollback    Fail (64): the old image is gone
///                  others      Plain
///   corrupt        any         Old if the base is untouched for certain, else Fail (what is wrong with it: 65, 74, 77 …)
///   untouched      rollback    Old
///                  before      Merge;  what cannot be merged and is still untouched: Old
///                  others      Serve;  what cannot be served and is still untouched: Old
///   begun          rollback    Fail (64)
///                  before      Merge;  what cannot be merged: Serve; neither: Fail
///                  others      Serve;  what cannot be served: Merge, because there is no other way any more; neither: Fail
///   doubtful       rollback    Fail (64)
///                  before      as begun
///                  background  as begun, but it is merged only if it would have been merged behind the boot
///                  manual      Serve;  what cannot be served: Fail, because nobody has asked for a merge and it may not have begun
///   Merge, and merging in the background, is for rows of which all of the earlier phases are plain or merged; others are served until they are asked to merge.
/// </code>
/// </summary>
internal sealed record BootDecision(BootAction Action, string Why, ExitCode Code = ExitCode.Done)
{
    internal static BootDecision Of(BootRow row, CowState state, MarkState mark, MergePolicy policy) => state.Kind switch
    {
        not CowKind.Absent when mark.Kind == MarkKind.Unreadable => new(BootAction.Fail,
            $"{MergingMark.PathOf(row.Cow)} cannot be read, and may say that the merge of another file has written to {row.Base}", ExitCode.InputOutput),
        not (CowKind.Absent or CowKind.Blank) when state.Digest is { } digest && mark.Contradicts(digest, state.Count) is { } why => new(BootAction.Fail, MergingMark.Sentence(row.Cow, why), ExitCode.CowCorrupt),
        not CowKind.Absent when mark.HasContent && (state.BaseIsUntouched || state.IsIncomplete) => new(BootAction.Fail,
            $"{state.Sentence}, but {MergingMark.PathOf(row.Cow)} says that its merge has written to {row.Base}, or may have: {row.Cow} is another file than the one that was merged, perhaps a copy from before; bring that one back, or write an image to the base and remove both", ExitCode.CowCorrupt),
        CowKind.Absent when mark.Kind != MarkKind.None => new(BootAction.Fail,
            $"{row.Cow} is gone, but {MergingMark.PathOf(row.Cow)} says that its merge may have begun, so {row.Base} may be neither the old image nor the new one: bring that very file back (a copy from before will not do), or write an image to the base and remove the mark", ExitCode.InputMissing),
        CowKind.Merged when policy == MergePolicy.Rollback => new(BootAction.Fail, $"snapuserd.merge=rollback, but {state.Sentence}: there is no way back to the old image", ExitCode.Usage),
        CowKind.Absent or CowKind.Blank or CowKind.Merged => new(BootAction.Plain, state.Sentence),
        CowKind.Corrupt when state.BaseIsUntouched => new(BootAction.Old, $"the update cannot be used, and nothing of it is merged: {state.Sentence}"),
        CowKind.Corrupt => new(BootAction.Fail, $"{state.Sentence}; whether {row.Base} is the old image cannot be known", state.Code),
        CowKind.Untouched when policy == MergePolicy.Rollback => new(BootAction.Old, $"snapuserd.merge=rollback, and {state.Sentence}"),
        CowKind.Begun or CowKind.Doubtful when policy == MergePolicy.Rollback => new(BootAction.Fail, $"snapuserd.merge=rollback, but {state.Sentence}: there is no way back to the old image", ExitCode.Usage),
        _ => new(policy == MergePolicy.Before ? BootAction.Merge : BootAction.Serve, state.Sentence),
    };
}
