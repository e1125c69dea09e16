using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Merge;
using Xunit;

namespace Snapuserd.Tests.Control;

/// <summary>
/// The effect of the lines of `ctl` on the snapshots of a process: on all, on one, or on none where the line is ambiguous.
/// </summary>
public sealed class ControlCommandsTests : IDisposable
{
    private readonly WakeUp _wakeUp = new();
    private readonly List<string> _stopped = [];

    public void Dispose() => _wakeUp.Dispose();

    [Theory]
    [InlineData("merge")]
    [InlineData("pause")]
    [InlineData("resume")]
    [InlineData("rate 5")]
    [InlineData("stop")]
    public void Commands_that_change_something_need_a_name_or_all_if_there_are_several_snapshots(string command)
    {
        Snapshot a = Make("a"), b = Make("b c");
        ControlCommands commands = Commands(a, b);
        foreach (string line in (string[])[command, "json " + command])
        {
            (ExitCode Code, string Sentence)? refusal = commands.Do(line, new Reply());
            Assert.Equal(ExitCode.Usage, refusal?.Code);
            Assert.EndsWith("takes a NAME where there are several snapshots, or --all; there is a, b c", refusal?.Sentence,
                StringComparison.Ordinal);
        }
        Assert.Equal((false, 0L, false, 0L), (a.Status.Paused, a.Status.BytesPerSecond, b.Status.Paused, b.Status.BytesPerSecond));
        Assert.Empty(_stopped);
        // Snapshots that are not served cannot be merged, whichever client asks. All other commands work.
        Assert.Equal(command == "merge" ? ExitCode.InUse : null, commands.Do($"all {command}", new Reply())?.Code);
        Assert.Equal(command == "merge" ? ExitCode.InUse : null, commands.Do($"{command} b c", new Reply())?.Code);
        Assert.Equal(command == "merge" ? ExitCode.InUse : null, Commands(a).Do(command, new Reply())?.Code);
    }

    [Fact]
    public void A_name_selects_one_snapshot_and_all_selects_all()
    {
        Snapshot a = Make("a"), b = Make("b");
        ControlCommands commands = Commands(a, b);
        Assert.Null(commands.Do("pause b", new Reply()));
        Assert.Null(commands.Do("rate 7 a", new Reply()));
        Assert.Equal((false, true, 7L, 0L), (a.Status.Paused, b.Status.Paused, a.Status.BytesPerSecond, b.Status.BytesPerSecond));
        Assert.Null(commands.Do("json all rate 9", new Reply()));
        Assert.Null(commands.Do("all pause", new Reply()));
        Assert.Equal((true, true, 9L, 9L), (a.Status.Paused, b.Status.Paused, a.Status.BytesPerSecond, b.Status.BytesPerSecond));
        Assert.Null(commands.Do("all resume", new Reply()));
        Assert.Equal((false, false), (a.Status.Paused, b.Status.Paused));
        Assert.Null(commands.Do("stop b", new Reply()));
        Assert.Equal(["b"], _stopped);
        Assert.Null(commands.Do("all stop", new Reply()));
        Assert.Equal(["b", "a", "b"], _stopped);
        Assert.Equal(ExitCode.InputMissing, commands.Do("stop c", new Reply())?.Code);
    }

    [Theory]
    [InlineData("list")]
    [InlineData("status")]
    [InlineData("json list")]
    [InlineData("watch")]
    public void Commands_that_only_report_include_all_snapshots(string command)
    {
        Reply reply = new();
        Assert.Null(Commands(Make("a"), Make("b")).Do(command, reply));
        Assert.Equal(2, reply.Lines.Count);
    }

    private ControlCommands Commands(params Snapshot[] snapshots) => new(() => snapshots, one => _stopped.Add(one.Name));

    /// <summary>A snapshot that was never opened and is never run.</summary>
    private Snapshot Make(string name) => new(new SnapshotOptions
    {
        Name = name,
        Devices = new DeviceOptions
        {
            Cow = "/nowhere/cow",
            Base = "/nowhere/base",
            Writes = true,
            Io = IoChoice.Sync,
            ArenaBytes = 8 << 20,
            Threads = 1,
        },
        CacheBytes = 1 << 20,
        ServerBytes = 1 << 20,
    }, new StopFlag(), _wakeUp);

    private sealed class Reply : IReplyLines
    {
        internal List<string> Lines { get; } = [];

        public void Line(string text) => Lines.Add(text);

        public void Passing(string text) => Lines.Add(text);
    }
}
