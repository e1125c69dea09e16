using System;
using System.IO;
using System.Linq;
using System.Text.RegularExpressions;
using Snapuserd.Block;
using Snapuserd.Cli;
using Snapuserd.Control;
using Snapuserd.Cow;
using Snapuserd.Host;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cli;

/// <summary>The result and the log records of a merge, word for word.</summary>
public sealed class MergeTellingTests : IDisposable
{
    private static readonly MergeResult s_result = new()
    {
        OpsTotal = 11,
        ResumedFrom = 3,
        Replayed = 2,
        Journaled = 5,
        Blocks = 7,
        BaseBytesWritten = 28672,
        CowBytesWritten = 4096,
        Flushes = 9,
        Checkpoints = 6,
    };

    private readonly TempFolder _folder = new();
    private readonly LineFiles _lines = new();
    private readonly StopFlag _stop = new();
    private readonly WakeUp _wakeUp = new();

    public void Dispose()
    {
        _wakeUp.Dispose();
        _lines.Dispose();
        _folder.Dispose();
    }

    [Fact]
    public void A_finished_merge_is_one_line_for_people_and_one_record()
    {
        MergeVerb.Tell(Words(), s_result, "uring", 1.25);
        Assert.Equal("merged 8 of 11 ops (resumed at op 3, 2 replayed from scratch): 7 blocks, 28 KiB to the base, 4 KiB to the COW, "
            + "5 ops journaled, 6 checkpoints, 9 flushes, 1.250 s, uring\n", _lines.Results);
        Assert.Equal(Quoted("{`priority`:5,`event`:`merged`,`message`:`merged: 11 ops in all, 7 blocks and 28 KiB written in 1.250 s, "
            + "resumed 1 time`,`ops`:11,`resumed_from`:3,`blocks`:7,`bytes_written`:28672,`seconds`:1.25,`times_resumed`:1,"
            + "`reads`:0,`worst_read_seconds`:0}") + "\n", Records());
    }

    [Theory]
    [InlineData(0, 0, "")]
    [InlineData(1, 0, " (resumed at op 1, 0 replayed from scratch)")]
    [InlineData(0, 1, " (resumed at op 0, 1 replayed from scratch)")]
    public void Only_a_resumed_merge_reports_where_it_was_resumed(int from, int replayed, string resumed)
    {
        MergeResult result = new() { OpsTotal = 2, ResumedFrom = from, Replayed = replayed, Blocks = 1, Flushes = 1, Checkpoints = 1 };
        MergeVerb.Tell(Words(), result, "sync", 0);
        Assert.Equal($"merged {2 - from} of 2 ops{resumed}: 1 block, 0 B to the base, 0 B to the COW, 0 ops journaled, 1 checkpoint, "
            + "1 flush, 0.000 s, sync\n", _lines.Results);
        Assert.Contains($"resumed {(resumed.Length > 0 ? "1 time" : "0 times")}\"", Records(), StringComparison.Ordinal);
    }

    [Fact]
    public void A_finished_merge_is_one_object_for_programs()
    {
        MergeVerb.Tell(Words("--json"), s_result, "uring", 1.25);
        Assert.Equal(Quoted("{`event`:`done`,`ops`:11,`blocks`:7,`bytes_written`:28672,`seconds`:1.25,`resumed_from`:3,`io`:`uring`,"
            + "`replayed`:2,`journaled`:5,`cow_bytes_written`:4096,`checkpoints`:6,`flushes`:9,`already_merged`:false,"
            + "`peak_memory`:N,`times_resumed`:1}") + "\n", Results());
        Assert.Contains("\"event\":\"merged\"", Records(), StringComparison.Ordinal);
    }

    [Fact]
    public void A_merge_with_nothing_to_do_says_so()
    {
        MergeResult result = new() { OpsTotal = 11, ResumedFrom = 11 };
        MergeVerb.Tell(Words(), result, "sync", 0.5);
        Assert.Equal("already merged: all 11 ops\n", _lines.Results);
        Assert.Equal(Quoted("{`priority`:5,`event`:`merged`,`message`:`all 11 ops were merged already: 11 ops in all, 0 blocks and 0 B "
            + "written in 0.500 s, resumed 0 times`,`ops`:11,`resumed_from`:11,`blocks`:0,`bytes_written`:0,`seconds`:0.5,"
            + "`times_resumed`:0,`reads`:0,`worst_read_seconds`:0}") + "\n", Records());
        using LineFiles others = new();
        MergeVerb.Tell(Words("--json", others), result, "sync", 0.5);
        Assert.StartsWith(Quoted("{`event`:`done`,`ops`:11,`blocks`:0,"), others.Results, StringComparison.Ordinal);
        Assert.Contains(Quoted("`already_merged`:true,"), others.Results, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(-1, "")]
    [InlineData(0, "")]
    [InlineData(1, ", 1 read served, the slowest in 250 ms")]
    [InlineData(5, ", 5 reads served, the slowest in 250 ms")]
    public void The_record_counts_the_reads_that_were_served_meanwhile(int reads, string said)
    {
        SnapshotStatus? served = reads < 0 ? null
            : new SnapshotStatus { Name = "n", Cow = "c", Base = "b", Reads = reads, WorstReadSeconds = reads > 0 ? 0.25 : 0 };
        MergeVerb.Tell(Words(), s_result, "sync", 1.25, served);
        Assert.Contains($"resumed 1 time{said}\",", Records(), StringComparison.Ordinal);
        Assert.EndsWith($"\"reads\":{Math.Max(reads, 0)},\"worst_read_seconds\":{(reads > 0 ? "0.25" : "0")}}}\n", Records(),
            StringComparison.Ordinal);
    }

    /// <summary>An observer that throws is reported once, and the merge ends as without it.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_merge_continues_if_its_observer_throws(bool throws)
    {
        byte[] cow = Golden.Cow("v3-lz4-descending");
        using (DeviceSet devices = Devices(cow))
        {
            File.WriteAllText(_folder["cow.merging"], "");
            Assert.Equal(ExitCode.Done, MergeVerb.Run(Words(), devices, throws ? new Throwing() : null, () => 1.25, _wakeUp));
        }
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["base"]));
        Assert.False(File.Exists(_folder["cow.merging"]));
        Assert.StartsWith("merged ", _lines.Results, StringComparison.Ordinal);
        Assert.Equal(throws ? 1 : 0, Regex.Count(Records(), "\"event\":\"observer\""));
        if (throws)
            Assert.Contains(
                "the progress of the merge can no longer be shown, and the merge continues: ArithmeticException: as the test asked for",
                Records(), StringComparison.Ordinal);
    }

    private sealed class Throwing : IMergeObserver
    {
        public void Progress(in MergeProgress progress) => throw new ArithmeticException("as the test asked for");

        public void Checking(in MergeProgress progress) => Progress(progress);
    }

    /// <summary>The steps around a merge are in one class, which the program uses everywhere.</summary>
    [Fact]
    public void Only_one_class_of_the_program_runs_the_engine_and_removes_the_marker()
    {
        string src = Path.Combine(Binary.Root, "src");
        string[] Having(string text) => [.. Directory.EnumerateFiles(src, "*.cs", SearchOption.AllDirectories)
            .Where(path => !path.Contains("/obj/", StringComparison.Ordinal) && File.ReadAllText(path)
                .Contains(text, StringComparison.Ordinal)).Select(path => Path.GetFileName(path)).Order(StringComparer.Ordinal)];
        Assert.Equal(["MergeLifecycle.cs"], Having("ngine.Run("));
        Assert.Equal(["MergeLifecycle.cs"], Having("ngine.MakeMergedDurable()"));
        Assert.Equal(["FinishedMerge.cs", "MergeLifecycle.cs"],
            Having("marker.End()").Concat(Having("mark?.End()")).Order(StringComparer.Ordinal));
        // No printing class has a durable step.
        foreach (string step in (string[])["NoteChecked(", ".Note(", "MergeMarker.", "Unlink(", "FileFlush."])
            foreach (string printer in (string[])["ProgressObserver.cs", "Progress.cs", "Output.cs", "DaemonVerb.cs", "Watch.cs"])
                Assert.DoesNotContain(printer, Having(step));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_stopped_merge_reports_its_position(bool json)
    {
        Invocation invocation = Words(json ? "--json" : "");
        using DeviceSet devices = Devices(Chain(window: 2));
        using MergeEngine engine = MergeEngine.Open(devices.Setup);
        _stop.Request();
        SnapuserdException stopped = Assert.Throws<SnapuserdException>(() => engine.Run());
        Assert.Equal(ExitCode.Interrupted, stopped.Code);
        Assert.Equal(ExitCode.Interrupted, MergeVerb.TellStopped(invocation, engine, "sync", 0.75, stopped));
        string told = Quoted("{`priority`:4,`event`:`error`,`message`:`MESSAGE`,`exit_code`:75}")
            .Replace("MESSAGE", stopped.Message, StringComparison.Ordinal);
        string record =
            Quoted("{`priority`:5,`event`:`stopped`,`message`:`the merge stands at op 0 of 6: 6 ops in all, 0 blocks and 0 B written "
                + "in 0.750 s, resumed 0 times`,`ops`:6,`resumed_from`:0,`blocks`:0,`bytes_written`:0,`seconds`:0.75,`times_resumed`:0,"
                + "`reads`:0,`worst_read_seconds`:0}");
        Assert.Equal($"{told}\n{record}\n", Records());
        string line = $$"""
            {"event":"stopped","ops":6,"blocks":0,"bytes_written":0,"seconds":0.75,"resumed_from":0,"io":"sync",
            "replayed":0,"journaled":0,"cow_bytes_written":{{engine.Result.CowBytesWritten}},"checkpoints":0,
            "flushes":{{engine.Result.Flushes}},"already_merged":false,"peak_memory":N,"times_resumed":0,"count":0}
            """.ReplaceLineEndings("");
        Assert.Equal(json ? line + "\n" : "", Results());
    }

    [Theory]
    [InlineData(false, ExitCode.InputOutput)]
    [InlineData(true, ExitCode.InputOutput)]
    [InlineData(false, ExitCode.Internal)]
    [InlineData(true, ExitCode.Internal)]
    public void A_failed_merge_reports_the_error_and_its_position(bool json, ExitCode code)
    {
        Invocation invocation = Words(json ? "--json" : "");
        using DeviceSet devices = Devices(Chain(window: 2));
        using MergeEngine engine = MergeEngine.Open(devices.Setup);
        Exception reason =
            code == ExitCode.Internal ? new InvalidOperationException("odd") : new SnapuserdException(code, "the disk failed");
        SnapshotStatus served = new() { Name = "n", Cow = "c", Base = "b", Reads = 2, WorstReadSeconds = 0.25 };
        Assert.Equal(code, MergeVerb.TellStopped(invocation, engine, "sync", 0.75, reason, served));
        string said = code == ExitCode.Internal ? "a defect of this program (InvalidOperationException): odd" : "the disk failed";
        Assert.Equal(json ? Quoted($"{{`event`:`error`,`exit_code`:{(int)code},`message`:`{said}`}}") + "\n" : "", _lines.Results);
        Assert.Equal(Quoted($"{{`priority`:3,`event`:`error`,`message`:`{said}`,`exit_code`:{(int)code}}}") + "\n"
            + Quoted("{`priority`:5,`event`:`failed`,`message`:`the merge stands at op 0 of 6: 6 ops in all, 0 blocks and 0 B written "
            + "in 0.750 s, resumed 0 times, 2 reads served, the slowest in 250 ms`,`ops`:6,`resumed_from`:0,`blocks`:0,"
            + "`bytes_written`:0,`seconds`:0.75,`times_resumed`:0,`reads`:2,`worst_read_seconds`:0.25}") + "\n", Records());
    }

    [Theory]
    [InlineData(0)]
    [InlineData(2)]
    public void A_cow_without_scratch_may_hide_damage(int window)
    {
        using DeviceSet devices = Devices(Chain(window));
        using MergeEngine engine = MergeEngine.Open(devices.Setup);
        MergeVerb.WarnOfHiddenDamage(Words(), engine);
        string warning =
            Quoted("{`priority`:4,`event`:`hidden_damage`,`message`:`COW has no scratch: if Android's own engine was killed while "
                + "merging it, the base may be damaged already, and nothing in the COW can show it`}");
        Assert.Equal(window == 0 ? warning.Replace("COW has", $"{_folder["cow"]} has", StringComparison.Ordinal) + "\n" : "", Records());
    }

    /// <summary>Six ops, each of which overwrites what the previous one reads.</summary>
    private static byte[] Chain(int window)
    {
        CowBuilder cow = new() { ScratchBytes = window == 0 ? 0 : 1 << 16, MaxUnitBytes = 4096 };
        for (uint i = 0; i < 6; i++) cow.Copy(i, i + 1);
        return cow.Build();
    }

    private DeviceSet Devices(byte[] cow)
    {
        File.WriteAllBytes(_folder["cow"], cow);
        File.WriteAllBytes(_folder["base"], Golden.Old);
        return new DeviceSet(new DeviceOptions
        {
            Cow = _folder["cow"],
            Base = _folder["base"],
            Writes = true,
            Io = IoChoice.Sync,
            ArenaBytes = 4 << 20,
            Threads = 1,
        }, _stop, _wakeUp);
    }

    private Invocation Words(string options = "", LineFiles? lines = null)
    {
        string[] words = ["--cow", _folder["cow"], "--base", _folder["base"], .. options.Split(' ', StringSplitOptions.RemoveEmptyEntries)];
        Output output = (lines ?? _lines).Output;
        output.LogTo(LogForm.Json);
        return new Invocation(Arguments.Parse(Verbs.All.Single(one => one.Name == "merge"), words), output);
    }

    /// <summary>JSON with its quotation marks written as backquotes.</summary>
    private static string Quoted(string json) => json.Replace('`', '"');

    /// <summary>The log without its timestamps.</summary>
    private string Records() => Regex.Replace(_lines.Diagnostics, ",\"uptime\":[0-9.]+", "");

    /// <summary>The results without the peak memory, which depends on the test process.</summary>
    private string Results() => Regex.Replace(_lines.Results, "\"peak_memory\":[0-9]+", "\"peak_memory\":N");
}
