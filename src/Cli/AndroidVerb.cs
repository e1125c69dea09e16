using System;
using Snapuserd.AndroidDevice;
using Snapuserd.Block;
using Snapuserd.Host;
using Snapuserd.Merge;
using Snapuserd.Recovery;
using Snapuserd.Serve;
using Snapuserd.Text;

namespace Snapuserd.Cli;

/// <summary>`android`: the update of a device, from its recovery or from dumps of its partitions.</summary>
internal static class AndroidVerb
{
    private static readonly string[] s_commands = ["status", "merge", "map", "unmap", "report"];

    // Options that change what is done, and the only command that each goes with.
    private static readonly string[] s_onlyMerge = ["--dry-run", "--conclude", "--unmap"];

    internal static ExitCode Run(Invocation invocation)
    {
        Arguments arguments = invocation.Arguments;
        string command = arguments.Operands[0];
        if (Array.IndexOf(s_commands, command) < 0) throw arguments.Wrong(Suggestion.Unknown("command", command, s_commands));
        foreach (string option in s_onlyMerge)
            if (command != "merge" && arguments.Has(option)) throw arguments.Wrong($"{option} goes with merge; {command} merges nothing");
        if (command != "status" && arguments.Has("--report")) throw arguments.Wrong("--report goes with status");
        if (command == "report" && arguments.Operands.Count == 1) throw arguments.Wrong("report needs the name of the archive to write");
        if (command != "report" && arguments.Operands.Count > 1) throw arguments.Wrong($"unexpected argument '{arguments.Operands[1]}'");
        if (arguments.Text("--report") is { } archive) return Tell(invocation, DeviceReport.Read(archive));
        bool merges = command == "merge" && !arguments.Has("--dry-run");
        DeviceFinder finder = new(new DeviceLocations
        {
            Super = arguments.Text("--super"),
            Metadata = arguments.Text("--metadata"),
            UserData = arguments.Text("--userdata"),
            Misc = arguments.Text("--misc"),
            ByName = arguments.Text("--by-name"),
            CommandLine = arguments.Text("--cmdline"),
            BootConfig = arguments.Text("--bootconfig"),
            Slot = arguments.Has("--slot") ? "_" + arguments.Text("--slot") : null,
        });
        using var stop = new StopSignals();
        using RecoveryDevice device = new(finder, merges, sentence => invocation.Output.Write(Priority.Warning, "metadata", sentence),
            arguments.Has("--conclude"), arguments.Has("--unmap") ? MapperNames.Remove : null);
        Observer observer = new(invocation);
        UpdateMerge merge = device.Merge(Options(invocation, merges), stop.Flag, stop.WakeUp, observer);
        if (command is "status" or "report") return Status(invocation, device, merge);
        if (command is "map" or "unmap") return AndroidMapping.Run(invocation, device, merge, command == "map");
        return Merge(invocation, device, merge, merges, observer);
    }

    private static DeviceOptions Options(Invocation invocation, bool writes) => new()
    {
        Cow = "",
        Writes = writes,
        Io = DeviceArguments.Io(invocation.Arguments),
        ArenaBytes = (int)invocation.Arguments.Number("--memory", Verbs.DefaultMemory),
        Report = sentence => invocation.Output.Write(Priority.Warning, "devices", sentence),
    };

    private static ExitCode Status(Invocation invocation, RecoveryDevice device, UpdateMerge merge)
    {
        SnapuserdException? problem = null;
        // A device that needs help may have a failing disk.
        bool reports = invocation.Arguments.Operands.Count > 1;
        try
        {
            merge.Read();
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.CowCorrupt || (reports && e.Code == ExitCode.InputOutput))
        {
            problem = e;
        }
        UpdateReport report = new(device.Facts, device.Plan, problem == null ? merge.Partitions : [], problem);
        if (!reports) return Tell(invocation, report);
        string path = invocation.Arguments.Operands[1];
        device.WriteReport(report, path);
        invocation.Output.Result(invocation.Arguments.Has("--json") ? JsonLine.Event("report").Add("path", path).ToString()
            : $"{path} is written: tables, state files and the heads of the COWs, but no content of partitions and nothing of /data.");
        return ExitCode.Done;
    }

    private static ExitCode Tell(Invocation invocation, UpdateReport report)
    {
        if (!invocation.Arguments.Has("--json")) Tell(invocation, report.Text());
        else
            foreach (JsonLine line in report.Json()) invocation.Output.Result(line.ToString());
        return report.Code;
    }

    /// <summary>Prints each line by itself: the names in it are made visible on a terminal.</summary>
    private static void Tell(Invocation invocation, string lines)
    {
        foreach (string line in lines.Split('\n')) invocation.Output.Result(line);
    }

    private static ExitCode Merge(Invocation invocation, RecoveryDevice device, UpdateMerge merge, bool writes, Observer observer)
    {
        bool json = invocation.Arguments.Has("--json");
        if (device.Plan.Refusal is { } refusal)
            throw new SnapuserdException(refusal.Code, $"{refusal.Sentence}. {refusal.Remedy}");
        merge.Read();
        UpdateReport report = new(device.Facts, device.Plan, merge.Partitions);
        long before = merge.Total.BytesDone;
        bool concludes = invocation.Arguments.Has("--conclude"), isMerged = report.Code == ExitCode.Done;
        if (!isMerged)
        {
            if (Battery.Warning() is { } warning) invocation.Output.Write(Priority.Warning, "battery", warning);
            merge.CheckPayloads();
            if (!writes)
            {
                if (json) Tell(invocation, report);
                else Tell(invocation, report.Steps());
                return ExitCode.Done;
            }
        }
        // What an ended process has counted may not be durable yet.
        if (writes) merge.Run();
        bool isTold = true;
        concludes = concludes && writes && device.Conclude(out isTold);
        if (concludes && !isTold)
            invocation.Output.Write(Priority.Warning, "misc", "the status of the update in misc was not found, and is as it was: "
                + "the bootloader may still refuse to wipe or to change the slot");
        MergeProgress total = merge.Total;
        if (json)
            invocation.Output.Result(JsonLine.Event("done").Add("ops", total.OpsTotal).Add("bytes_written", total.BytesDone - before)
                .Add("seconds", observer.Seconds).Add("io", device.Io).Add("concluded", concludes).ToString());
        else if (!concludes && isMerged)
            invocation.Output.Result(report.Sentence);
        else
            invocation.Output.Result(
                (isMerged ? "All is merged" : $"merged {Units.Count(merge.Partitions.Count, "partition")}, "
                    + Units.Bytes(total.BytesDone - before))
                + (concludes ? ", and the update is concluded. Android cleans up at its next boot."
                    : ". Reboot: Android concludes the update by itself."));
        return ExitCode.Done;
    }

    /// <summary>A bar for each partition's check, and one of all partitions together, named after the one that is being merged.</summary>
    private sealed class Observer(Invocation invocation) : IUpdateObserver
    {
        private readonly ProgressObserver _whole = new(invocation, "merge");
        private ProgressObserver? _current;
        private string _name = "";

        internal double Seconds => _whole.Seconds;

        public void Checking(string name, in MergeProgress progress) => Of($"check of {name}").Checking(progress);

        public void Merging(string name, in MergeProgress all) => Of(name).Progress(all);

        private ProgressObserver Of(string what)
        {
            if (_current != null && _name == what) return _current;
            _name = what;
            return _current = new ProgressObserver(invocation, what, isPart: true);
        }
    }
}
