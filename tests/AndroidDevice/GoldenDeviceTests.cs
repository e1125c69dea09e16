using System;
using System.Collections.Generic;
using System.Globalization;
using System.Linq;
using System.Security.Cryptography;
using Snapuserd.AndroidDevice;
using Snapuserd.Block;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.AndroidDevice;

/// <summary>
/// Device states whose tables, COWs and files were written by Android's own code: each has its verdict, order and pieces.
/// </summary>
public sealed class GoldenDeviceTests
{
    /// <summary>The exit code for each refused state; the other states have 0.</summary>
    private static readonly Dictionary<string, ExitCode> s_refused = new()
    {
        ["initiated"] = ExitCode.Unavailable,
        ["unverified-source"] = ExitCode.Unavailable,
        ["rolled-back"] = ExitCode.Unavailable,
        ["unverified-target"] = ExitCode.Unavailable,
        ["unverified-forward"] = ExitCode.Unavailable,
        ["wrong-slot"] = ExitCode.Unavailable,
        ["kernel-snapshot"] = ExitCode.Unavailable,
        ["damaged-both"] = ExitCode.CowCorrupt,
    };

    public static TheoryData<string> Names => [.. GoldenDevice.All.Select(device => device.Name)];

    [Theory]
    [MemberData(nameof(Names))]
    public void Each_state_has_its_verdict_and_its_snapshots_in_order_of_phases(string name)
    {
        GoldenDevice device = GoldenDevice.Named(name);
        UpdatePlan plan = UpdatePlan.Of(Facts(device));
        // That its COW is damaged is found when the COW is opened.
        bool merges = device.Verdict == "merge" || name == "damaged-cow";
        Assert.Equal(s_refused.TryGetValue(name, out ExitCode code) ? code : null, plan.Refusal?.Code);
        Assert.Equal(device.Verdict == "nothing", plan.Nothing != null);
        Assert.Equal(merges, plan.Merges.Count > 0);
        if (device.Verdict != "merge") return;
        Assert.Equal(device.First.Order(), plan.Merges.Where(merge => merge.Phase == 1).Select(merge => merge.Name).Order());
        Assert.Equal(device.Second.Order(), plan.Merges.Where(merge => merge.Phase == 2).Select(merge => merge.Name).Order());
        Assert.Equal(plan.Merges.OrderBy(merge => merge.Phase), plan.Merges);
        Assert.Empty(plan.MustBeComplete);
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Tables_have_the_partitions_and_extents_of_liblp(string name)
    {
        GoldenDevice device = GoldenDevice.Named(name);
        Dictionary<string, byte[]> devices = device.Devices.ToDictionary(one => one, device.Device);
        MemorySource super = new(devices[SuperName(device)]);
        foreach (IGrouping<string, string[]> rows in device.Table("partitions.tsv").GroupBy(row => row[0]))
        {
            int slot = int.Parse(rows.Key, CultureInfo.InvariantCulture);
            string? problem = LpReader.ReadSuper(super, slot, out LpTable? table, out _);
            if (name == "damaged-both" && slot == 1)
            {
                Assert.Contains("checksum", problem, StringComparison.Ordinal);
                continue;
            }
            Assert.Null(problem);
            Assert.Equal(rows.Select(row => string.Join(' ', row[1..6])), table!.Partitions.Select(partition => string.Join(' ',
                partition.Name, table.Groups[partition.Group].Name,
                string.Create(CultureInfo.InvariantCulture, $"0x{partition.Attributes:x} {partition.Bytes}"),
                partition.Extents.Count == 0 ? "-" : string.Join(';', Pieces(partition, table)))));
            foreach (string[] row in rows)
            {
                bool damaged = (name, row[1]) == ("damaged-cow", "vendor_b-cow");
                if (row[6] != "-" && !damaged) Assert.Equal(row[6], Hash(devices, Pieces(table.Find(row[1])!, table)));
            }
        }
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Snapshots_are_composed_of_their_pieces(string name)
    {
        GoldenDevice device = GoldenDevice.Named(name);
        DeviceFacts facts = Facts(device);
        UpdatePlan plan = UpdatePlan.Of(facts);
        Dictionary<string, string[]> rows = device.Table("snapshots.tsv").ToDictionary(row => row[0]);
        foreach (PlannedMerge merge in plan.Merges)
        {
            string[] row = rows[merge.Name];
            Assert.Equal(string.Join(" ", row[11..14]), $"{Join(merge.Cow)} {Join(merge.Source)} {Join(merge.Base)}");
            Assert.Equal(row[7] == "first" ? 1 : 2, merge.Phase);
        }
        string problems = name is "damaged-primary" ? "geometry and table" : "";
        Assert.Equal(problems, facts.RepairedTable);
    }

    [Fact]
    public void Completed_state_has_the_bytes_of_androids_recovery()
    {
        GoldenDevice merging = GoldenDevice.Named("second-phase-half"), completed = GoldenDevice.Named("merge-completed");
        Assert.Null(UpdateStatus.Parse(File(merging, "ota/state"), out UpdateStatus status));
        Assert.Equal(File(completed, "ota/state"), status.Completed());
        byte[] misc = merging.Device("misc"), other = completed.Device("misc");
        Assert.Equal(other[MiscPartition.Offset..MiscPartition.EndOffset],
            MiscPartition.With(misc.AsSpan(MiscPartition.Offset), BootloaderMergeStatus.None, 1));
    }

    internal static DeviceFacts Facts(GoldenDevice device)
    {
        Dictionary<string, IByteSource> sources = [];
        foreach (string name in device.Devices) sources.Add(name, new MemorySource(device.Device(name), name));
        // Two devices never had an update: their metadata partition is empty.
        using TempFolder empty = new();
        string metadata = System.IO.Directory.Exists(device.Metadata) ? device.Metadata : empty.Path;
        return DeviceReader.Read(device.Slot, metadata, sources, SuperName(device));
    }

    /// <summary>A device with retrofit dynamic partitions has its tables on a partition that was not made for them.</summary>
    private static string SuperName(GoldenDevice device) => device.Devices.Contains("super") ? "super" : "system_a";

    private static byte[] File(GoldenDevice device, string path) => System.IO.File.ReadAllBytes($"{device.Metadata}/{path}");

    private static string Join(IReadOnlyList<DevicePiece> pieces) => string.Join(';', pieces);

    private static DevicePiece[] Pieces(LpPartition partition, LpTable table) => [.. partition.Extents.Select(extent =>
        new DevicePiece(extent.IsZero ? "" : table.Devices[extent.Device].Name, extent.Start, extent.Sectors))];

    private static string Hash(Dictionary<string, byte[]> devices, DevicePiece[] pieces)
    {
        using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (DevicePiece piece in pieces)
        {
            int start = (int)piece.Start * LpGeometry.SectorBytes, length = (int)piece.Sectors * LpGeometry.SectorBytes;
            hash.AppendData(piece.IsZero ? new byte[length] : devices[piece.Device].AsSpan(start, length));
        }
        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }
}
