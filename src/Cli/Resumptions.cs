using System;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Daemon;
using Snapuserd.Interop;
using Snapuserd.Merge;

namespace Snapuserd.Cli;

/// <summary>
/// How often a merge was taken up again. The COW says only that it was begun, which counts one; a supervisor knows how often it has started the server, and hands
/// its count over to the next.
/// </summary>
internal static class Resumptions
{
    /// <summary>The variable in a server's environment that carries it.</summary>
    internal const string Variable = "SNAPUSERD_RESUMED";

    /// <summary>What a supervisor has said; null if there is none.</summary>
    internal static int? Counted => int.TryParse(OwnProcess.Variable(Variable), NumberStyles.None, CultureInfo.InvariantCulture, out int count) ? count : null;

    /// <summary>Times up to the run that <paramref name="result"/> is about.</summary>
    internal static int Times(MergeResult result) => Counted ?? (result.WasResumed ? 1 : 0);

    /// <summary>1 if an earlier run has counted an op of the COW; 0 as well if it cannot be read, which whoever opens it next will say.</summary>
    internal static int Before(string cow)
    {
        try
        {
            using CowInput input = new(cow);
            return CowHeader.Parse(input.Source).NumMergeOps > 0 ? 1 : 0;
        }
        catch (SnapuserdException)
        {
            return 0;
        }
    }
}
