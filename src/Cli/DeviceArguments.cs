using Snapuserd.Block;
using Snapuserd.Host;
using Snapuserd.Merge;

namespace Snapuserd.Cli;

/// <summary>Reads the device options of a command line.</summary>
internal static class DeviceArguments
{
    /// <summary>Opens the devices that the options name, with all of `--memory` for buffers.</summary>
    internal static DeviceSet Open(Invocation invocation, bool writes, StopSignals stop) =>
        new(Read(invocation, writes, (int)invocation.Arguments.Number("--memory", Verbs.DefaultMemory)), stop.Flag, stop.WakeUp);

    /// <summary>The value of `--io`.</summary>
    internal static IoChoice Io(Arguments arguments) => arguments.Choice("--io") switch
    {
        "sync" => IoChoice.Sync,
        "uring" => IoChoice.Uring,
        _ => IoChoice.Auto,
    };

    /// <summary>The devices that the options name, with <paramref name="arenaBytes"/> bytes of buffers.</summary>
    internal static DeviceOptions Read(Invocation invocation, bool writes, int arenaBytes)
    {
        Arguments arguments = invocation.Arguments;
        DeviceOptions options = new()
        {
            Cow = arguments.Required("--cow"),
            Base = arguments.Text("--base"),
            Source = arguments.Text("--source"),
            SourceSeparate = arguments.Has("--source-separate"),
            Writes = writes,
            WithoutLock = arguments.Has("--no-lock"),
            Io = Io(arguments),
            ArenaBytes = arenaBytes,
            Threads = (int)arguments.Number("--threads", 0),
            Report = sentence => invocation.Output.Write(Priority.Warning, "devices", sentence),
        };
        return options with { QueueDepth = (int)arguments.Number("--queue-depth", options.QueueDepth) };
    }
}
