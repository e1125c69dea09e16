using Snapuserd.Block;
using Snapuserd.Daemon;
using Snapuserd.Merge;

namespace Snapuserd.Cli;

/// <summary>`extract`.</summary>
internal static class ExtractVerb
{
    internal static ExitCode Run(Invocation invocation)
    {
        var observer = new ProgressObserver(invocation, "extract");
        using var stop = new StopSignals();
        using var output = new ImageFile(invocation.Arguments.Required("--output"));
        using (var devices = DeviceArguments.Open(invocation, writes: false, stop))
        {
            // Only after the devices, which hold their locks by now: what they are made of must not be emptied.
            output.Create(devices, invocation.Arguments.Has("--no-lock"));
            using MergedImage image = MergedImage.Open(devices.Setup);
            MergedReading.Read(image, stop.Flag, observer, output.Append);
        }
        output.Finish(stop.Flag);
        if (invocation.Arguments.Has("--json"))
            invocation.Output.Result(JsonLine.Event("done").Add("bytes", output.Length).Add("output", output.Path).Add("seconds", observer.Seconds).ToString());
        else
            invocation.Output.Result($"wrote {Units.Bytes(output.Length)} to {output.Path}");
        return ExitCode.Done;
    }
}
