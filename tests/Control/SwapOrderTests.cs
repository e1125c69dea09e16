using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.IO;
using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Serve;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Interop.DeviceMapperAbi;

namespace Snapuserd.Tests.Control;

/// <summary>
/// What a snapshot makes durable before its mapped device is swapped to the base, and before it reports that everything is merged. The
/// kernel's device mapper and the device numbers are fakes; base and COW are files.
/// </summary>
public sealed class SwapOrderTests : IDisposable
{
    private const string Vector = "v3-lz4-descending";

    private readonly TempFolder _folder = new();
    private readonly FakeMapper _kernel = new();
    private readonly StopFlag _stop = new();
    private readonly WakeUp _wakeUp = new();
    private readonly List<string> _events = [];
    private readonly Snapshot _snapshot;
    private string? _refused;
    private bool _refusesLater;

    public SwapOrderTests()
    {
        File.WriteAllBytes(_folder["cow"], Golden.Cow(Vector));
        File.WriteAllBytes(_folder["base"], Golden.Old);
        FileFlush.Before = fd =>
        {
            string name = Path.GetFileName(DescriptorPath.Of(fd));
            _events.Add($"flush {name}");
            return name == _refused && (!_refusesLater || _events.Contains("merged")) ? -Errno.EIO : 0;
        };
        _kernel.Refuse = command =>
        {
            if (command is DM_TABLE_LOAD or DM_DEV_SUSPEND) _events.Add(command == DM_TABLE_LOAD ? "load" : "swap");
            return 0;
        };
        _snapshot = new Snapshot(new SnapshotOptions
        {
            Name = "root",
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
            Mapper = "root",
            OpenMapped = name => MappedDevice.Open(name, _kernel),
            TargetOf = (path, readOnly, bytes) => new MapperTarget(path, 259, path == "memory" ? 7u : 3u, bytes / 512, readOnly),
            Observer = new Observer(_events),
        }, _stop, _wakeUp);
    }

    public void Dispose()
    {
        FileFlush.Before = null;
        _snapshot.Dispose();
        _wakeUp.Dispose();
        _folder.Dispose();
    }

    [Fact]
    public void The_mapped_device_is_on_the_base_only_after_base_and_cow_are_flushed()
    {
        Serve();
        Assert.True(_snapshot.RequestMerge());
        _events.Clear();
        Assert.Equal(ExitCode.Done, _snapshot.Run());
        Assert.Equal(SnapshotState.Plain, _snapshot.Status.State);
        Assert.Equal("259:3 0", _kernel.Devices["root"].Active);
        int merged = _events.IndexOf("merged"), load = _events.IndexOf("load"), swap = _events.IndexOf("swap");
        Assert.True(merged >= 0 && load > merged && swap > load, string.Join(", ", _events));
        // Events between the end of the merge and the first step of the swap.
        List<string> flushed = _events[(merged + 1)..load];
        flushed.Sort(StringComparer.Ordinal);
        Assert.Equal(["flush base", "flush cow"], flushed);
    }

    [Theory]
    [InlineData("base")]
    [InlineData("cow")]
    public void The_mapped_device_stays_on_the_server_if_base_or_cow_cannot_be_flushed(string refused)
    {
        Serve();
        Assert.True(_snapshot.RequestMerge());
        _events.Clear();
        // Fails only flushes after the merge, not the merge's own.
        (_refused, _refusesLater) = (refused, true);
        Assert.Equal(ExitCode.InputOutput, _snapshot.Run());
        Assert.DoesNotContain("load", _events);
        Assert.DoesNotContain("swap", _events);
        Assert.Equal("259:7 0", _kernel.Devices["root"].Active);
        Assert.True(_snapshot.Status.HandOverFailed);
        Assert.Contains($"{_folder[refused]} cannot be flushed", _snapshot.Status.Error, StringComparison.Ordinal);
    }

    [Fact]
    public void A_snapshot_that_is_stopped_before_its_merge_began_says_so()
    {
        Serve();
        Assert.True(_snapshot.RequestMerge());
        _snapshot.RequestStop();
        Assert.Equal(ExitCode.Interrupted, _snapshot.Run());
        Assert.Equal((SnapshotState.Serving, ExitCode.Interrupted), (_snapshot.Status.State, _snapshot.Status.EndedWith));
        _snapshot.Dispose();
        Assert.Equal(Golden.Cow(Vector), File.ReadAllBytes(_folder["cow"]));
    }

    [Fact]
    public void A_stopped_snapshot_without_a_requested_merge_ends_with_success()
    {
        Serve();
        _snapshot.RequestStop();
        Assert.Equal(ExitCode.Done, _snapshot.Run());
        Assert.False(_snapshot.RequestMerge());
    }

    [Fact]
    public void A_snapshot_reports_that_all_is_merged_only_after_base_and_cow_are_flushed()
    {
        // The count may come from the page cache, where a killed server left it unflushed.
        Count();
        _snapshot.Open();
        Assert.Equal(SnapshotState.Merged, _snapshot.Status.State);
        _events.Sort(StringComparer.Ordinal);
        Assert.Equal(["flush base", "flush cow"], _events);
    }

    [Theory]
    [InlineData("base")]
    [InlineData("cow")]
    public void A_snapshot_does_not_report_that_all_is_merged_if_base_or_cow_cannot_be_flushed(string refused)
    {
        Count();
        _refused = refused;
        Serve();
        Assert.Equal((SnapshotState.Failed, ExitCode.InputOutput), (_snapshot.Status.State, _snapshot.Status.EndedWith));
        Assert.Contains(_folder[refused], _snapshot.Status.Error, StringComparison.Ordinal);
        Assert.Contains("flushing", _snapshot.Status.Error, StringComparison.Ordinal);
        // A second flush would appear to succeed.
        _refused = null;
        Assert.False(_snapshot.RequestMerge());
        Assert.Equal(ExitCode.InputOutput, _snapshot.Run());
        Assert.Equal("259:7 0", _kernel.Devices["root"].Active);
    }

    /// <summary>Makes the files as they are after another server has merged and counted everything.</summary>
    private void Count()
    {
        byte[] cow = Golden.Cow(Vector);
        BinaryPrimitives.WriteUInt64LittleEndian(cow.AsSpan(CowHeader.MergeCountOffset), (ulong)Golden.Row(Vector).MergeOps);
        File.WriteAllBytes(_folder["cow"], cow);
        File.WriteAllBytes(_folder["base"], Golden.New);
    }

    private void Serve()
    {
        _snapshot.Open();
        Assert.Equal("/dev/mapper/root", _snapshot.Serve(Start));
    }

    private static MemoryServer Start(SnapshotView view, BlockDevice[] devices, int memory, WakeUp wakeUp, out string device)
    {
        MemoryServer server = new(view, devices, wakeUp);
        device = server.Start();
        return server;
    }

    /// <summary>Stops the snapshot when its merge or its hand-over has failed.</summary>
    private sealed class Observer(List<string> events) : ISnapshotObserver
    {
        public void Progress(in MergeProgress progress)
        {
        }

        public void Merged(Snapshot snapshot, MergeResult result) => events.Add("merged");

        public void Stopped(Snapshot snapshot, Exception reason) => snapshot.RequestStop();
    }
}
