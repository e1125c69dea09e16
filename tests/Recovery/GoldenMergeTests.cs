using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Security.Cryptography;
using Snapuserd.AndroidDevice;
using Snapuserd.Block;
using Snapuserd.Merge;
using Snapuserd.Recovery;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Recovery;

/// <summary>
/// Merges of whole devices whose tables, state files and COWs were written by Android's own code: each partition has its expected content.
/// </summary>
public sealed class GoldenMergeTests : IDisposable
{
    private readonly TempFolder _folder = new();
    private readonly StopFlag _stop = new();
    private readonly WakeUp _wakeUp = new();
    private readonly Dictionary<string, BlockDevice> _open = [];

    public void Dispose()
    {
        Close();
        _wakeUp.Dispose();
        _folder.Dispose();
    }

    public static TheoryData<string, IoChoice> Merges
    {
        get
        {
            TheoryData<string, IoChoice> cases = [];
            foreach (GoldenDevice device in GoldenDevice.All.Where(device => device.Verdict == "merge"))
                foreach (IoChoice io in (IoChoice[])[IoChoice.Sync, IoChoice.Uring]) cases.Add(device.Name, io);
            return cases;
        }
    }

    [Theory]
    [MemberData(nameof(Merges))]
    public void Every_partition_has_its_content_after_the_merge(string name, IoChoice io)
    {
        GoldenDevice device = GoldenDevice.Named(name);
        Write(device);
        UpdatePlan plan = Plan(device);
        string before = HashOf("super");
        Check(device, plan, column: 6);
        UpdateMerge merge = new(plan, Devices(io));
        merge.Read();
        merge.CheckPayloads();
        if (name == "all-merged") Assert.True(merge.IsComplete);
        else Assert.False(merge.IsComplete);
        // Nothing is written so far.
        Assert.Equal(before, HashOf("super"));
        merge.Run();
        Assert.True(merge.IsComplete);
        Check(device, plan, column: 7);
        if (name == "all-merged") Assert.Equal(before, HashOf("super"));

        UpdateMerge again = new(Plan(device), Devices(io));
        again.Read();
        Assert.True(again.IsComplete);
        string after = HashOf("super");
        again.Run();
        Assert.Equal(after, HashOf("super"));
    }

    [Fact]
    public void Damaged_cow_of_one_partition_stops_the_merge_of_all_before_the_first_write()
    {
        GoldenDevice device = GoldenDevice.Named("damaged-cow");
        Write(device);
        UpdatePlan plan = Plan(device);
        string before = HashOf("super");
        UpdateMerge merge = new(plan, Devices(IoChoice.Sync));
        SnapuserdException refused = Assert.Throws<SnapuserdException>(merge.Read);
        Assert.Equal(ExitCode.CowCorrupt, refused.Code);
        Assert.Contains("the COW of vendor_b", refused.Message, StringComparison.Ordinal);
        Assert.Equal(before, HashOf("super"));
    }

    /// <summary>The merge of a shrinking partition reads blocks that a growing one overwrites.</summary>
    [Fact]
    public void Second_phase_that_has_begun_before_the_end_of_the_first_is_refused()
    {
        GoldenDevice device = GoldenDevice.Named("first-phase-half");
        Write(device);
        PlannedMerge product = Plan(device).Merges.First(merge => merge.Name == "product_b");
        Close();
        // The count of merged ops is at byte 26 of the COW.
        byte[] super = device.Device("super");
        super[(product.Cow[0].Start * LpGeometry.SectorBytes) + 26] = 1;
        File.WriteAllBytes(_folder["super"], super);
        UpdateMerge merge = new(Plan(device), Devices(IoChoice.Sync));
        SnapuserdException refused = Assert.Throws<SnapuserdException>(merge.Read);
        Assert.Equal(ExitCode.CowCorrupt, refused.Code);
        Assert.Contains("1 ops of product_b are merged, but vendor_b", refused.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Snapshot_whose_file_says_merged_must_have_a_complete_cow()
    {
        GoldenDevice device = GoldenDevice.Named("first-phase-half");
        Write(device);
        UpdatePlan plan = Plan(device);
        UpdatePlan wrong = plan with
        {
            Merges = [.. plan.Merges.Where(merge => merge.Phase == 2)],
            MustBeComplete = [new CompleteCow("vendor_b", plan.Merges[0].Cow)],
        };
        SnapuserdException refused = Assert.Throws<SnapuserdException>(new UpdateMerge(wrong, Devices(IoChoice.Sync)).Read);
        Assert.Contains("/metadata/ota/snapshots/vendor_b", refused.Message, StringComparison.Ordinal);
        Assert.Contains("op 77 of 200", refused.Message, StringComparison.Ordinal);
    }

    /// <summary>A stop at any checkpoint, and a new process that goes on.</summary>
    [Theory]
    [InlineData("first-phase-begin")]
    [InlineData("cow-on-data")]
    public void Merge_that_is_stopped_again_and_again_ends_with_the_same_content(string name)
    {
        GoldenDevice device = GoldenDevice.Named(name);
        Write(device);
        int stops = 0;
        while (true)
        {
            StopFlag stop = new();
            UpdatePlan plan = Plan(device);
            UpdateMerge merge = new(plan, Devices(IoChoice.Sync, stop), new Stopper(stop));
            merge.Read();
            merge.CheckPayloads();
            try
            {
                merge.Run();
                Check(device, plan, column: 7);
                break;
            }
            catch (SnapuserdException e) when (e.Code == ExitCode.Interrupted)
            {
                stops++;
            }
            Assert.True(stops < 10_000, "no progress");
            Close();
        }
        Assert.True(stops > 2, $"{stops} stops");
    }

    /// <summary>Requests a stop at each report of progress that shows more than the run began with.</summary>
    private sealed class Stopper(StopFlag stop) : IUpdateObserver
    {
        private int _begun = -1;

        public void Checking(string name, in MergeProgress progress)
        {
        }

        public void Merging(string name, in MergeProgress all)
        {
            if (_begun < 0) _begun = all.OpsDone;
            if (all.OpsDone > _begun) stop.Request();
        }
    }

    private void Write(GoldenDevice device)
    {
        foreach (string name in device.Devices) File.WriteAllBytes(_folder[name], device.Device(name));
    }

    private UpdatePlan Plan(GoldenDevice device)
    {
        foreach (string name in device.Devices)
            if (!_open.ContainsKey(name)) _open.Add(name, BlockDevice.Open(_folder[name], DeviceAccess.Write | DeviceAccess.Exclusive));
        Dictionary<string, IByteSource> sources = _open.ToDictionary(one => one.Key, one => (IByteSource)new DescriptorSource(one.Value));
        UpdatePlan plan = UpdatePlan.Of(DeviceReader.Read(device.Slot, device.Metadata, sources));
        Assert.Null(plan.Refusal);
        return plan;
    }

    private UpdateDevices Devices(IoChoice io, StopFlag? stop = null) =>
        new(_open, new DeviceOptions { Cow = "", Writes = true, Io = io, ArenaBytes = 8 << 20, Threads = 1 }, stop ?? _stop, _wakeUp);

    /// <summary>Compares every partition of the new slot with its hash: <paramref name="column"/> 6 before the merge, 7 after it.</summary>
    private void Check(GoldenDevice device, UpdatePlan plan, int column)
    {
        Dictionary<string, byte[]> content = _open.Keys.ToDictionary(name => name, Content);
        int compared = 0;
        foreach (string[] row in device.Table("partitions.tsv").Where(row => row[0] == "1" && row[column] != "-"))
        {
            if (plan.Merges.FirstOrDefault(merge => merge.Name == row[1]) is not { } merge) continue;
            using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
            foreach (DevicePiece piece in merge.Base)
                hash.AppendData(content[piece.Device].AsSpan((int)piece.Start * LpGeometry.SectorBytes,
                    (int)piece.Sectors * LpGeometry.SectorBytes));
            Assert.Equal((row[1], row[column]), (row[1], Convert.ToHexStringLower(hash.GetHashAndReset())));
            compared++;
        }
        Assert.Equal(plan.Merges.Count, compared);
    }

    private string HashOf(string name) => Convert.ToHexStringLower(SHA256.HashData(Content(name)));

    /// <summary>The content of a device that this test has locked.</summary>
    private byte[] Content(string name) => Unlocked.Read(_folder[name], (int)_open[name].Length);

    private void Close()
    {
        foreach (BlockDevice device in _open.Values) device.Dispose();
        _open.Clear();
    }
}
