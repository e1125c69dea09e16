using System;
using System.Collections.Generic;
using System.IO;
using System.Runtime.InteropServices;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>The storage that a device stands for, through any layers, and the relation between two storages.</summary>
public sealed class StorageIdentityTests
{
    private const long MiB = 1 << 20;

    private static readonly StorageBottom s_disk = StorageBottom.OfDevice(8, 0), s_other = StorageBottom.OfDevice(8, 16);
    private static readonly StorageBottom s_crypt = StorageBottom.OfDevice(252, 1), s_raid = StorageBottom.OfDevice(9, 0),
        s_thin = StorageBottom.OfDevice(252, 7), s_thin2 = StorageBottom.OfDevice(252, 8);
    private static readonly StorageBottom s_file = StorageBottom.OfFile(8, 0, 1234), s_file2 = StorageBottom.OfFile(8, 0, 1235);

    private static readonly Dictionary<StorageBottom, StorageLayer> s_layers = new()
    {
        [s_crypt] = new StorageLayer("dm-crypt (dm-1)", [new StoragePiece(s_disk, 0, 10 * MiB)]),
        [s_raid] = new StorageLayer("md raid1", [new StoragePiece(s_disk, 20 * MiB, 10 * MiB), new StoragePiece(s_other, 0, 10 * MiB)]),
        [s_thin] = new StorageLayer("dm-thin (dm-7)", [new StoragePiece(s_disk, 40 * MiB, 10 * MiB)]),
        [s_thin2] = new StorageLayer("dm-thin (dm-8)", [new StoragePiece(s_disk, 40 * MiB, 10 * MiB)]),
        [s_file] = new StorageLayer("the file system that it lies on", [new StoragePiece(s_crypt, 0, 10 * MiB)]),
        [s_file2] = new StorageLayer("the file system that it lies on", [new StoragePiece(s_crypt, 0, 10 * MiB)]),
    };

    private static StorageIdentity Of(params (StorageBottom Bottom, long Offset, long Length)[] pieces)
    {
        List<StoragePiece> list = [];
        foreach ((StorageBottom bottom, long offset, long length) in pieces) list.Add(new StoragePiece(bottom, offset, length));
        return new StorageIdentity(list, s_layers);
    }

    private static StorageRelation Relation(StorageIdentity one, StorageIdentity other)
    {
        StorageRelation relation = one.RelationTo(other, out string layer);
        Assert.Equal(relation, other.RelationTo(one, out string back));
        Assert.Equal(relation == StorageRelation.Unknown, layer.Length > 0);
        Assert.Equal(relation == StorageRelation.Unknown, back.Length > 0);
        return relation;
    }

    [Fact]
    public void Same_pieces_in_the_same_order_are_equal_with_any_boundaries()
    {
        Assert.Equal(StorageRelation.Equal, Relation(Of((s_disk, 0, MiB), (s_disk, MiB, MiB)), Of((s_disk, 0, 2 * MiB))));
        Assert.Equal(StorageRelation.Equal, Relation(Of((s_disk, 0, MiB), (s_other, 0, MiB)), Of((s_disk, 0, MiB), (s_other, 0, MiB))));
        Assert.Equal(StorageRelation.Overlapping,
            Relation(Of((s_disk, 0, MiB), (s_other, 0, MiB)), Of((s_other, 0, MiB), (s_disk, 0, MiB))));
        Assert.Equal(StorageRelation.Overlapping, Relation(Of((s_disk, 0, MiB)), Of((s_disk, 0, 2 * MiB))));
        Assert.Equal(StorageRelation.Overlapping, Relation(Of((s_disk, 0, MiB)), Of((s_disk, MiB - 512, MiB))));
        Assert.Equal(StorageRelation.Disjoint, Relation(Of((s_disk, 0, MiB)), Of((s_disk, MiB, MiB))));
        Assert.Equal(StorageRelation.Disjoint, Relation(Of((s_disk, 0, MiB)), Of((s_other, 0, MiB))));
    }

    [Fact]
    public void Shared_ranges_are_given_in_bytes_of_both_devices()
    {
        StorageIdentity target = Of((s_other, 0, MiB), (s_disk, 4 * MiB, 2 * MiB)),
            source = Of((s_disk, 5 * MiB, 4 * MiB), (s_other, 512, 1024));
        Assert.Equal([new SharedRange(0, 2 * MiB, MiB), new SharedRange(4 * MiB, 512, 1024)], source.SharedWith(target));
        Assert.Equal([new SharedRange(512, 4 * MiB, 1024), new SharedRange(2 * MiB, 0, MiB)], target.SharedWith(source));
        Assert.Empty(source.SharedWith(Of((s_raid, 0, MiB))));
        Assert.True(Of((s_disk, 0, MiB), (s_other, 0, MiB), (s_disk, MiB - 512, MiB)).OverlapsItself);
        Assert.False(source.OverlapsItself);
    }

    [Fact]
    public void Relation_through_a_layer_over_the_same_device_is_unknown_and_names_the_layer()
    {
        Assert.Equal(StorageRelation.Unknown, Relation(Of((s_crypt, 0, MiB)), Of((s_disk, 9 * MiB, MiB))));
        _ = Of((s_disk, 0, MiB)).RelationTo(Of((s_crypt, 0, MiB)), out string layer);
        Assert.Equal("dm-crypt (dm-1)", layer);
        Assert.Equal(StorageRelation.Disjoint, Relation(Of((s_crypt, 0, MiB)), Of((s_disk, 10 * MiB, MiB))));
        Assert.Equal(StorageRelation.Unknown, Relation(Of((s_raid, 0, MiB)), Of((s_other, 0, MiB))));
        Assert.Equal(StorageRelation.Disjoint, Relation(Of((s_raid, 0, MiB)), Of((s_crypt, 0, MiB))));
        Assert.Equal(StorageRelation.Unknown, Relation(Of((s_thin, 0, MiB)), Of((s_thin2, 0, MiB))));
        // Two ranges of the same layer can be compared.
        Assert.Equal(StorageRelation.Disjoint, Relation(Of((s_crypt, 0, MiB)), Of((s_crypt, MiB, MiB))));
        Assert.Equal(StorageRelation.Overlapping, Relation(Of((s_crypt, 0, MiB)), Of((s_crypt, 512, MiB))));
    }

    [Fact]
    public void Two_files_are_disjoint_and_a_file_may_lie_anywhere_on_its_device()
    {
        Assert.Equal(StorageRelation.Disjoint, Relation(Of((s_file, 0, MiB)), Of((s_file2, 0, MiB))));
        Assert.Equal(StorageRelation.Unknown, Relation(Of((s_file, 0, MiB)), Of((s_crypt, 5 * MiB, MiB))));
        Assert.Equal(StorageRelation.Unknown, Relation(Of((s_file, 0, MiB)), Of((s_disk, 5 * MiB, MiB))));
        Assert.Equal(StorageRelation.Disjoint, Relation(Of((s_file, 0, MiB)), Of((s_disk, 15 * MiB, MiB))));
        Assert.Equal(StorageRelation.Disjoint, Relation(Of((s_file, 0, MiB)), Of((s_raid, 0, MiB))));
    }

    [Fact]
    public void Table_of_the_device_mapper_is_parsed()
    {
        byte[] message = Message(("linear", 0, 2048, "8:2 4096"), ("crypt", 2048, 100, "aes-xts-plain64 - 0 8:3 0"),
            ("linear", 2148, 52, "259:65536 0"), ("zero", 2200, 8, ""));
        List<DeviceTableLine>? lines = DeviceTable.Parse(message);
        Assert.Equal(
            [
                new DeviceTableLine("linear", 0, 2048 * 512, 8, 2, 4096 * 512),
                new DeviceTableLine("crypt", 2048 * 512, 100 * 512, 0, 0, 0),
                new DeviceTableLine("linear", 2148 * 512, 52 * 512, 259, 65536, 0),
                new DeviceTableLine("zero", 2200 * 512, 8 * 512, 0, 0, 0),
            ], lines);
        Assert.Null(DeviceTable.Parse(Message(("linear", 0, 8, "sda 0"))));
        Assert.Null(DeviceTable.Parse(Message(("linear", 0, ulong.MaxValue / 512, "8:1 0"))));
        Assert.Null(DeviceTable.Parse(message.AsSpan(0, 360)));
    }

    [RootFact]
    public void Loop_devices_of_any_depth_lead_to_the_file()
    {
        using TempFolder folder = new();
        string file = folder["image"];
        File.WriteAllBytes(file, new byte[8 * MiB]);
        using LoopDevice whole = new(file, "--partscan"), first = new(file, "--offset", "1048576", "--sizelimit", "2097152");
        using LoopDevice nested = new(first.Path, "--offset", "4096"), twin = new(file, "--offset", "1052672", "--sizelimit", "2093056");
        using BlockDevice f = Open(file), w = Open(whole.Path), n = Open(nested.Path), t = Open(twin.Path);
        Assert.Equal(StorageRelation.Equal, Relation(w.Storage, f.Storage));
        Assert.Equal(StorageRelation.Equal, Relation(n.Storage, t.Storage));
        Assert.Equal([new SharedRange(0, MiB + 4096, (2 * MiB) - 4096)], n.Storage.SharedWith(w.Storage));
    }

    [RootFact]
    public void Partition_of_a_loop_device_begins_at_its_own_offset()
    {
        using TempFolder folder = new();
        string file = folder["image"];
        File.WriteAllBytes(file, new byte[8 * MiB]);
        using LoopDevice disk = new(file, "--partscan");
        disk.AddPartition(1, 2048, 4096);
        disk.AddPartition(2, 8192, 2048);
        string[] numbers = File.ReadAllText($"/sys/class/block/{Path.GetFileName(disk.Path)}/{Path.GetFileName(disk.Path)}p2/dev").Trim()
            .Split(':');
        LoopDevice.Call("mknod", folder["second"], "b", numbers[0], numbers[1]);
        using LoopDevice window = new(file, "--offset", "4194304", "--sizelimit", "1048576");
        using BlockDevice second = Open(folder["second"]), same = Open(window.Path), all = Open(disk.Path);
        Assert.Equal(StorageRelation.Equal, Relation(second.Storage, same.Storage));
        Assert.Equal([new SharedRange(0, 4 * MiB, MiB)], second.Storage.SharedWith(all.Storage));
    }

    [RootFact]
    public void A_file_that_was_deleted_below_its_loop_devices_is_still_one_file()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["image"], new byte[MiB]);
        using LoopDevice one = new(folder["image"]), other = new(folder["image"]);
        File.Delete(folder["image"]);
        using BlockDevice first = Open(one.Path), second = Open(other.Path);
        Assert.Equal(StorageRelation.Equal, Relation(first.Storage, second.Storage));
    }

    private static BlockDevice Open(string path) => BlockDevice.Open(path, DeviceAccess.Read);

    /// <summary>A reply to TABLE_STATUS. The offsets of the lines count from the first line, as in the kernel's reply.</summary>
    internal static byte[] Message(params (string Type, ulong Start, ulong Length, string Parameters)[] lines)
    {
        List<byte> table = [];
        foreach ((string type, ulong start, ulong length, string parameters) in lines)
        {
            byte[] line = new byte[(40 + parameters.Length + 1 + 7) & ~7];
            DmTargetSpec spec = new() { SectorStart = start, Length = length, Next = (uint)(table.Count + line.Length) };
            _ = Encoding.ASCII.GetBytes(type, spec.TypeBytes);
            MemoryMarshal.Write(line, spec);
            _ = Encoding.ASCII.GetBytes(parameters, line.AsSpan(40));
            table.AddRange(line);
        }
        byte[] message = new byte[312 + table.Count];
        DmIoctl head = new() { DataSize = (uint)message.Length, DataStart = 312, TargetCount = (uint)lines.Length };
        MemoryMarshal.Write(message, head);
        table.CopyTo(message, 312);
        return message;
    }

    [Fact]
    public void Pieces_that_differ_only_at_the_end_or_by_one_more_are_not_the_same()
    {
        StorageIdentity one = Of((s_disk, 0, MiB), (s_other, 0, MiB));
        Assert.Equal(StorageRelation.Overlapping, Relation(one, Of((s_disk, 0, MiB), (s_other, MiB, MiB))));
        Assert.Equal(StorageRelation.Overlapping, Relation(one, Of((s_disk, 0, MiB), (s_other, 0, MiB), (s_file, 0, MiB))));
        Assert.Equal(StorageRelation.Overlapping, Relation(one, Of((s_other, 4 * MiB, MiB), (s_other, MiB - 1, MiB))));
        Assert.True(Of((s_disk, 0, MiB), (s_disk, MiB - 1, MiB)).OverlapsItself);
        Assert.True(Of((s_disk, MiB - 1, MiB), (s_disk, 0, MiB)).OverlapsItself);
        Assert.False(Of((s_disk, MiB, MiB), (s_disk, 0, MiB)).OverlapsItself);
    }

    [Fact]
    public void Piece_ends_at_the_largest_offset_at_most()
    {
        Assert.Equal(long.MaxValue, new StoragePiece(s_disk, 0, long.MaxValue).End);
        Assert.Equal(long.MaxValue, new StoragePiece(s_disk, 1, long.MaxValue - 1).End);
        Assert.Equal(long.MaxValue, new StoragePiece(s_disk, 1, long.MaxValue).End);
        Assert.Equal(long.MaxValue, new StoragePiece(s_disk, 7, long.MaxValue).End);
        Assert.Equal(long.MaxValue - 1, new StoragePiece(s_disk, 1, long.MaxValue - 2).End);
        StoragePiece piece = new(s_disk, 10, 10);
        foreach ((long offset, long length, bool overlaps) in ((long, long, bool)[])[(0, 10, false), (0, 11, true), (19, 1, true),
            (20, 1, false), (12, 2, true), (5, 30, true)])
        {
            Assert.Equal(overlaps, piece.Overlaps(new StoragePiece(s_disk, offset, length)));
            Assert.Equal(overlaps, new StoragePiece(s_disk, offset, length).Overlaps(piece));
            Assert.False(piece.Overlaps(new StoragePiece(s_other, offset, length)));
        }
    }

    [Fact]
    public void Bottoms_are_ordered_by_kind_and_then_by_number()
    {
        StorageBottom[] order = [StorageBottom.OfDevice(1, 9), StorageBottom.OfDevice(8, 0), StorageBottom.OfDevice(8, 16),
            StorageBottom.OfDevice(9, 0),
            StorageBottom.OfFile(1, 9, 5), StorageBottom.OfFile(8, 0, 1), StorageBottom.OfFile(8, 0, 2), StorageBottom.OfFile(8, 1, 0),
            StorageBottom.OfFile(9, 0, 0)];
        for (int i = 0; i < order.Length; i++)
            for (int j = 0; j < order.Length; j++)
                Assert.Equal(i.CompareTo(j), order[i].CompareTo(order[j]));
    }

    [Fact]
    public void Range_shared_by_two_branches_of_a_stack_is_reported_once()
    {
        StorageBottom top = StorageBottom.OfDevice(252, 20), left = StorageBottom.OfDevice(252, 21),
            right = StorageBottom.OfDevice(252, 22);
        Dictionary<StorageBottom, StorageLayer> layers = new()
        {
            [top] = new StorageLayer("x", [new StoragePiece(left, 0, MiB), new StoragePiece(right, 0, MiB)]),
            [left] = new StorageLayer("y", [new StoragePiece(s_disk, 0, MiB), new StoragePiece(s_disk, 4 * MiB, MiB)]),
            [right] = new StorageLayer("z", [new StoragePiece(s_disk, 0, MiB), new StoragePiece(s_other, 0, MiB)]),
        };
        StorageIdentity storage = new([new StoragePiece(top, 0, MiB), new StoragePiece(s_file, 0, MiB)], layers);
        Assert.Equal(
            [new StoragePiece(left, 0, MiB), new StoragePiece(s_disk, 0, MiB), new StoragePiece(s_disk, 4 * MiB, MiB),
                new StoragePiece(right, 0, MiB), new StoragePiece(s_other, 0, MiB)],
            storage.BelowDevices());
        // A layer's name may have any length.
        Assert.Equal(StorageRelation.Unknown, storage.RelationTo(Of((s_other, 0, MiB)), out string layer));
        Assert.Equal("x", layer);
        Assert.Equal(StorageRelation.Unknown, Of((s_other, 0, MiB)).RelationTo(storage, out layer));
        Assert.Equal("x", layer);
        Assert.Equal(StorageRelation.Disjoint, storage.RelationTo(Of((s_other, MiB, MiB)), out _));
    }

    [Fact]
    public void Layer_in_between_is_found_among_several_pieces()
    {
        StorageIdentity several = Of((s_other, 50 * MiB, MiB), (s_crypt, 0, MiB), (s_raid, 0, MiB));
        Assert.Equal(StorageRelation.Unknown, several.RelationTo(Of((s_other, 60 * MiB, MiB), (s_disk, 25 * MiB, MiB)), out string layer));
        Assert.Equal("md raid1", layer);
        // Two layers use bytes of one device. The second is a file system, which shares none of its bytes.
        Assert.Equal(StorageRelation.Disjoint, Relation(Of((s_file, 0, MiB)), Of((s_thin, 0, MiB))));
        Assert.Equal(StorageRelation.Unknown, Relation(Of((s_thin, 0, MiB), (s_file2, 0, MiB)), Of((s_file, 0, MiB), (s_thin2, 0, MiB))));
    }
}
