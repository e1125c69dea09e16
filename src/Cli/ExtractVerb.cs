using System;
using Snapuserd.Block;
using Snapuserd.Host;
using Snapuserd.Images;
using Snapuserd.Merge;
using Snapuserd.Text;

namespace Snapuserd.Cli;

/// <summary>`extract`.</summary>
internal static class ExtractVerb
{
    internal static ExitCode Run(Invocation invocation)
    {
        if (invocation.Arguments.Required("--output") == StreamImage.Dash) return Stream(invocation);
        var observer = new ProgressObserver(invocation, "extract");
        using var stop = new StopSignals();
        using var output = new ImageFile(invocation.Arguments.Required("--output"));
        using (var devices = DeviceArguments.Open(invocation, writes: false, stop))
        {
            // Create the output after the devices are locked, so that it cannot empty one of their files.
            output.Create(devices, invocation.Arguments.Has("--no-lock"));
            using MergedImage image = MergedImage.Open(devices.Setup);
            MergedReading.Read(image, stop.Flag, observer, output.Append);
        }
        output.Finish(stop.Flag, sentence => invocation.Output.Write(Priority.Warning, "output", sentence));
        if (invocation.Arguments.Has("--json"))
            invocation.Output.Result(
                JsonLine.Event("done").Add("bytes", output.Length).Add("output", output.Path).Add("seconds", observer.Seconds).ToString());
        else
            invocation.Output.Result($"wrote {Units.Bytes(output.Length)} to {output.Path}");
        return ExitCode.Done;
    }

    /// <summary>
    /// True if the arguments request the image on standard output, so that results must be printed elsewhere. Also true if the command line
    /// is otherwise invalid.
    /// </summary>
    internal static bool Streams(Verb verb, ReadOnlySpan<string> commandLine)
    {
        if (verb.Run != Run) return false;
        for (int i = 0; i < commandLine.Length; i++)
            if (commandLine[i] == "--output=-"
                || (commandLine[i] == "--output" && i + 1 < commandLine.Length && commandLine[i + 1] == StreamImage.Dash))
                return true;
        return false;
    }

    private static ExitCode Stream(Invocation invocation)
    {
        var observer = new ProgressObserver(invocation, "extract");
        using var stop = new StopSignals();
        using StreamImage output = new(stop.Flag);
        output.Check(invocation.Output.ResultsWereClosed);
        using (var devices = DeviceArguments.Open(invocation, writes: false, stop))
        {
            output.Claim(devices, invocation.Arguments.Has("--no-lock"));
            using MergedImage image = MergedImage.Open(devices.Setup);
            MergedReading.Read(image, stop.Flag, observer, output.Append);
        }
        output.Finish();
        if (invocation.Arguments.Has("--json"))
            invocation.Output.Result(JsonLine.Event("done").Add("bytes", output.Length).Add("output", StreamImage.Dash)
                .Add("seconds", observer.Seconds).ToString());
        else
            invocation.Output.Result($"wrote {Units.Bytes(output.Length)} to standard output");
        return ExitCode.Done;
    }
}
