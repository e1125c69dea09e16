using System;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Host;
using Snapuserd.Serve;

namespace Snapuserd.Cli;

/// <summary>Selects and starts the server for `--device`.</summary>
internal static class BlockServers
{
    /// <summary>
    /// Throws with exit code 64 (EX_USAGE) if `--device`, `--name`, `--socket` and the options about them do not fit together. Called
    /// before anything is opened, locked or protected.
    /// </summary>
    internal static void Check(Invocation invocation)
    {
        string kind = invocation.Arguments.Choice("--device");
        if (invocation.Arguments.Has("--supervise")) _ = SupervisedDevice(invocation);
        bool named = invocation.Arguments.Has("--name"), socket = invocation.Arguments.Has("--socket");
        if (socket && kind != "nbd")
            throw new SnapuserdException(ExitCode.Usage, $"--socket needs --device nbd, not --device {kind}");
        if (socket && invocation.Arguments.Text("--control") == invocation.Arguments.Text("--socket"))
            throw new SnapuserdException(ExitCode.Usage, "--socket and --control are two sockets: give them two paths");
        if (named && kind == "auto")
            throw new SnapuserdException(ExitCode.Usage,
                "--name needs a --device other than auto, because each kind of device has its own names");
        if (invocation.Arguments.Has("--queues") && kind is not ("ublk" or "auto"))
            throw new SnapuserdException(ExitCode.Usage, $"--queues goes with --device ublk, not --device {kind}");
        if (!named && kind == "dm-user")
            throw new SnapuserdException(ExitCode.Usage,
                "--device dm-user needs --name NAME, the last word of the device-mapper table's line");
        if (invocation.Arguments.Text("--mapper") is { } mapper)
        {
            MappedDevice.CheckName(mapper);
            if (socket) throw new SnapuserdException(ExitCode.Usage, "--mapper needs a block device, and --socket does not make one");
        }
        if (invocation.Arguments.Has("--merge") && invocation.Arguments.Has("--merge-on-request"))
            throw new SnapuserdException(ExitCode.Usage, "--merge and --merge-on-request: at once or when asked to, not both");
        if (invocation.Arguments.Has("--no-verify-first") && !Merges(invocation))
            throw new SnapuserdException(ExitCode.Usage, "--no-verify-first needs --merge or --merge-on-request");
        if (kind == "dm-user") FileName.Check(DmUserName(invocation), "a dm-user device in /dev/dm-user");
        if (kind == "ublk") _ = Number(invocation, "ublkb");
        if (kind == "nbd" && !socket) _ = Number(invocation, "nbd");
    }

    /// <summary>
    /// Starts to serve <paramref name="view"/> with at most <paramref name="memory"/> bytes of buffers. <paramref name="device"/> is the
    /// path that readers open. `auto` means ublk, or NBD if ublk ends with exit code 69 (EX_UNAVAILABLE).
    /// </summary>
    internal static IBlockServer Start(Invocation invocation, SnapshotView view, BlockDevice[] devices, int memory, WakeUp wakeUp,
        out string device)
    {
        string kind = invocation.Arguments.Choice("--device");
        IBlockServer Make(string kind) => BlockServers.Make(kind, invocation, view, devices, memory, wakeUp);
        if (kind is not ("auto" or "ublk")) return IBlockServer.Started(Make(kind), out device);
        try
        {
            return IBlockServer.Started(Make("ublk"), out device);
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.Unavailable)
        {
            if (kind == "ublk") throw new SnapuserdException(e.Code, $"{e.Message}; try --device nbd");
            invocation.Output.Write(Priority.Warning, "no_ublk", $"continuing with NBD, because ublk is not available: {e.Message}");
            return IBlockServer.Started(Make("nbd"), out device);
        }
    }

    private static IBlockServer Make(string kind, Invocation invocation, SnapshotView view, BlockDevice[] devices, int memory,
        WakeUp wakeUp)
    {
        Action<string> report = sentence => invocation.Output.Write(Priority.Warning, "server", sentence);
        string? name = invocation.Arguments.Text("--name"), socket = invocation.Arguments.Text("--socket");
        if (kind == "ublk")
        {
            int queues = (int)invocation.Arguments.Number("--queues", UblkOptions.UsualQueues);
            return new UblkServer(view, devices, new UblkOptions
            {
                Id = Number(invocation, "ublkb"),
                MemoryBytes = memory,
                Queues = Math.Min(queues, Environment.ProcessorCount),
                Report = report,
                Ours = PersistedControlState.NoteDevice,
            }, wakeUp);
        }
        if (kind == "nbd")
        {
            NbdOptions options = new()
            {
                SocketPath = socket ?? "",
                ExportName = socket == null ? "" : name ?? "",
                Device = socket == null ? name ?? "" : "",
                MemoryBytes = memory,
                Report = report,
            };
            return socket == null ? new NbdDevice(view, devices, options, wakeUp) : new NbdServer(view, devices, options, wakeUp);
        }
        return new DmUserServer(view, devices,
            new DmUserOptions { Name = DmUserName(invocation), MemoryBytes = memory, Report = report }, wakeUp);
    }

    /// <summary>The name of the dm-user device, without its folder.</summary>
    private static string DmUserName(Invocation invocation)
    {
        const string folder = "/dev/dm-user/";
        string name = invocation.Arguments.Required("--name");
        return name.StartsWith(folder, StringComparison.Ordinal) ? name[folder.Length..] : name;
    }

    /// <summary>
    /// The number of the ublk device for `--supervise`. Throws with exit code 64 (EX_USAGE) unless `--device` is ublk: only a ublk device
    /// waits for a second server.
    /// </summary>
    internal static int SupervisedDevice(Invocation invocation) => invocation.Arguments.Choice("--device") == "ublk"
        ? Number(invocation, "ublkb")
        : throw new SnapuserdException(ExitCode.Usage,
            "--supervise goes with --device ublk: only that device waits for another server when its own was killed");

    /// <summary>True if the server may merge, at once or on request.</summary>
    internal static bool Merges(Invocation invocation) => Merges(invocation.Arguments);

    /// <inheritdoc cref="Merges(Invocation)"/>
    internal static bool Merges(Arguments arguments) => arguments.Has("--merge") || arguments.Has("--merge-on-request");

    /// <summary>The number of the ublk device given by name; −1 if none was given.</summary>
    internal static int UblkNumber(Invocation invocation) =>
        invocation.Arguments.Choice("--device") == "ublk" ? Number(invocation, "ublkb") : -1;

    /// <summary>N of `--name` PREFIXN or /dev/PREFIXN; −1 if it was not given.</summary>
    private static int Number(Invocation invocation, string prefix)
    {
        if (invocation.Arguments.Text("--name") is not { } name) return -1;
        string number = name.StartsWith("/dev/" + prefix, StringComparison.Ordinal) ? name[(5 + prefix.Length)..]
            : name.StartsWith(prefix, StringComparison.Ordinal) ? name[prefix.Length..] : "";
        return int.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out int result)
            ? result
            : throw new SnapuserdException(ExitCode.Usage, $"--name {name}: it takes a name like {prefix}0");
    }
}
