using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Cow;
using Snapuserd.Host;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Serve;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Interop.DeviceMapperAbi;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.Control;

/// <summary>
/// One snapshot on the test's thread: its status, its notifications and its files at every point of its life. Its server and the device
/// mapper are fakes.
/// </summary>
public sealed class SnapshotTests : IDisposable
{
    private const string Vector = "v3-lz4-descending", Served = "259:7 0", OnBase = "259:3 0";

    private const int F_DUPFD_CLOEXEC = 1030;

    private readonly TempFolder _folder = new();
    private readonly FakeMapper _kernel = new();
    private readonly WakeUp _wakeUp = new();
    private readonly Watcher _watcher = new();
    private readonly List<string> _asked = [];
    private readonly List<string> _flushed = [];
    private readonly List<IDisposable> _made = [];
    private Func<string, int> _flush = _ => 0;
    private FakeServer? _server;
    private int _looks;

    public SnapshotTests()
    {
        Files(Golden.Cow(Vector), Golden.Old);
        FileFlush.Before = fd =>
        {
            string name = Path.GetFileName(DescriptorPath.Of(fd));
            _flushed.Add(name);
            return _flush(name);
        };
    }

    public void Dispose()
    {
        FileFlush.Before = null;
        for (int i = _made.Count - 1; i >= 0; i--) _made[i].Dispose();
        _wakeUp.Dispose();
        _folder.Dispose();
    }

    /// <summary>Records the calls to a server, and fails when the test says so.</summary>
    private sealed class FakeServer : IBlockServer
    {
        public string? Failure { get; set; }

        public int Clients { get; set; }

        internal SnapshotView? View { get; set; }

        internal List<string> Calls { get; } = [];

        public string Start() => "memory";

        public void Stop() => Calls.Add("stop");

        public void Dispose() => Calls.Add("dispose");
    }

    /// <summary>Records the notifications, and then runs the test's callback.</summary>
    private sealed class Watcher : ISnapshotObserver
    {
        internal List<string> Heard { get; } = [];

        internal Action<MergeProgress>? AtProgress { get; set; }

        internal Action<MergeProgress>? AtCheck { get; set; }

        internal Action<Snapshot> AtEnd { get; set; } = snapshot => snapshot.RequestStop();

        public void Progress(in MergeProgress progress)
        {
            if (Heard.Count == 0 || Heard[^1] != "progress") Heard.Add("progress");
            AtProgress?.Invoke(progress);
        }

        public void Checking(in MergeProgress progress)
        {
            if (Heard.Count == 0 || Heard[^1] != "check") Heard.Add("check");
            AtCheck?.Invoke(progress);
        }

        public void Merged(Snapshot snapshot, MergeResult result)
        {
            Heard.Add($"merged {result.OpsTotal}");
            AtEnd(snapshot);
        }

        public void Stopped(Snapshot snapshot, Exception reason)
        {
            Heard.Add($"stopped {(reason as SnapuserdException)?.Code}: {reason.Message}");
            AtEnd(snapshot);
        }

        public void HandedOver(Snapshot snapshot) => Heard.Add("handed over");
    }

    private void Files(byte[] cow, byte[] old)
    {
        File.WriteAllBytes(_folder["cow"], cow);
        File.WriteAllBytes(_folder["base"], old);
    }

    /// <summary>Makes the files as they are after another process has merged and counted everything.</summary>
    private void Count()
    {
        byte[] cow = Golden.Cow(Vector);
        BinaryPrimitives.WriteUInt64LittleEndian(cow.AsSpan(CowHeader.MergeCountOffset), (ulong)Golden.Row(Vector).MergeOps);
        Files(cow, Golden.New);
    }

    private Snapshot Make(bool mapper = false, bool writes = true, MergeSlots? slots = null, string? path = null, WakeUp? wakeUp = null,
        int? resumed = null, bool verifyFirst = true,
        IoChoice io = IoChoice.Sync, Func<bool>? signalled = null)
    {
        Snapshot made = new(new SnapshotOptions
        {
            Name = "root",
            Devices = new DeviceOptions
            {
                Cow = _folder["cow"],
                Base = path ?? _folder["base"],
                Writes = writes,
                Io = io,
                ArenaBytes = 16 << 20,
                Threads = 1,
            },
            CacheBytes = 1 << 20,
            ServerBytes = 1 << 20,
            Slots = slots,
            VerifyFirst = verifyFirst,
            TimesResumed = resumed,
            Mapper = mapper ? "root" : null,
            OpenMapped = name => MappedDevice.Open(name, _kernel),
            TargetOf = (device, readOnly, bytes) => new MapperTarget(device, 259, device == "memory" ? 7u : 3u, bytes / 512, readOnly),
            Observer = _watcher,
            BeforeHandOver = RootStorage.EnterSystemRoot,
            Asked = one => _asked.Add(string.Create(CultureInfo.InvariantCulture, $"{one.MergeRequested} {one.Status.Paused} "
                + $"{one.Status.BytesPerSecond}")),
        }, new StopFlag(signalled), wakeUp ?? _wakeUp);
        _made.Add(made);
        return made;
    }

    private Snapshot Serving(bool mapper = false, bool writes = true, MergeSlots? slots = null, WakeUp? wakeUp = null,
        bool verifyFirst = true)
    {
        Snapshot made = Make(mapper, writes, slots, wakeUp: wakeUp, verifyFirst: verifyFirst);
        made.Open();
        Assert.Equal(mapper ? "/dev/mapper/root" : "memory", made.Serve(Start));
        return made;
    }

    /// <summary>A served snapshot whose merge fails: the engine gets an exception when it checks whether it must stop.</summary>
    private Snapshot Failing(Exception thrown, MergeSlots? slots = null, WakeUp? wakeUp = null)
    {
        Snapshot? made = null;
        made = Make(slots: slots, wakeUp: wakeUp, signalled: () => made?.Status.State == SnapshotState.Merging ? throw thrown : false);
        made.Open();
        _ = made.Serve(Start);
        return made;
    }

    private FakeServer Start(SnapshotView view, BlockDevice[] devices, int memory, WakeUp wakeUp, out string device)
    {
        _server = new FakeServer { View = view };
        device = _server.Start();
        return _server;
    }

    private static string Says(Action action)
    {
        SnapuserdException e = Assert.Throws<SnapuserdException>(action);
        return $"{(int)e.Code} {e.Message}";
    }

    /// <summary>Waits until the monotonic clock has advanced by the given time.</summary>
    private static void Pass(int milliseconds)
    {
        MonotonicClock clock = new();
        for (long began = clock.Milliseconds; clock.Milliseconds - began < milliseconds;) Thread.Yield();
    }

    private bool Woken() => _wakeUp.Wait(0);

    [Fact]
    public void Holder_is_a_client_or_another_program()
    {
        Snapshot one = Serving();
        Assert.Null(one.Holder());
        _server!.Clients = 1;
        Assert.Equal("a client is connected", one.Holder());
        _server.Clients = 2;
        Assert.Equal("2 clients are connected", one.Holder());
        _server.Clients = 0;
        foreach (int answer in (int[])[-Errno.EBUSY, -Errno.EACCES])
        {
            string? holder = "";
            Answering([SYS_openat], call => call.Text(1) == "memory" ? answer : null, () => holder = one.Holder());
            Assert.Equal(answer == -Errno.EBUSY ? "memory is mounted, or another program has it open exclusively" : null, holder);
        }
    }

    [Fact]
    public void Every_request_takes_effect_before_it_wakes_and_notifies()
    {
        Snapshot one = Make();
        Assert.Throws<InvalidOperationException>(() => one.Engine);
        Assert.Throws<InvalidOperationException>(() => one.Devices);
        Assert.Throws<InvalidOperationException>(() => one.Length);
        Assert.Equal(("root", _folder["cow"], _folder["base"], SnapshotState.Opening),
            (one.Status.Name, one.Status.Cow, one.Status.Base, one.Status.State));
        Assert.True(one.CanMerge);
        Assert.False(one.RequestMerge());
        one.Open();
        Assert.Equal((SnapshotState.Serving, "", 0), (one.Status.State, one.Status.Device, one.Status.OpsDone));
        Assert.Equal(Golden.Row(Vector).MergeOps, one.Status.OpsTotal);
        Assert.Equal(Golden.Old.Length, one.Length);
        Assert.False(one.RequestMerge());
        Assert.Empty(_asked);
        Assert.Equal("memory", one.Serve(Start));
        Assert.Equal("memory", one.Status.Device);
        _ = Woken();
        one.Pause();
        Assert.True(Woken());
        Assert.True(one.IsPaused);
        one.SetRate(77);
        Assert.True(Woken());
        one.Resume();
        Assert.True(Woken());
        Assert.True(one.RequestMerge());
        Assert.True(Woken());
        Assert.Equal((true, SnapshotState.Queued), (one.MergeRequested, one.Status.State));
        Assert.Equal(["False True 0", "False True 77", "False False 77", "True False 77"], _asked);
        Assert.False(one.RequestMerge());
        Assert.False(Woken());
        one.EndMerge();
        Assert.True(Woken());
        Assert.Equal((SnapshotState.Serving, ExitCode.Interrupted), (one.Status.State, one.Status.EndedWith));
        one.RequestStop();
        Assert.True(Woken());
        one.Dispose();
        Assert.Equal((SnapshotState.Ended, ""), (one.Status.State, one.Status.Device));
        Assert.Equal(["dispose"], _server!.Calls);
        one.Wake();
        Assert.False(Woken());
    }

    [Fact]
    public void A_snapshot_that_is_only_read_or_whose_merges_have_ended_cannot_be_merged()
    {
        Snapshot reading = Serving(writes: false);
        Assert.False(reading.CanMerge);
        Assert.False(reading.RequestMerge());
        reading.Dispose();
        Snapshot ended = Serving();
        ended.EndMerge();
        Assert.Equal((SnapshotState.Serving, ExitCode.Done), (ended.Status.State, ended.Status.EndedWith));
        Assert.False(ended.RequestMerge());
        Assert.False(ended.MergeRequested);
        Assert.Empty(_asked);
    }

    [Fact]
    public void Ticks_are_needed_by_a_merge_with_a_rate_from_its_request_to_its_end()
    {
        Snapshot one = Serving();
        Assert.False(one.NeedsTicks);
        one.SetRate(1L << 40);
        Assert.False(one.NeedsTicks);
        one.SetRate(0);
        Assert.True(one.RequestMerge());
        Assert.False(one.NeedsTicks);
        one.SetRate(1L << 40);
        Assert.True(one.NeedsTicks);
        one.Pause();
        Assert.False(one.NeedsTicks);
        one.Resume();
        bool? merging = null, paused = null;
        _watcher.AtProgress = _ =>
        {
            merging ??= one.NeedsTicks;
            one.Pause();
            paused ??= one.NeedsTicks;
            one.Resume();
            one.SetRate(0);
            Assert.False(one.NeedsTicks);
            one.SetRate(1L << 40);
            // By now a batch may have written more than the rate allows.
            one.SetRate(0);
        };
        Assert.Equal(ExitCode.Done, one.Run());
        Assert.Equal((true, false), (merging, paused));
        one.SetRate(1L << 40);
        Assert.False(one.NeedsTicks);
        one.Dispose();
        Assert.False(one.NeedsTicks);
        Files(Golden.Cow(Vector), Golden.Old);
        Snapshot ended = Serving();
        ended.SetRate(1);
        Assert.True(ended.RequestMerge());
        ended.EndMerge();
        Assert.False(ended.NeedsTicks);
    }

    [Fact]
    public void Status_follows_the_check_the_merge_and_its_end()
    {
        Snapshot one = Serving();
        IMergeObserver engine = one;
        // No merge is running, so there is no rate and no check.
        engine.Checking(new MergeProgress(1, 2, 3, 4));
        Assert.Null(one.Status.CheckPercent);
        List<double?> percents = [];
        bool first = true;
        _watcher.AtCheck = progress =>
        {
            Assert.Equal(SnapshotState.Merging, one.Status.State);
            Assert.Equal(100.0 * progress.BytesDone / progress.BytesTotal, one.Status.CheckPercent);
            percents.Add(one.Status.CheckPercent);
            if (first)
            {
                first = false;
                Pass(3);
                Assert.InRange(one.Status.MergeSeconds, 0.001, 600);
                engine.Checking(new MergeProgress(0, 0, 0, 0));
            }
        };
        _watcher.AtCheck = Nested(_watcher.AtCheck, one);
        bool measured = false;
        _watcher.AtProgress = progress =>
        {
            SnapshotStatus status = one.Status;
            Assert.Null(status.CheckPercent);
            Assert.Equal((progress.OpsDone, progress.OpsTotal, progress.BytesDone, progress.BytesTotal),
                (status.OpsDone, status.OpsTotal, status.BytesDone, status.BytesTotal));
            if (measured) return;
            measured = true;
            for (int i = 1; one.Status.Rate == 0; i++)
                engine.Progress(new MergeProgress(progress.OpsDone, progress.OpsTotal, i * 1000L, progress.BytesTotal));
            Assert.True(one.Status.Rate > 0);
            one.Pause();
            Assert.Equal(0, one.Status.Rate);
            one.Resume();
            engine.Progress(progress);
        };
        // The observer's own calls of the engine notify it again; ignore those.
        Action<MergeProgress> inner = _watcher.AtProgress;
        bool inside = false;
        _watcher.AtProgress = progress =>
        {
            if (inside) return;
            inside = true;
            inner(progress);
            inside = false;
        };
        Assert.True(one.RequestMerge());
        Assert.Equal(ExitCode.Done, one.Run());
        Assert.Equal(0, percents[0]);
        Assert.Equal(100, percents[^1]);
        Assert.True(measured);
        SnapshotStatus merged = one.Status;
        Assert.Equal((SnapshotState.Merged, "", ExitCode.Done, 0.0, null),
            (merged.State, merged.Error, merged.EndedWith, merged.Rate, merged.CheckPercent));
        Assert.InRange(merged.MergeSeconds, 0.001, 600);
        Pass(3);
        Assert.Equal(merged.MergeSeconds, one.Status.MergeSeconds);
        Assert.Equal(["check", "progress", $"merged {Golden.Row(Vector).MergeOps}"], _watcher.Heard);
        Assert.Equal(Golden.New, Unlocked.Read(_folder["base"], Golden.New.Length));
        Assert.False(one.RequestMerge());
    }

    /// <summary>A check of zero bytes counts as complete.</summary>
    private static Action<MergeProgress> Nested(Action<MergeProgress> checking, Snapshot one) => progress =>
    {
        if (progress.BytesTotal > 0) checking(progress);
        else Assert.Equal(100, one.Status.CheckPercent);
    };

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_snapshot_whose_merge_is_stopped_half_way_is_served_as_before(bool stop)
    {
        Snapshot one = Serving();
        _watcher.AtCheck = _ =>
        {
            if (stop) one.RequestStop();
            else one.EndMerge();
        };
        Assert.True(one.RequestMerge());
        Assert.Equal(ExitCode.Interrupted, one.Run());
        SnapshotStatus status = one.Status;
        Assert.Equal((SnapshotState.Serving, ExitCode.Interrupted), (status.State, status.EndedWith));
        Assert.StartsWith("stopped while checking payloads", status.Error, StringComparison.Ordinal);
        Assert.Equal(["check", $"stopped Interrupted: {status.Error}"], _watcher.Heard);
        Assert.Equal(Golden.Old, Unlocked.Read(_folder["base"], Golden.Old.Length));
    }

    [Fact]
    public void A_merge_that_is_stopped_before_it_began_is_reported()
    {
        Snapshot one = Serving();
        Assert.True(one.RequestMerge());
        one.RequestStop();
        Assert.Equal(ExitCode.Interrupted, one.Run());
        Assert.Equal(["stopped Interrupted: stopped before the merge began"], _watcher.Heard);
        Snapshot idle = Make(path: _folder["base"]);
        idle.RequestStop();
        Assert.Empty(_watcher.Heard.Skip(1));
    }

    [Fact]
    public void Failures_have_exit_codes_and_only_device_failures_take_the_errors_noted_by_the_kernel()
    {
        foreach ((Exception thrown, ExitCode code) in ((Exception, ExitCode)[])[
            (new OutOfMemoryException("m"), ExitCode.OutOfResources), (new InvalidOperationException("i"), ExitCode.Internal),
            (new SnapuserdException(ExitCode.CowCorrupt, "c"), ExitCode.CowCorrupt),
            (new SnapuserdException(ExitCode.InputOutput, "d"), ExitCode.InputOutput)])
        {
            Files(Golden.Cow(Vector), Golden.Old);
            _watcher.Heard.Clear();
            Snapshot one = Failing(thrown);
            _flushed.Clear();
            Assert.True(one.RequestMerge());
            Assert.Equal(code, one.Run());
            Assert.Equal((SnapshotState.Failed, code, thrown.Message, null),
                (one.Status.State, one.Status.EndedWith, one.Status.Error, one.Status.CheckPercent));
            Assert.Equal($"stopped {(thrown as SnapuserdException)?.Code}: {thrown.Message}", _watcher.Heard[^1]);
            Assert.Equal(code == ExitCode.InputOutput ? ["base", "cow"] : [], _flushed);
            Assert.False(one.RequestMerge());
            one.Dispose();
        }
    }

    [Fact]
    public void A_pause_an_end_and_a_failure_give_up_the_place_in_the_queue()
    {
        MergeSlots slots = new(new MemoryBudget(16 << 20, 1), 1);
        using WakeUp second = new();
        Snapshot first = Serving(slots: slots);
        Assert.True(first.RequestMerge());
        _made.Remove(first);
        string[] firstFiles = [_folder["cow"], _folder["base"]];
        foreach (string file in firstFiles) File.Move(file, file + ".first");
        Files(Golden.Cow(Vector), Golden.Old);
        Snapshot next = Failing(new InvalidOperationException("i"), slots, second);
        Assert.True(next.RequestMerge());
        _ = second.Wait(0);
        // The first snapshot is the next to merge.
        first.Wake();
        Assert.False(second.Wait(0));
        first.Pause();
        Assert.True(second.Wait(0));
        first.Resume();
        Assert.False(second.Wait(0));
        first.EndMerge();
        Assert.True(second.Wait(0));
        first.Dispose();
        // A failed merge passes the slot to the next.
        Assert.Equal(ExitCode.Internal, next.Run());
        Assert.Contains("stopped : i", _watcher.Heard);
        next.Dispose();
        Files(Golden.Cow(Vector), Golden.Old);
        Snapshot last = Serving(slots: slots);
        Assert.True(last.RequestMerge());
        Assert.Equal(ExitCode.Done, last.Run());
        Assert.Equal(SnapshotState.Merged, last.Status.State);
    }

    [Fact]
    public void A_snapshot_that_ends_while_it_is_queued_lets_the_next_one_in()
    {
        MergeSlots slots = new(new MemoryBudget(16 << 20, 1), 1);
        Snapshot first = Serving(slots: slots);
        Assert.True(first.RequestMerge());
        first.Dispose();
        Assert.Equal(SnapshotState.Ended, first.Status.State);
        Snapshot next = Serving(slots: slots);
        Assert.True(next.RequestMerge());
        Assert.Equal(ExitCode.Done, next.Run());
    }

    [Fact]
    public void A_pause_delays_the_confirmation_of_a_merge_that_an_earlier_process_has_finished()
    {
        Count();
        Snapshot one = Serving();
        Assert.Equal(SnapshotState.Merged, one.Status.State);
        one.Pause();
        Assert.True(one.RequestMerge());
        Assert.Equal(SnapshotState.Merged, one.Status.State);
        _ = Woken();
        SnapshotState? waiting = null;
        ExitCode code = ExitCode.Internal;
        Answering([SYS_read], call =>
        {
            if (call[0] != _wakeUp.Fd) return null;
            waiting ??= one.Status.State;
            one.Resume();
            return null;
        }, () => code = one.Run());
        Assert.Equal((ExitCode.Done, SnapshotState.Merging), (code, waiting));
        Assert.Equal($"merged {Golden.Row(Vector).MergeOps}", _watcher.Heard[^1]);
    }

    [Fact]
    public void A_snapshot_without_work_waits_and_a_failed_server_ends_it()
    {
        foreach (bool failure in (bool[])[false, true])
        {
            Snapshot one = Make(signalled: () => ++_looks > 1000);
            one.Open();
            _ = one.Serve(Start);
            _ = Woken();
            _looks = 0;
            int reads = 0;
            ExitCode code = ExitCode.Internal;
            Answering([SYS_read], call =>
            {
                if (call[0] != _wakeUp.Fd) return null;
                if (++reads == 3)
                {
                    if (failure) _server!.Failure = "gone";
                    else one.RequestStop();
                }
                one.Wake();
                return null;
            }, () => code = one.Run());
            Assert.Equal((ExitCode.Done, 3), (code, reads));
            Assert.InRange(_looks, 0, 20);
            Assert.Equal(failure ? "gone" : null, one.Failure);
            one.Dispose();
        }
    }

    [Fact]
    public void A_broken_queue_is_not_waited_for_and_leaves_locks_to_the_holders_of_the_descriptors()
    {
        Snapshot one = Make(io: IoChoice.Uring, signalled: () => ++_looks > 1000);
        one.Open();
        _ = one.Serve(Start);
        _looks = 0;
        int[] copies = [.. one.Devices.Devices.Select(device => Libc.Fcntl(device.Fd, F_DUPFD_CLOEXEC, 0))];
        List<string> calls = [];
        ExitCode code = ExitCode.Internal;
        Answering([SYS_io_uring_enter, SYS_poll], call =>
        {
            if (call.Number == SYS_io_uring_enter)
            {
                calls.Add("enter");
                return -Errno.EIO;
            }
            calls.Add($"poll of {call.Long(1)} for {call[2]}");
            if (calls.Count == 3) one.RequestStop();
            return 0;
        }, () => code = one.Run());
        Assert.Equal(ExitCode.Done, code);
        Assert.Equal(["enter", "poll of 0 for 100", "poll of 0 for 100"], calls);
        Assert.True(one.Devices.Setup.Io.Broken);
        DeviceSet devices = one.Devices;
        one.Dispose();
        // The kernel may still access the buffers and the devices, so they stay mapped and open.
        foreach (string name in (string[])["cow", "base"])
            Assert.NotEqual(0, Binary.RunProgram("flock", ["--shared", "--nonblock", _folder[name], "true"]).ExitCode);
        devices.Setup.Arena[new Slice(0, 1)][0] = 1;
        foreach (int copy in copies) _ = Libc.Close(copy);
        foreach (string name in (string[])["cow", "base"])
            Assert.Equal(0, Binary.RunProgram("flock", ["--exclusive", "--nonblock", _folder[name], "true"]).ExitCode);
    }

    [Fact]
    public void Everything_that_was_opened_is_closed_and_nothing_is_locked_after_that()
    {
        Snapshot one = Serving(mapper: true);
        int[] copies = [.. one.Devices.Devices.Select(device => Libc.Fcntl(device.Fd, F_DUPFD_CLOEXEC, 0))];
        DeviceSet devices = one.Devices;
        UnitCache cache = _server!.View!.Cache;
        cache.Keep(1, new byte[4096]);
        one.Dispose();
        Assert.Equal(1, _kernel.Disposals);
        foreach (string name in (string[])["cow", "base"])
            Assert.Equal(0, Binary.RunProgram("flock", ["--exclusive", "--nonblock", _folder[name], "true"]).ExitCode);
        Assert.ThrowsAny<Exception>(() => devices.Setup.Arena[new Slice(0, 1)][0] = 1);
        Assert.ThrowsAny<Exception>(() => cache.TryCopy(1, 0, new byte[1]));
        Assert.ThrowsAny<Exception>(() => _server.View.Cow.Order.OpIndex(0));
        foreach (int copy in copies) _ = Libc.Close(copy);
        string[] open =
        [
            .. Directory.EnumerateFileSystemEntries("/proc/self/fd").Select(fd => new FileInfo(fd).LinkTarget ?? "")
                .Where(path => path.StartsWith(_folder.Path, StringComparison.Ordinal)),
        ];
        Assert.Empty(open);
    }

    [Fact]
    public void A_cow_that_its_marker_contradicts_is_not_served()
    {
        File.WriteAllText(_folder["cow.merging"], $"begun {new string('6', 64)} 0000000000000000\n");
        Snapshot one = Make();
        Assert.Equal($"65 {MergeMarker.Sentence(_folder["cow"], "it is the COW of another update")}", Says(one.Open));
    }

    [Theory]
    [InlineData(null, 1)]
    [InlineData(5, 5)]
    public void A_continued_merge_has_the_resume_count_of_earlier_processes(int? told, int resumed)
    {
        string half = Golden.Halves.First(one => one.NumMergeOps > 0).Name;
        Files(Golden.HalfCow(half), Golden.HalfBase(half));
        Snapshot one = Make(resumed: told);
        one.Open();
        Assert.Equal((resumed, one.Engine.Result.ResumedFrom), (one.Status.TimesResumed, one.Status.ResumedFrom));
        Assert.True(one.Status.OpsDone > 0);
        one.Dispose();
        Files(Golden.Cow(Vector), Golden.Old);
        Snapshot other = Make();
        other.Open();
        Assert.Equal((0, 0), (other.Status.TimesResumed, other.Status.ResumedFrom));
    }

    [Fact]
    public void A_merged_snapshot_that_is_only_read_counts_if_its_devices_can_be_flushed_or_have_no_flush()
    {
        Count();
        foreach ((int errno, string refused) in new[] { (0, ""), (Errno.EROFS, "cow"), (Errno.EPERM, "base"), (Errno.EINVAL, "cow") })
        {
            _flushed.Clear();
            _flush = name => name == refused ? -errno : 0;
            Snapshot fine = Serving(writes: false);
            Assert.Equal((SnapshotState.Merged, "", ExitCode.Done), (fine.Status.State, fine.Status.Error, fine.Status.EndedWith));
            Assert.Equal(["base", "cow"], _flushed);
            fine.Dispose();
        }
        foreach (string name in (string[])["base", "cow"])
        {
            _watcher.Heard.Clear();
            _flush = flushed => flushed == name ? -Errno.EIO : 0;
            Snapshot failed = Serving(writes: false);
            string why =
                $"everything is merged, but that may not be durable: {_folder[name]} cannot be flushed: {ErrnoText.Of(-Errno.EIO)}";
            Assert.Equal((SnapshotState.Failed, why, ExitCode.InputOutput),
                (failed.Status.State, failed.Status.Error, failed.Status.EndedWith));
            Assert.Empty(_watcher.Heard);
            Assert.Equal(ExitCode.InputOutput, failed.Run());
            Assert.Equal([$"stopped InputOutput: {why}"], _watcher.Heard);
            failed.Dispose();
        }
    }

    [Fact]
    public void A_snapshot_whose_mapped_device_is_on_the_base_has_nothing_to_serve()
    {
        Count();
        _kernel.Devices["root"] = new FakeMapper.Device { Uuid = "SNAPUSERD-root", Active = OnBase };
        Snapshot one = Make(mapper: true);
        one.Open();
        Assert.True(one.IsPlain);
        Assert.Equal(("/dev/mapper/root", SnapshotState.Plain), (one.Status.Device, one.Status.State));
        // The base belongs to the mapped device: this process neither writes nor flushes it.
        Assert.Null(one.Devices.Setup.Storage);
        Assert.Empty(_flushed);
        Assert.Equal(ExitCode.Done, one.Run());
        one.StopServing();
        Assert.Equal(OnBase, _kernel.Devices["root"].Active);
        Assert.Empty(_watcher.Heard);
    }

    [Fact]
    public void A_mapped_device_on_a_base_that_is_not_merged_is_76()
    {
        _kernel.Devices["root"] = new FakeMapper.Device { Uuid = "SNAPUSERD-root", Active = OnBase };
        Snapshot one = Make(mapper: true);
        Assert.StartsWith($"76 /dev/mapper/root stands on {_folder["base"]} itself, and {_folder["cow"]} is not merged: ", Says(one.Open),
            StringComparison.Ordinal);
    }

    [Fact]
    public void The_table_of_a_killed_process_is_dropped_first()
    {
        _kernel.Devices["root"] = new FakeMapper.Device { Uuid = "SNAPUSERD-root", Active = Served, Inactive = OnBase };
        Snapshot one = Make(mapper: true);
        one.Open();
        Assert.Equal((Served, null), (_kernel.Devices["root"].Active, _kernel.Devices["root"].Inactive));
        Assert.False(one.IsPlain);
        Assert.Equal("", one.Status.Device);
        // This process does not serve it.
        one.StopServing();
        Assert.Equal(Served, _kernel.Devices["root"].Active);
    }

    [Fact]
    public void The_mapped_device_is_removed_with_the_server_unless_it_is_open()
    {
        _kernel.Devices["root"] = new FakeMapper.Device { Uuid = "SNAPUSERD-root", Active = Served, Open = 1 };
        Snapshot one = Serving(mapper: true);
        _kernel.Commands.Clear();
        one.StopServing();
        Assert.Equal(["stop"], _server!.Calls);
        Assert.Equal([DM_TABLE_STATUS], _kernel.Commands);
        _kernel.Refuse = command => command == DM_TABLE_STATUS ? -Errno.EIO : 0;
        one.StopServing();
        Assert.Equal(["stop", "stop"], _server.Calls);
        Assert.Equal(Served, _kernel.Devices["root"].Active);
        _kernel.Refuse = _ => 0;
        _kernel.Devices["root"].Open = 0;
        one.StopServing();
        Assert.Empty(_kernel.Devices);
        Assert.Equal(["stop", "stop", "stop"], _server.Calls);
    }

    [Fact]
    public void Hand_over_leaves_the_ramdisk_first_and_stays_when_the_server_stops()
    {
        Snapshot one = Serving(mapper: true);
        Assert.True(one.RequestMerge());
        _watcher.AtEnd = _ => { };
        List<string> events = [];
        _kernel.Refuse = command =>
        {
            if (command == DM_TABLE_LOAD) events.Add($"load {one.Status.State}");
            return 0;
        };
        ExitCode code = ExitCode.Internal;
        Func<int, int> flush = FileFlush.Before!;
        Answering([SYS_chroot], call =>
        {
            events.Add($"root {call.Text(0)}");
            return 0;
        }, () =>
        {
            FileFlush.Before = fd =>
            {
                if (_watcher.Heard.Count > 0 && _watcher.Heard[^1].StartsWith("merged", StringComparison.Ordinal))
                    events.Add($"flush {Path.GetFileName(DescriptorPath.Of(fd))}");
                return flush(fd);
            };
            code = one.Run();
        });
        Assert.Equal(ExitCode.Done, code);
        Assert.Equal(["root /..", "flush base", "flush cow", "load Merged"], events);
        Assert.Equal((SnapshotState.Plain, OnBase), (one.Status.State, _kernel.Devices["root"].Active));
        Assert.Equal("handed over", _watcher.Heard[^1]);
        one.StopServing();
        Assert.Equal(OnBase, _kernel.Devices["root"].Active);
        Assert.Equal(["stop"], _server!.Calls);
    }

    [Theory]
    [InlineData(Errno.EIO)]
    [InlineData(Errno.EPERM)]
    [InlineData(Errno.EROFS)]
    public void A_stop_at_the_end_of_a_merge_still_hands_over_and_a_failure_of_that_is_the_result(int errno)
    {
        Snapshot one = Serving(mapper: true);
        Assert.True(one.RequestMerge());
        Assert.Equal(ExitCode.Done, one.Run());
        Assert.Equal((SnapshotState.Plain, OnBase), (one.Status.State, _kernel.Devices["root"].Active));
        one.Dispose();
        // The same happens if the flush of the base then fails, only once.
        Files(Golden.Cow(Vector), Golden.Old);
        _kernel.Devices.Clear();
        _watcher.Heard.Clear();
        Snapshot failing = Serving(mapper: true);
        Assert.True(failing.RequestMerge());
        int refused = 0;
        _watcher.AtEnd = snapshot =>
        {
            snapshot.RequestStop();
            _flush = name => name == "base" && refused++ == 0 ? -errno : 0;
        };
        Assert.Equal(ExitCode.InputOutput, failing.Run());
        Assert.Equal(1, refused);
        string why = $"{_folder["base"]} cannot be flushed, so /dev/mapper/root stays where it is: {ErrnoText.Of(-errno)}";
        Assert.Equal((SnapshotState.Merged, true, why), (failing.Status.State, failing.Status.HandOverFailed, failing.Status.Error));
        Assert.Equal(Served, _kernel.Devices["root"].Active);
        Assert.Equal($"stopped InputOutput: {why}", _watcher.Heard[^1]);
    }

    [Fact]
    public void A_failed_hand_over_is_not_tried_again()
    {
        Snapshot one = Serving(mapper: true);
        Assert.True(one.RequestMerge());
        int refused = 0;
        _watcher.AtEnd = snapshot =>
        {
            if (_watcher.Heard[^1].StartsWith("merged", StringComparison.Ordinal))
                _flush = name => name == "cow" && refused++ == 0 ? -Errno.EIO : 0;
            else snapshot.RequestStop();
        };
        Assert.Equal(ExitCode.InputOutput, one.Run());
        Assert.Equal((SnapshotState.Merged, 1, Served), (one.Status.State, refused, _kernel.Devices["root"].Active));
    }

    [Fact]
    public void Without_a_server_that_answers_nothing_is_handed_over()
    {
        Snapshot one = Serving(mapper: true);
        Assert.True(one.RequestMerge());
        _watcher.AtEnd = _ => _server!.Failure = "gone";
        Assert.Equal(ExitCode.Done, one.Run());
        Assert.Equal((SnapshotState.Merged, Served), (one.Status.State, _kernel.Devices["root"].Active));
        one.Dispose();
        // Without a mapped device nothing is handed over either.
        Files(Golden.Cow(Vector), Golden.Old);
        _watcher.AtEnd = snapshot => snapshot.RequestStop();
        Snapshot plain = Serving();
        Assert.True(plain.RequestMerge());
        Assert.Equal(ExitCode.Done, plain.Run());
        Assert.Equal(SnapshotState.Merged, plain.Status.State);
        // While ops are still to be merged, nothing is handed over either.
        plain.Dispose();
        Files(Golden.Cow(Vector), Golden.Old);
        _kernel.Devices.Clear();
        Snapshot serving = Serving(mapper: true);
        serving.RequestStop();
        Assert.Equal(ExitCode.Done, serving.Run());
        Assert.Equal((SnapshotState.Serving, Served), (serving.Status.State, _kernel.Devices["root"].Active));
    }

    [RootFact]
    public void The_base_is_closed_before_a_table_over_it_is_loaded()
    {
        using LoopDevice loop = new(_folder["base"]);
        Snapshot one = Make(mapper: true, path: loop.Path);
        one.Open();
        _ = one.Serve(Start);
        Assert.True(BlockDeviceUse.IsHeld(loop.Path));
        Assert.True(one.RequestMerge());
        bool? held = null;
        _kernel.Refuse = command =>
        {
            if (command == DM_TABLE_LOAD) held = BlockDeviceUse.IsHeld(loop.Path);
            return 0;
        };
        Assert.Equal(ExitCode.Done, one.Run());
        Assert.Equal((SnapshotState.Plain, false), (one.Status.State, held));
        one.Dispose();
        _made.Clear();
    }
}
