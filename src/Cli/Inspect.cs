using System.Diagnostics;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Host;
using Snapuserd.Images;

namespace Snapuserd.Cli;

/// <summary>`inspect`: shows the contents of a COW (design §7), and whether it can be merged.</summary>
internal static class Inspect
{
    internal static ExitCode Run(Invocation invocation)
    {
        (Arguments arguments, Output output) = invocation;
        using var input = new CowInput(arguments.Operands[0]);
        long start = Stopwatch.GetTimestamp();
        using CowFile cow = CowFile.Read(input.Source);
        double parseMilliseconds = Stopwatch.GetElapsedTime(start).TotalMilliseconds;

        if (arguments.Has("--raw") && cow.Header.Major == 3)
            throw new SnapuserdException(ExitCode.Usage,
                $"inspect: {cow.Name} has format 3, which has no records; --raw lists those of formats 1 and 2, --ops the ops of any");
        bool json = arguments.Has("--json");
        CowSummary summary = new(cow, input.Source, parseMilliseconds);
        if (json) summary.AsJson(output.Result);
        else summary.AsText(output.Result);
        if (arguments.Has("--raw")) CowListing.Records(cow, input.Source, json, output.Result);
        if (arguments.Has("--ops"))
        {
            CowListing.Sequence(cow, json, piece => output.ResultPiece(piece), output.Result);
            CowListing.Ops(cow, arguments.Choice("--order"), json, output.Result);
        }
        // The summary shows the inconsistency to people; the exit code and standard error show it to scripts.
        return summary.Inconsistency == null ? ExitCode.Done : throw summary.Inconsistency;
    }
}
