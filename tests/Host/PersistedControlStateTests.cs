using System;
using System.Collections.Generic;
using System.IO;
using Microsoft.Win32.SafeHandles;
using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Host;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Serve;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.Host;

/// <summary>What one server records of its client's requests, and what the next server restores.</summary>
public sealed class PersistedControlStateTests : IDisposable
{
    private readonly TempFolder _folder = new();
    private readonly MemoryLog _log = new();
    private readonly WakeUp _wakeUp = new();
    private readonly List<Snapshot> _snapshots = [];
    private readonly int _fd = PersistedControlState.Make();

    public void Dispose()
    {
        foreach (Snapshot one in _snapshots) one.Dispose();
        _ = Libc.Close(_fd);
        _wakeUp.Dispose();
        _folder.Dispose();
    }

    [Fact]
    public void A_new_file_asks_for_nothing_and_is_open_in_children()
    {
        Assert.True(_fd >= 0);
        Assert.Equal(0, Libc.Fcntl(_fd, Libc.F_GETFD, 0));
        Assert.Equal((false, false), PersistedControlState.Asked(_fd));
        PersistedControlState requests = new(_fd, _log);
        Assert.False(requests.MergeAsked);
        Assert.Equal(0, requests.CheckedOps);
        Snapshot snapshot = Snapshot(requests);
        requests.Restore(snapshot);
        Assert.Equal((false, 0), (snapshot.Status.Paused, snapshot.Status.BytesPerSecond));
        Assert.Equal("", _log.Sentences);
    }

    [Theory]
    [InlineData(true, 0)]
    [InlineData(false, 1)]
    [InlineData(true, 1L << 40)]
    public void The_next_server_has_the_pause_and_the_rate(bool paused, long rate)
    {
        PersistedControlState first = new(_fd, _log);
        Snapshot snapshot = Snapshot(first);
        first.Restore(snapshot);
        snapshot.Pause();
        snapshot.SetRate(4096);
        // The last request wins.
        if (!paused) snapshot.Resume();
        snapshot.SetRate(rate);

        PersistedControlState second = new(_fd, _log);
        Snapshot next = Snapshot(second);
        Assert.Equal((false, 0), (next.Status.Paused, next.Status.BytesPerSecond));
        second.Restore(next);
        Assert.Equal((paused, rate), (next.Status.Paused, next.Status.BytesPerSecond));
        Assert.False(second.MergeAsked);
        Assert.Equal((false, false), PersistedControlState.Asked(_fd));
    }

    [Fact]
    public void A_snapshot_without_the_earlier_requests_records_nothing()
    {
        PersistedControlState first = new(_fd, _log);
        Snapshot snapshot = Snapshot(first);
        first.Restore(snapshot);
        snapshot.Pause();
        PersistedControlState second = new(_fd, _log);
        // If this were recorded, it would say that nothing is paused.
        Snapshot(second).SetRate(7);
        PersistedControlState third = new(_fd, _log);
        Snapshot next = Snapshot(third);
        third.Restore(next);
        Assert.Equal((true, 0), (next.Status.Paused, next.Status.BytesPerSecond));
    }

    [Fact]
    public void A_merge_that_was_requested_once_stays_requested()
    {
        PersistedControlState first = new(_fd, _log);
        Snapshot snapshot = Snapshot(first, serve: true);
        first.Restore(snapshot);
        Assert.True(snapshot.RequestMerge());
        Assert.True(first.MergeAsked);
        Assert.Equal((false, true), PersistedControlState.Asked(_fd));
        Assert.True(_snapshots.Remove(snapshot));
        snapshot.Dispose();

        PersistedControlState second = new(_fd, _log);
        Assert.True(second.MergeAsked);
        Snapshot next = Snapshot(second);
        second.Restore(next);
        next.SetRate(3);
        Assert.Equal((false, true), PersistedControlState.Asked(_fd));
        Assert.True(new PersistedControlState(_fd, _log).MergeAsked);
    }

    [Fact]
    public void A_stop_and_the_checked_ops_are_recorded_with_the_rest()
    {
        PersistedControlState requests = new(_fd, _log);
        Snapshot snapshot = Snapshot(requests);
        requests.Restore(snapshot);
        snapshot.SetRate(5);
        requests.NoteChecked(123_456);
        requests.NoteStop();
        Assert.Equal((true, false), PersistedControlState.Asked(_fd));
        Assert.False(PersistedControlState.HadDevice(_fd));
        PersistedControlState next = new(_fd, _log);
        Assert.Equal(123_456, next.CheckedOps);
        next.NoteChecked(-1);
        Assert.Equal(0, next.CheckedOps);
        next.NoteChecked(1);
        Assert.Equal(1, next.CheckedOps);
        Assert.Equal(1, Libc.PWrite(_fd, [1], 11));
        Assert.True(PersistedControlState.HadDevice(_fd));
        Snapshot last = Snapshot(next);
        next.Restore(last);
        Assert.Equal(5, last.Status.BytesPerSecond);
    }

    [Fact]
    public void Without_a_file_nothing_was_requested_and_the_device_may_be_foreign()
    {
        Assert.Equal((false, false), PersistedControlState.Asked(-1));
        Assert.True(PersistedControlState.HadDevice(-1));
        int empty = Libc.MemFdCreate();
        Assert.True(PersistedControlState.HadDevice(empty));
        _ = Libc.Close(empty);
        PersistedControlState requests = new(-1, _log);
        Assert.Equal(0, requests.CheckedOps);
        Assert.Contains("requests of ctl are lost if this server is killed", _log.Sentences, StringComparison.Ordinal);
        Assert.Contains("EBADF", _log.Sentences, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(9, true)]
    [InlineData(10, false)]
    [InlineData(11, false)]
    public void A_file_that_is_too_short_is_not_used_and_reported_once(int bytes, bool isShort)
    {
        int fd = Libc.MemFdCreate();
        Assert.Equal(bytes, Libc.PWrite(fd, new byte[bytes], 0));
        PersistedControlState requests = new(fd, _log);
        Snapshot snapshot = Snapshot(requests);
        requests.Restore(snapshot);
        snapshot.SetRate(77);
        byte[] rate = new byte[8];
        Assert.Equal(8, Libc.PRead(fd, rate, 0));
        Assert.Equal(isShort ? 0 : 77, BitConverter.ToInt64(rate));
        Assert.Equal(isShort ? 1 : 0, _log.Sentences.Split('\n').Length - 1);
        _ = Libc.Close(fd);
    }

    [Fact]
    public void A_failed_write_of_a_request_is_reported_once()
    {
        File.WriteAllBytes(_folder["file"], new byte[10]);
        using SafeFileHandle reading = File.OpenHandle(_folder["file"]);
        PersistedControlState requests = new((int)reading.DangerousGetHandle(), _log);
        Snapshot snapshot = Snapshot(requests);
        requests.Restore(snapshot);
        Assert.Equal("", _log.Sentences);
        snapshot.SetRate(77);
        snapshot.Pause();
        Assert.Matches(@"^requests of ctl are lost[^\n]*EBADF[^\n]*\n$", _log.Sentences);
    }

    [Theory]
    [InlineData(SYS_memfd_create, Errno.EPERM, false)]
    [InlineData(SYS_memfd_create, Errno.EMFILE, false)]
    [InlineData(SYS_pwrite64, Errno.EPERM, true)]
    [InlineData(SYS_pwrite64, Errno.ENOMEM, true)]
    [InlineData(SYS_fcntl, Errno.EPERM, true)]
    [InlineData(SYS_fcntl, Errno.EBADF, true)]
    public void A_file_that_cannot_be_made_is_an_errno_and_leaves_no_descriptor(uint refused, int errno, bool isClosed)
    {
        int result = 0;
        List<int> made = [], closed = [];
        Answering([SYS_memfd_create, SYS_pwrite64, SYS_fcntl, SYS_close], call =>
        {
            if (call.Number == SYS_close) closed.Add(call[0]);
            if (call.Number is SYS_pwrite64 or SYS_fcntl) made.Add(call[0]);
            return call.Number == refused ? -errno : null;
        }, () => result = PersistedControlState.Make());
        Assert.Equal(-errno, result);
        Assert.Equal(isClosed ? [made[0]] : [], closed);
    }

    [Fact]
    public void Descriptor_0_is_used_like_any_other()
    {
        int made = -1;
        bool? had = null;
        List<string> calls = [];
        Answering([SYS_memfd_create, SYS_pwrite64, SYS_fcntl, SYS_pread64], call =>
        {
            if (call.Number == SYS_memfd_create) return 0;
            if (call[0] != 0) return null;
            if (call.Number == SYS_pread64) call.At<byte>(1) = 0;
            calls.Add(call.Number == SYS_fcntl ? $"fcntl {call[1]} {call[2]}" : $"{call.Number}: {call[2]} at {call[3]}");
            return call.Number == SYS_fcntl ? 0 : call[2];
        }, () =>
        {
            made = PersistedControlState.Make();
            had = PersistedControlState.HadDevice(0);
        });
        Assert.Equal((0, false), (made, had));
        Assert.Equal([$"{SYS_pwrite64}: 10 at 0", $"fcntl {Libc.F_SETFD} 0", $"{SYS_pread64}: 1 at 11"], calls);
    }

    [Fact]
    public void Without_a_requested_rate_the_snapshot_keeps_its_own()
    {
        PersistedControlState requests = new(_fd, _log);
        Snapshot snapshot = Snapshot(requests);
        snapshot.SetRate(6);
        snapshot.Pause();
        requests.Restore(snapshot);
        Assert.Equal((true, 6), (snapshot.Status.Paused, snapshot.Status.BytesPerSecond));
    }

    /// <summary>A snapshot whose requests are recorded. It is served if the test needs to request its merge.</summary>
    private Snapshot Snapshot(PersistedControlState requests, bool serve = false)
    {
        File.WriteAllBytes(_folder["cow"], Golden.Cow("v3-lz4-descending"));
        File.WriteAllBytes(_folder["base"], Golden.Old);
        Snapshot snapshot = new(new SnapshotOptions
        {
            Name = "one",
            Devices = new DeviceOptions
            {
                Cow = _folder["cow"],
                Base = _folder["base"],
                Writes = true,
                Io = IoChoice.Sync,
                ArenaBytes = 16 << 20,
                Threads = 1,
            },
            CacheBytes = 1 << 20,
            ServerBytes = 1 << 20,
            Asked = requests.Note,
        }, new StopFlag(), _wakeUp);
        _snapshots.Add(snapshot);
        if (!serve) return snapshot;
        snapshot.Open();
        _ = snapshot.Serve(Start);
        return snapshot;
    }

    private static MemoryServer Start(SnapshotView view, BlockDevice[] devices, int memory, WakeUp wakeUp, out string device)
    {
        MemoryServer server = new(view, devices, wakeUp);
        device = server.Start();
        return server;
    }
}
