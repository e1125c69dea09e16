using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Boot;
using Snapuserd.Interop;
using Snapuserd.Serve;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.Boot;

/// <summary>The system calls of a boot, its time limits, and the mapped device that it leaves. The tests answer for the kernel.</summary>
public sealed class BootCallTests : IDisposable
{
    private const uint SYS_socketpair = 53, SYS_clone = 56, SYS_mkdir = 83;

    /// <summary>Reports on the descriptor of --ready-fd that the device is ready.</summary>
    private const string Tell = "perl -e 'open F, \">&=$ARGV[0]\" or die; print F \"/dev/x\\n\"' $1";

    private readonly TempFolder _folder = new();
    private readonly MemoryLog _log = new();
    private readonly FakeMapper _kernel = new();
    private int _opens;

    public BootCallTests() => Directory.CreateDirectory(_folder["run"]);

    private BootRow Row => new("root", _folder["cow"], _folder["base"], null, 1, "the test");

    public void Dispose()
    {
        FileFlush.Before = null;
        _folder.Dispose();
    }

    /// <summary>Either call can create a process.</summary>
    private static uint[] Calls(uint call) => call == SYS_clone ? [SYS_clone, SYS_clone3] : [call];

    [Theory]
    [InlineData(SYS_mkdir, ExitCode.CannotCreate, "FOLDER cannot be made: ")]
    [InlineData(SYS_socketpair, ExitCode.OutOfResources, "a server cannot be started: ")]
    [InlineData(SYS_clone, ExitCode.OutOfResources, "a server cannot be started: ")]
    [InlineData(SYS_wait4, ExitCode.Unavailable, "a child process cannot be waited for or ended: wait4 failed: ")]
    public void A_server_that_the_system_refuses_is_an_error_with_its_reason(uint call, ExitCode code, string words)
    {
        using BootSystem system = System();
        SnapuserdException? failure = null;
        Refusing(Calls(call), Errno.EPERM, () => failure = Assert.Throws<SnapuserdException>(() => system.Serve(["sh", "-c", "exit 66"])));
        Assert.Equal(code, failure!.Code);
        string start = words.Replace("FOLDER", _folder["run/control"], StringComparison.Ordinal) + ErrnoText.Of(-Errno.EPERM);
        Assert.StartsWith(start, failure.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(SYS_clone, ExitCode.OutOfResources, "a merge cannot be started: ")]
    [InlineData(SYS_wait4, ExitCode.Unavailable, "a child process cannot be waited for or ended: wait4 failed: ")]
    public void A_merge_that_the_system_refuses_is_an_error_with_its_reason(uint call, ExitCode code, string words)
    {
        using BootSystem system = System();
        SnapuserdException? failure = null;
        Refusing(Calls(call), Errno.EPERM, () => failure = Assert.Throws<SnapuserdException>(() => system.Merge(["sh", "-c", "exit 66"])));
        Assert.Equal(code, failure!.Code);
        Assert.StartsWith(words + ErrnoText.Of(-Errno.EPERM), failure.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(-Errno.EINTR, ExitCode.InputMissing)]
    [InlineData(-Errno.EPERM, ExitCode.Internal)]
    [InlineData(-Errno.ECHILD, ExitCode.Internal)]
    public void A_boot_waits_for_a_merge_until_it_ends_or_waiting_fails(int answer, ExitCode code)
    {
        using BootSystem system = System();
        int child = 0, times = 0;
        Answering([SYS_wait4], call =>
        {
            if (call[0] == Libc.GetPid()) return null;
            child = call[0];
            return times++ == 0 ? answer : null;
        }, () => Assert.Equal(code, system.Merge(["sh", "-c", code == ExitCode.Internal ? "exit 0" : "exit 66"])));
        Assert.True(child > 0);
        if (code == ExitCode.Internal) Assert.Equal(0, Libc.WaitPid(child, out _, out _));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_server_writes_its_diagnostics_to_the_kernels_log_or_nowhere(bool hasLog)
    {
        using BootSystem system = System();
        File.WriteAllText(_folder["log"], "");
        const string streams = "for fd in 0 1 2; do [ /proc/$$/fd/$fd -ef /dev/null ] && null=$null$fd; done; ";
        string check = $"{streams}[ \"$null\" = {(hasLog ? "01" : "012")} ] || exit 65; echo said >&2; exit 66";
        ExitCode code = ExitCode.Done;
        Answering([SYS_openat], call => call.Text(1) != "/dev/kmsg" ? null
            : hasLog ? Libc.OpenAt(Libc.AT_FDCWD, _folder["log"], Libc.O_WRONLY | Libc.O_CLOEXEC) : -Errno.EPERM,
            () => code = system.Serve(["sh", "-c", check]));
        Assert.Equal(ExitCode.InputMissing, code);
        Assert.Equal(hasLog ? "said\n" : "", File.ReadAllText(_folder["log"]));
    }

    [Fact]
    public void Every_descriptor_is_closed_once_and_the_program_is_opened_once()
    {
        List<int> closed = [];
        HashSet<int> opened = [];
        int program = -1, opens = 0;
        Answering([SYS_openat, SYS_close, SYS_poll], call =>
        {
            if (call.Number == SYS_close) closed.Add(call[0]);
            if (call.Number == SYS_poll && call.Long(1) == 1) opened.Add(call.At<PollFd>(0).Fd);
            if (call.Number != SYS_openat || call.Text(1) is not ("/dev/null" or "/dev/kmsg")) return null;
            int fd = Libc.OpenAt(Libc.AT_FDCWD, "/dev/null", call[2]);
            opened.Add(fd);
            return fd;
        }, () =>
        {
            using (new BootSystem(_log, false, _folder["run/control"], null!)) { }
            Assert.Empty(closed);
            using (BootSystem system = new(_log, false, _folder["run/control"], null!)
            {
                OpensProgram = () =>
                {
                    opens++;
                    return program = Shell();
                },
            })
            {
                Assert.Equal(ExitCode.InputMissing, system.Serve(["sh", "-c", "exit 66"]));
                // The observed descriptors and the child's end of the pair.
                Assert.Equal(4, closed.Distinct().Count());
                Assert.Equal(4, closed.Count);
                Assert.Subset(new HashSet<int>(closed), opened);
                Assert.DoesNotContain(-1, closed);
                closed.Clear();
                Assert.Equal(ExitCode.CowCorrupt, system.Merge(["sh", "-c", "exit 65"]));
                Assert.Empty(closed);
            }
        });
        Assert.Equal(1, opens);
        Assert.Equal([program], closed);
    }

    [Theory]
    [InlineData(Tell + "; exit 66", ExitCode.Done)]
    [InlineData("perl -e 'open F, \">&=$ARGV[0]\" or die; print F \"x\"' $1; exit 66", ExitCode.Done)]
    [InlineData("exit 66", ExitCode.InputMissing)]
    public void A_server_that_reported_and_ended_between_two_checks_was_ready(string script, ExitCode code)
    {
        using BootSystem system = System();
        bool first = true;
        Answering([SYS_poll, SYS_wait4], call =>
        {
            if (call.Number == SYS_poll)
            {
                if (call.Long(1) != 1 || !first) return null;
                first = false;
                return 0;
            }
            // The child does everything after the poll of the descriptor and before the wait for the child.
            if (call[0] != Libc.GetPid()) Assert.Equal(0, Libc.WaitForEnd(call[0]));
            return null;
        }, () => Assert.Equal(code, system.Serve(["sh", "-c", script])));
    }

    [Fact]
    public void A_server_that_ended_has_failed_even_if_a_child_of_it_keeps_the_descriptor()
    {
        LoopDevice.Call("mkfifo", _folder["end"]);
        using BootSystem system = System();
        // No poll finds a line, and no signal interrupts one.
        Answering([SYS_poll], _ => 0,
            () => Assert.Equal(ExitCode.InputMissing, system.Serve(["sh", "-c", $"(read x <{_folder["end"]}) & exit 66"])));
        int fd;
        do fd = Libc.OpenAt(Libc.AT_FDCWD, _folder["end"], Libc.O_WRONLY | Libc.O_NONBLOCK | Libc.O_CLOEXEC);
        while (fd == -Errno.ENXIO);
        Assert.True(fd >= 0);
        _ = Libc.Close(fd);
    }

    [Fact]
    public void A_server_that_closed_the_descriptor_is_checked_at_intervals()
    {
        using BootSystem system = System();
        // The server ends during the pause, which comes only after the descriptor is closed.
        string script = $"exec perl -MPOSIX -e 'POSIX::close($ARGV[0]); until (-e \"{_folder["go"]}\") {{ select undef, undef, undef, 0.01 "
            + "} POSIX::_exit(65)' $1";
        Answering([SYS_poll], call =>
        {
            if (call.Long(1) == 0) File.WriteAllText(_folder["go"], "");
            return null;
        }, () => Assert.Equal(ExitCode.CowCorrupt, system.Serve(["sh", "-c", script])));
    }

    [Theory]
    [InlineData(-1, ExitCode.Done)]
    [InlineData(0, ExitCode.InputOutput)]
    public void A_line_counts_if_it_comes_before_the_time_is_over(int late, ExitCode code)
    {
        int looks = 0;
        using BootSystem system = System(() =>
        {
            if (looks++ == 0) return 1000;
            Await("told");
            return 1000 + BootSystem.ReadyMilliseconds + late;
        });
        Assert.Equal(code, system.Serve(["sh", "-c", $"{Tell}; {Put("told")}; exec sleep 1000"]));
        int server = Number("told");
        if (code == ExitCode.Done)
        {
            Assert.Equal(0, Libc.Kill(server, Libc.SIGKILL));
            Assert.Equal(0, Libc.WaitPid(server, out _, out _));
        }
        Assert.Equal(-Errno.ECHILD, Libc.WaitPid(server, out _, out _));
    }

    [Fact]
    public void A_server_that_is_not_ready_in_time_is_asked_to_end_and_waited_for()
    {
        int looks = 0;
        using BootSystem system = System(() =>
        {
            if (looks++ == 0) return 0;
            Await("up");
            return BootSystem.ReadyMilliseconds;
        });
        string script = $$"""
            exec perl -e '$SIG{TERM} = sub { select undef, undef, undef, 0.2; open F, ">{{_folder["ended"]}}"; exit 0 };
                open U, ">{{_folder["new"]}}"; print U $$; close U; rename "{{_folder["new"]}}", "{{_folder["up"]}}"; sleep 1 while 1'
            """;
        Assert.Equal(ExitCode.InputOutput, system.Serve(["sh", "-c", script]));
        Assert.True(File.Exists(_folder["ended"]));
        Assert.Equal(-Errno.ECHILD, Libc.WaitPid(Number("up"), out _, out _));
    }

    /// <summary>
    /// The server ends at the poll that many milliseconds after the stop request. Its child ignores that request and is killed if the
    /// server is too late.
    /// </summary>
    [Theory]
    [InlineData(9_999, true)]
    [InlineData(10_000, false)]
    [InlineData(int.MaxValue, false)]
    public void A_server_that_does_not_end_is_killed_with_all_that_it_started(int endsAt, bool childLives)
    {
        LoopDevice.Call("mkfifo", _folder["alive"]);
        int alive = Libc.OpenAt(Libc.AT_FDCWD, _folder["alive"], Libc.O_RDONLY | Libc.O_NONBLOCK | Libc.O_CLOEXEC);
        long[] times = [0, BootSystem.ReadyMilliseconds, BootSystem.ReadyMilliseconds, BootSystem.ReadyMilliseconds + 9_999];
        int looks = 0;
        using BootSystem system = System(() =>
        {
            long now = looks < times.Length ? times[looks] : BootSystem.ReadyMilliseconds + 10_000;
            if (looks++ == 1) Await("up");
            if (now == BootSystem.ReadyMilliseconds + (long)endsAt)
            {
                File.WriteAllText(_folder["go"], "");
                Assert.Equal(0, Libc.WaitForEnd(Number("up")));
            }
            return now;
        });
        string script = $$"""
            exec perl -e '$SIG{TERM} = "IGNORE"; open A, ">{{_folder["alive"]}}"; $parent = fork;
                if ($parent) { open U, ">{{_folder["new"]}}"; print U $$; close U; rename "{{_folder["new"]}}", "{{_folder["up"]}}" }
                while (1) { exit 0 if $parent && -e "{{_folder["go"]}}"; select undef, undef, undef, 0.01 }'
            """;
        Assert.Equal(ExitCode.InputOutput, system.Serve(["sh", "-c", script]));
        Assert.Equal(-Errno.ECHILD, Libc.WaitPid(Number("up"), out _, out _));
        // End of the pipe: no live process has it open.
        Span<PollFd> one = [new PollFd { Fd = alive, Events = Libc.POLLIN }];
        Assert.Equal(childLives ? 0 : 1, Libc.Poll(one, childLives ? 200 : 30_000));
        if (childLives) Assert.Equal(0, Libc.Kill(-Number("up"), Libc.SIGKILL));
        _ = Libc.Close(alive);
    }

    [Fact]
    public void The_program_is_the_file_that_was_executed_or_what_proc_has_in_its_place()
    {
        string? path = Libc.ExecutedPath();
        Assert.NotNull(path);
        const string proc = "/proc/self/exe";
        string own = new FileInfo(proc).LinkTarget!;
        foreach (string[] refused in (string[][])[[], [path], [proc]])
        {
            List<string> asked = [];
            int fd = -1;
            Answering([SYS_openat], call =>
            {
                asked.Add(call.Text(1));
                return refused.Contains(asked[^1]) ? -Errno.EPERM : null;
            }, () => fd = Fresh().OpensProgram());
            Assert.Equal(refused is [var one] && one == path ? [path, proc] : [path], asked);
            Assert.Equal(own, DescriptorPath.Of(fd));
            Assert.Equal(1, Libc.Fcntl(fd, Libc.F_GETFD, 0));
            _ = Libc.Close(fd);
        }
        SnapuserdException? missing = null;
        Answering([SYS_openat], call => call.Text(1) == path || call.Text(1) == proc ? -Errno.EPERM : null,
            () => missing = Assert.Throws<SnapuserdException>(() => Fresh().OpensProgram()));
        Assert.Equal((ExitCode.InputMissing, $"this program's own file cannot be opened: {ErrnoText.Of(-Errno.EPERM)}"),
            (missing!.Code, missing.Message));
    }

    [Theory]
    [InlineData("", false)]
    [InlineData("/dev/ublkb987654", true)]
    [InlineData("/dev/ublkc987654", true)]
    public void A_number_is_taken_if_one_of_its_nodes_exists(string node, bool taken)
    {
        using BootSystem system = System();
        Seeing(node, () => Assert.Equal(taken, system.IsUblkTaken(987_654)));
        Seeing("/dev/ublk-control", () => Assert.True(system.HasUblk));
        Answering([SYS_statx], call => call.Text(1) == "/dev/ublk-control" ? -Errno.ENOENT : null, () => Assert.False(system.HasUblk));
    }

    [Theory]
    [InlineData("base")]
    [InlineData("cow")]
    public void A_flush_that_is_refused_is_an_error_whatever_the_reason(string refused)
    {
        File.WriteAllBytes(_folder["cow"], Golden.Cow("v3-lz4-64k-xor"));
        File.WriteAllBytes(_folder["base"], Golden.Old);
        FileFlush.Before = fd => Path.GetFileName(DescriptorPath.Of(fd)) == refused ? -Errno.EPERM : 0;
        using BootSystem system = System();
        SnapuserdException failure = Assert.Throws<SnapuserdException>(() => system.Flush(Row));
        Assert.Equal($"{_folder[refused]} cannot be flushed: {ErrnoText.Of(-Errno.EPERM)}", failure.Message);
    }

    [Fact]
    public void A_claim_names_the_cow_first()
    {
        File.WriteAllBytes(_folder["cow"], Golden.Cow("v3-lz4-64k-xor"));
        File.WriteAllBytes(_folder["base"], Golden.Old);
        using BootSystem system = System();
        using (BlockDevice.Open(_folder["cow"], DeviceAccess.Write | DeviceAccess.Exclusive))
        using (BlockDevice.Open(_folder["base"], DeviceAccess.Write | DeviceAccess.Exclusive))
        {
            SnapuserdException used = Assert.Throws<SnapuserdException>(() => system.Claim(Row).Dispose());
            Assert.Equal(ExitCode.InUse, used.Code);
            Assert.Contains(_folder["cow"], used.Message, StringComparison.Ordinal);
        }
        system.Claim(Row).Dispose();
    }

    [Fact]
    public void A_check_of_the_payloads_reports_missing_features_of_the_system()
    {
        File.WriteAllBytes(_folder["cow"], Golden.Cow("v3-lz4-64k-xor"));
        File.WriteAllBytes(_folder["base"], Golden.Old);
        using BootSystem system = System();
        Refusing(SYS_io_uring_setup, Errno.EPERM, () => system.Verify(Row));
        Assert.Contains(_log.Records, record =>
            record.Name == "row" && record.Sentence.StartsWith("root: going on without io_uring: ", StringComparison.Ordinal));
    }

    [Fact]
    public void A_row_is_old_if_its_device_is_on_its_base_and_read_only()
    {
        uint minor = 3;
        using BootSystem system = Mapped(() => minor);
        Assert.False(system.IsOld(Row));
        system.StandOnBase(Row, readOnly: true);
        Assert.Equal(("259:3 0", true), (_kernel.Devices["root"].Active, _kernel.Devices["root"].ActiveReadOnly));
        Assert.True(system.IsOld(Row));
        minor = 4;
        Assert.False(system.IsOld(Row));
        system.StandOnBase(Row, readOnly: false);
        Assert.Equal(("259:4 0", false), (_kernel.Devices["root"].Active, _kernel.Devices["root"].ActiveReadOnly));
        Assert.False(system.IsOld(Row));
        system.CheckMapper(Row);
        Assert.Equal(_opens, _kernel.Disposals);
    }

    [Fact]
    public void The_table_of_a_killed_process_is_dropped_before_the_base_is_inspected()
    {
        string? pending = "";
        uint minor = 3;
        using BootSystem system = Mapped(() =>
        {
            if (_kernel.Devices.TryGetValue("root", out FakeMapper.Device? device)) pending = device.Inactive;
            return minor;
        });
        system.StandOnBase(Row, readOnly: true);
        _kernel.Devices["root"].Inactive = "259:9 0";
        system.StandOnBase(Row, readOnly: true);
        Assert.Null(pending);
    }

    private BootSystem Mapped(Func<uint> minor) => new(_log, false, _folder["run/control"], null!)
    {
        OpensMapped = name =>
        {
            _opens++;
            return MappedDevice.Open(name, _kernel);
        },
        TargetOf = (path, readOnly) => new MapperTarget(path, 259, minor(), 64, readOnly),
    };

    private BootSystem Fresh() => new(_log, false, _folder["run/control"], null!);

    private BootSystem System(Func<long>? clock = null) => new(_log, false, _folder["run/control"], null!)
    {
        OpensProgram = Shell,
        Clock = clock == null ? new MonotonicClock() : new Clock(clock),
    };

    private static int Shell() => Libc.OpenAt(Libc.AT_FDCWD, "/bin/sh", Libc.O_RDONLY | Libc.O_CLOEXEC);

    /// <summary>A shell command that atomically writes its process id to a file.</summary>
    private string Put(string name) => $"echo $$ >{_folder["new"]}; mv {_folder["new"]} {_folder[name]}";

    private int Number(string name) => int.Parse(File.ReadAllText(_folder[name]), CultureInfo.InvariantCulture);

    private void Await(string name)
    {
        while (!File.Exists(_folder[name])) _ = Libc.Poll(default, 5);
    }

    /// <summary>
    /// Runs <paramref name="action"/> while statx of <paramref name="path"/> succeeds. Only calls with the path alone count.
    /// </summary>
    private static void Seeing(string path, Action action) =>
        Answering([SYS_statx], call => call.Text(1) == path && call[0] == Libc.AT_FDCWD && call[2] == 0 ? 0 : null, action);

    private sealed class Clock(Func<long> milliseconds) : ITimeSource
    {
        public long Milliseconds => milliseconds();
    }
}
