using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.AndroidDevice;
using Snapuserd.Block;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.AndroidDevice;

/// <summary>The rules of a plan, each with facts that differ from a healthy merge in one point.</summary>
public sealed class UpdatePlanTests
{
    private const uint Updated = LpPartition.Updated;

    /// <summary>vendor shrinks from 300 to 200 sectors, product grows into them, system stays, odm is new.</summary>
    private static readonly DeviceFacts s_healthy = Facts(new()
    {
        ["vendor_b"] = [new DevicePiece("super", 1000, 200)],
        ["product_b"] = [new DevicePiece("super", 2000, 100), new DevicePiece("super", 1200, 100)],
        ["system_b"] = [new DevicePiece("super", 3000, 50), new DevicePiece("super", 2500, 50)],
        ["odm_b"] = [new DevicePiece("super", 4000, 10)],
        ["vendor_b-cow"] = [new DevicePiece("super", 5000, 100)],
        ["product_b-cow"] = [new DevicePiece("super", 5100, 100)],
        ["system_b-cow"] = [new DevicePiece("super", 5200, 100)],
        ["odm_b-cow"] = [new DevicePiece("super", 5300, 100)],
    }, new()
    {
        ["vendor_a"] = [new DevicePiece("super", 1000, 300)],
        ["product_a"] = [new DevicePiece("super", 2000, 100)],
        ["system_a"] = [new DevicePiece("super", 3000, 50), new DevicePiece("super", 2500, 50)],
    });

    [Fact]
    public void Shrinking_partitions_come_first_then_system_and_product_then_the_others_by_name()
    {
        UpdatePlan plan = UpdatePlan.Of(s_healthy);
        Assert.Null(plan.Refusal);
        Assert.Equal(["vendor_b", "system_b", "product_b", "odm_b"], plan.Merges.Select(merge => merge.Name));
        Assert.Equal([1, 2, 2, 2], plan.Merges.Select(merge => merge.Phase));
        Assert.Equal(plan.Merges[3].Base, plan.Merges[3].Source);
    }

    [Fact]
    public void Files_of_the_other_slot_are_ignored_and_partitions_without_an_update_are_left_out()
    {
        DeviceFacts facts = With(s_healthy, "vendor_a", Record(9, 9, 9, 9)) with { Table = Flashed("odm_b") };
        UpdatePlan plan = UpdatePlan.Of(facts);
        Assert.Null(plan.Refusal);
        Assert.Equal(3, plan.Merges.Count);
        Assert.Equal(["odm_b"], plan.LeftOut.Select(one => one.Name));
    }

    [Fact]
    public void Merged_snapshots_are_done_if_their_cows_are_complete()
    {
        DeviceFacts facts = s_healthy;
        foreach (SnapshotFile file in s_healthy.Snapshots) facts = With(facts, file.Name, Changed(file.Record, 2, 3));
        UpdatePlan plan = UpdatePlan.Of(facts);
        Assert.StartsWith("All is merged", plan.Nothing, StringComparison.Ordinal);
        Assert.Equal(["odm_b", "product_b", "system_b", "vendor_b"], plan.MustBeComplete.Select(cow => cow.Name).Order());
        Assert.Equal(4, UpdatePlan.Of(facts with { Status = Status(5) }).MustBeComplete.Count);
    }

    public static TheoryData<string, ExitCode, string> Refusals => new()
    {
        { "state in super", ExitCode.Unavailable, "scratch_ota_metadata_super" },
        { "initiated", ExitCode.Unavailable, "still being written" },
        { "cancelled", ExitCode.Unavailable, "given up" },
        { "initiated, but begun", ExitCode.CowCorrupt, "has begun" },
        { "unverified, but merged", ExitCode.CowCorrupt, "has begun" },
        { "unknown state", ExitCode.CowCorrupt, "unknown state 9" },
        { "no state, but snapshots", ExitCode.CowCorrupt, "no update" },
        { "developer's boot", ExitCode.Unavailable, "without-slot-switch" },
        { "unknown slot", ExitCode.Usage, "current slot is unknown" },
        { "no snapshot-boot", ExitCode.CowCorrupt, "snapshot-boot is missing" },
        { "snapshot-boot of no slot", ExitCode.CowCorrupt, "name no slot" },
        { "wrong slot", ExitCode.Unavailable, "slot a is partly overwritten" },
        { "kernel's snapshots", ExitCode.Unavailable, "for the kernel" },
        { "Android 12", ExitCode.Unavailable, "Android 12" },
        { "Android 12 vendor", ExitCode.Unavailable, "vendor partition" },
        { "fields 5 and 9", ExitCode.CowCorrupt, "without using_snapuserd" },
        { "misc snapshotted", ExitCode.CowCorrupt, "snapshotted" },
        { "misc of another slot", ExitCode.CowCorrupt, "slot number 0" },
        { "no table", ExitCode.CowCorrupt, "partition table of slot b" },
        { "no old table", ExitCode.CowCorrupt, "old-partition-metadata" },
        { "no old table, new partition", ExitCode.CowCorrupt, "old-partition-metadata" },
        { "other old size", ExitCode.CowCorrupt, "old_partition_size is 51200" },
        { "old sectors elsewhere", ExitCode.CowCorrupt, "does not begin with the sectors" },
        { "other size", ExitCode.CowCorrupt, "device_size is 512" },
        { "other snapshot size", ExitCode.CowCorrupt, "snapshot_size" },
        { "odd size", ExitCode.CowCorrupt, "multiple of 512" },
        { "no size", ExitCode.CowCorrupt, "no device_size" },
        { "no COW, but one", ExitCode.CowCorrupt, "says that there is no COW" },
        { "no COW partition", ExitCode.CowCorrupt, "has no odm_b-cow" },
        { "other COW size", ExitCode.CowCorrupt, "cow_partition_size" },
        { "no images", ExitCode.CowCorrupt, "lp_metadata" },
        { "kernel's file", ExitCode.CowCorrupt, "using_snapuserd is false" },
        { "damaged file", ExitCode.CowCorrupt, "is damaged" },
        { "bases overlap", ExitCode.CowCorrupt, "system_b and odm_b share" },
        { "COW over a base", ExitCode.CowCorrupt, "share the sectors" },
        { "COW over an old tail", ExitCode.CowCorrupt, "the source of vendor_b share" },
        { "same sector twice", ExitCode.CowCorrupt, "two extents of odm_b" },
        { "outside of super", ExitCode.CowCorrupt, "outside of the area" },
        { "over the tables", ExitCode.CowCorrupt, "outside of the area" },
        { "short super", ExitCode.CowCorrupt, "but super has" },
        { "zeros", ExitCode.CowCorrupt, "extent of zeros" },
        { "on misc", ExitCode.CowCorrupt, "cannot lie" },
        { "on no device", ExitCode.InputMissing, "partition cust" },
    };

    [Theory]
    [MemberData(nameof(Refusals))]
    public void Each_contradiction_is_refused_with_its_reason(string what, ExitCode code, string reason)
    {
        UpdatePlan plan = UpdatePlan.Of(Spoilt(what));
        Assert.NotNull(plan.Refusal);
        Assert.Contains(reason, plan.Refusal.Sentence, StringComparison.Ordinal);
        Assert.Equal(code, plan.Refusal.Code);
        Assert.Empty(plan.Merges);
        Assert.NotEmpty(plan.Refusal.Remedy);
        foreach (string word in (string[])["flash ", "format", "snapshot-update cancel", "wipe"])
            Assert.DoesNotContain(word, plan.Refusal.Remedy, StringComparison.OrdinalIgnoreCase);
    }

    [Fact]
    public void Without_snapshots_and_snapshot_boot_a_merging_state_is_androids_own_cleanup()
    {
        UpdatePlan plan = UpdatePlan.Of(s_healthy with { Snapshots = [], SourceSlot = null });
        Assert.StartsWith("All is merged", plan.Nothing, StringComparison.Ordinal);
    }

    private static DeviceFacts Spoilt(string what)
    {
        DeviceFacts good = s_healthy;
        SnapshotRecord odm = good.Snapshots.First(file => file.Name == "odm_b").Record;
        return what switch
        {
            "state in super" => good with { StateInSuper = true },
            "initiated" => Unmerged(good with { Slot = "_a", SourceSlot = null, Status = Status(1) }),
            "cancelled" => good with { Status = Status(7) },
            "initiated, but begun" => good with { Slot = "_a", SourceSlot = null, Status = Status(1) },
            "unverified, but merged" => With(Unmerged(good with { Status = Status(2) }), "odm_b", Changed(odm, 2, 3)),
            "unknown state" => good with { Status = null, StatusProblem = "unknown state 9" },
            "no state, but snapshots" => Unmerged(good with { Status = new UpdateStatus() }),
            "developer's boot" => good with { WithoutSlotSwitch = true },
            "unknown slot" => good with { Slot = null },
            "no snapshot-boot" => good with { SourceSlot = null },
            "snapshot-boot of no slot" => good with { SourceSlot = "_a\n" },
            "wrong slot" => good with { Slot = "_a" },
            "kernel's snapshots" => good with { Status = Status(3, @using: 0, userspace: 0) },
            "Android 12" => good with { Status = Status(3, userspace: 0) },
            "Android 12 vendor" => good with { Status = Status(3, legacy: 1), SnapuserdFromSystem = false },
            "fields 5 and 9" => good with { Status = Status(3, @using: 0) },
            "misc snapshotted" => good with { Misc = new MiscFact(BootloaderMergeStatus.Snapshotted, 0) },
            "misc of another slot" => good with { Misc = new MiscFact(BootloaderMergeStatus.Merging, 0) },
            "no table" => good with { Table = new TableFact(null, "bad") },
            "no old table" => good with { OldTable = TableFact.Missing },
            "no old table, new partition" =>
                good with { OldTable = TableFact.Missing, Snapshots = [.. good.Snapshots.Where(file => file.Name == "odm_b")] },
            "other old size" => With(good, "vendor_b", Record(200, 200, 200, 100)),
            "other size" => With(good, "odm_b", Changed(Changed(odm, 3, 512), 4, 512)),
            "other snapshot size" => With(good, "odm_b", Changed(odm, 4, 1024)),
            "odd size" => With(good, "odm_b", Changed(odm, 5, 100 * 512 + 1)),
            "no size" => With(good, "odm_b", Changed(odm, 3, 0)),
            "no COW, but one" => With(good, "odm_b", Changed(odm, 5, 0)),
            "other COW size" => With(good, "odm_b", Changed(odm, 5, 512)),
            "no images" => With(good, "odm_b", Changed(odm, 6, 512)),
            "kernel's file" => With(good, "odm_b", Changed(odm, 9, 0)),
            "damaged file" => good with { Snapshots = [.. good.Snapshots, new SnapshotFile("x_b", odm, "it is damaged")] },
            "short super" => good with { Devices = new Dictionary<string, long> { ["super"] = 5000 * 512 } },
            _ => SpoiltTable(good, what),
        };
    }

    private static DeviceFacts SpoiltTable(DeviceFacts good, string what) => what switch
    {
        "old sectors elsewhere" => WithOld(good, "system_a", [new DevicePiece("super", 3000, 49), new DevicePiece("super", 2499, 51)]),
        "no COW partition" => WithPartition(good, "odm_b-cow", null),
        "bases overlap" => WithPartition(good, "odm_b", [new DevicePiece("super", 3045, 10)]),
        "COW over a base" => WithPartition(good, "odm_b-cow", [new DevicePiece("super", 1150, 100)]),
        "COW over an old tail" => WithPartition(WithPartition(good, "product_b", [new DevicePiece("super", 2000, 100)]), "odm_b-cow",
            [new DevicePiece("super", 1201, 100)], product: 100),
        "same sector twice" => WithPartition(good, "odm_b", [new DevicePiece("super", 4000, 6), new DevicePiece("super", 4005, 4)]),
        "outside of super" => WithPartition(good, "odm_b", [new DevicePiece("super", 99_995, 10)]),
        "over the tables" => WithPartition(good, "odm_b", [new DevicePiece("super", 99, 10)]),
        "zeros" => WithPartition(good, "odm_b", [new DevicePiece("super", 4000, 5), new DevicePiece("", 0, 5)]),
        "on misc" => WithPartition(good, "odm_b", [new DevicePiece("misc", 100, 10)]),
        "on no device" => WithPartition(good, "odm_b", [new DevicePiece("cust", 100, 10)]),
        _ => throw new ArgumentException(what, nameof(what)),
    };

    private static DeviceFacts Facts(Dictionary<string, DevicePiece[]> current, Dictionary<string, DevicePiece[]> old)
    {
        DeviceFacts facts = new()
        {
            Slot = "_b",
            SourceSlot = "_a",
            SnapuserdFromSystem = true,
            Status = Status(3),
            Misc = new MiscFact(BootloaderMergeStatus.Merging, 1),
            Table = new TableFact(Table(current), null),
            OldTable = new TableFact(Table(old), null),
            Devices = new Dictionary<string, long> { ["super"] = 100_000 * 512, ["misc"] = 100_000 * 512 },
        };
        return facts with
        {
            Snapshots =
            [
                new SnapshotFile("odm_b", Record(10, 10, 100, 0)), new SnapshotFile("product_b", Record(200, 200, 100, 100)),
                new SnapshotFile("system_b", Record(100, 100, 100, 100)), new SnapshotFile("vendor_b", Record(200, 200, 100, 300)),
            ],
        };
    }

    private static LpTable Table(Dictionary<string, DevicePiece[]> partitions, params string[] withoutUpdate)
    {
        List<LpBlockDevice> devices = [new LpBlockDevice("super", 100, 0, 0, 100_000 * 512)];
        List<LpPartition> list = [];
        foreach ((string name, DevicePiece[] pieces) in partitions)
        {
            List<LpExtent> extents = [];
            foreach (DevicePiece piece in pieces)
            {
                int device = Math.Max(0, devices.FindIndex(one => one.Name == piece.Device));
                if (!piece.IsZero && devices[device].Name != piece.Device)
                {
                    device = devices.Count;
                    devices.Add(new LpBlockDevice(piece.Device, 0, 0, 0, 100_000 * 512));
                }
                extents.Add(new LpExtent(piece.Sectors, piece.IsZero, piece.Start, device));
            }
            bool updated = !name.EndsWith("-cow", StringComparison.Ordinal) && !withoutUpdate.Contains(name);
            list.Add(new LpPartition(name, updated ? Updated : 0, 0, extents));
        }
        return new LpTable(new LpGeometry(65536, 3, 4096), 2, 1, list, [new LpGroup("main", 0)], devices);
    }

    private static TableFact Flashed(string name) => new(Table(Pieces(s_healthy.Table.Table!), name), null);

    private static Dictionary<string, DevicePiece[]> Pieces(LpTable table) => table.Partitions.ToDictionary(partition => partition.Name,
        partition => partition.Extents.Select(one =>
            new DevicePiece(one.IsZero ? "" : table.Devices[one.Device].Name, one.Start, one.Sectors)).ToArray());

    private static DeviceFacts WithPartition(DeviceFacts facts, string name, DevicePiece[]? pieces, int product = 0)
    {
        Dictionary<string, DevicePiece[]> all = Pieces(facts.Table.Table!);
        if (pieces == null) all.Remove(name);
        else all[name] = pieces;
        DeviceFacts changed = facts with { Table = new TableFact(Table(all), null) };
        return product == 0 ? changed : With(changed, "product_b", Record(product, product, 100, 100));
    }

    private static DeviceFacts WithOld(DeviceFacts facts, string name, DevicePiece[] pieces)
    {
        Dictionary<string, DevicePiece[]> all = Pieces(facts.OldTable.Table!);
        all[name] = pieces;
        return facts with { OldTable = new TableFact(Table(all), null) };
    }

    private static DeviceFacts With(DeviceFacts facts, string name, SnapshotRecord record) => facts with
    {
        Snapshots = [.. facts.Snapshots.Where(file => file.Name != name), new SnapshotFile(name, record)],
    };

    /// <summary>The same facts before the merge: every snapshot is created.</summary>
    private static DeviceFacts Unmerged(DeviceFacts facts) =>
        facts with { Snapshots = [.. facts.Snapshots.Select(file => file with { Record = Changed(file.Record, 2, 1) })] };

    /// <summary>A snapshot that is being merged; sizes are in sectors.</summary>
    private static SnapshotRecord Record(int device, int snapshot, int cow, int old) =>
        Parsed((2, 2), (3, (ulong)device * 512), (4, (ulong)snapshot * 512), (5, (ulong)cow * 512), (9, 1), (10, (ulong)old * 512));

    /// <summary>The record with another value in one field; field 6 is the COW's size on the data partition.</summary>
    private static SnapshotRecord Changed(SnapshotRecord record, int field, ulong value)
    {
        (int Field, ulong Value)[] fields =
        [
            (2, (ulong)record.State), (3, record.DeviceBytes), (4, record.SnapshotBytes), (5, record.CowPartitionBytes),
            (6, record.CowFileBytes), (9, record.UsingSnapuserd ? 1ul : 0), (10, record.OldPartitionBytes),
        ];
        return Parsed([.. fields.Select(one => one.Field == field ? (field, value) : one)]);
    }

    private static SnapshotRecord Parsed(params (int Field, ulong Value)[] fields)
    {
        Assert.Null(SnapshotRecord.Parse(Message(fields), out SnapshotRecord record));
        return record;
    }

    private static UpdateStatus Status(int state, int @using = 1, int userspace = 1, int legacy = 0)
    {
        Assert.Null(UpdateStatus.Parse(Message((1, (ulong)state), (5, (ulong)@using), (9, (ulong)userspace), (11, (ulong)legacy)),
            out UpdateStatus status));
        return status;
    }

    private static byte[] Message(params (int Field, ulong Value)[] fields)
    {
        using MemoryStream message = new();
        foreach ((int field, ulong value) in fields)
        {
            message.WriteByte((byte)(field << 3));
            ulong rest = value;
            for (; rest >= 0x80; rest >>= 7) message.WriteByte((byte)(rest | 0x80));
            message.WriteByte((byte)rest);
        }
        return message.ToArray();
    }
}
