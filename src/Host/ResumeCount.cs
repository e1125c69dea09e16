using System;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Merge;

namespace Snapuserd.Host;

/// <summary>
/// How often a merge was resumed. The COW records only that its merge has begun, which counts as one. A supervisor counts how often it has
/// restarted the server, and passes the count to the next server.
/// </summary>
public static class ResumeCount
{
    /// <summary>The environment variable with the count.</summary>
    public const string Variable = "SNAPUSERD_RESUMED";

    /// <summary>The count that a supervisor passed; null if there is none.</summary>
    public static int? Counted =>
        int.TryParse(OwnProcess.Variable(Variable), NumberStyles.None, CultureInfo.InvariantCulture, out int count) ? count : null;

    /// <summary>The number of times that the merge was resumed, up to and including the run with <paramref name="result"/>.</summary>
    public static int Times(MergeResult result) => Counted ?? (result.WasResumed ? 1 : 0);

    /// <summary>
    /// 1 if the COW records an op as merged by an earlier run, otherwise 0. Also 0 if the COW cannot be read; the error is reported when
    /// the COW is opened later.
    /// </summary>
    public static int Before(string cow)
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
