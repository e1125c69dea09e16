using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.AndroidDevice;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// A small Android device whose update is being merged: its block devices, its plan as the product reads it from tables and state files,
/// and what each partition must become.
/// </summary>
public sealed class WholeDevice
{
    /// <summary>The names of the block devices, in the order of <see cref="Disks"/>.</summary>
    public static readonly string[] Names = ["super", "userdata"];

    private readonly Image[] _images;
    private readonly Dictionary<string, (byte[] Target, int Ops)> _expected;

    /// <summary>A device of these images, whose state files are <paramref name="files"/>, by their paths below /metadata.</summary>
    internal WholeDevice(string name, byte[] super, byte[] userData, Dictionary<string, byte[]> files,
        Dictionary<string, (byte[] Target, int Ops)> expected)
    {
        (Name, _expected, _images) = (name, expected, [new Image(super), new Image(userData)]);
        using TempFolder folder = new();
        foreach ((string path, byte[] content) in files)
        {
            Directory.CreateDirectory(Path.GetDirectoryName(folder[path])!);
            File.WriteAllBytes(folder[path], content);
        }
        Dictionary<string, IByteSource> sources = new() { ["super"] = new MemorySource(super), ["userdata"] = new MemorySource(userData) };
        DeviceFacts facts = DeviceReader.Read("_b", folder.Path, sources);
        Plan = UpdatePlan.Of(facts);
        // The chosen partitions are all of the update, so a plan without one of them is wrong, as is one that refuses.
        if (Plan.Refusal is { } refusal) throw new LostDataException($"{name} is refused: {refusal.Sentence}");
        if (!Plan.Merges.Select(merge => merge.Name).Order().SequenceEqual(expected.Keys.Order()))
            throw new LostDataException($"{name}: the plan has {string.Join(", ", Plan.Merges.Select(merge => merge.Name))}");
    }

    /// <summary>What the device is, for messages.</summary>
    public string Name { get; }

    /// <summary>The plan that the product makes from tables and state files.</summary>
    public UpdatePlan Plan { get; }

    /// <summary>What a partition must become.</summary>
    public byte[] Target(string partition) => _expected[partition].Target;

    /// <summary>The number of ops of a partition's COW.</summary>
    public int Ops(string partition) => _expected[partition].Ops;

    /// <summary>Fresh disks, before the first write.</summary>
    public SimDisk[] Disks() => Array.ConvertAll(_images, image => new SimDisk(image));

    /// <summary>The number of a disk by its name in tables.</summary>
    public static int Number(string name) => Array.IndexOf(Names, name);

    /// <summary>The content of the pieces of a device, in their order; <paramref name="of"/> chooses durable or visible.</summary>
    public static byte[] Content(IReadOnlyList<DevicePiece> pieces, SimDisk[] disks, Func<SimDisk, Image> of)
    {
        byte[] bytes = new byte[DevicePiece.Bytes(pieces)];
        int at = 0;
        foreach (DevicePiece piece in pieces)
        {
            int length = (int)(piece.Sectors * LpGeometry.SectorBytes);
            of(disks[Number(piece.Device)]).Read(piece.Start * LpGeometry.SectorBytes, bytes.AsSpan(at, length));
            at += length;
        }
        return bytes;
    }

    /// <summary>The count of merged ops that a power cut would leave.</summary>
    public static int DurableCount(PlannedMerge merge, SimDisk[] disks)
    {
        Span<byte> count = stackalloc byte[8];
        DevicePiece head = merge.Cow[0];
        disks[Number(head.Device)].Durable.Read((head.Start * LpGeometry.SectorBytes) + CowHeader.MergeCountOffset, count);
        return (int)BinaryPrimitives.ReadUInt64LittleEndian(count);
    }
}

/// <summary>A partition of a <see cref="DeviceBuilder"/>: its blocks before and after the update, and how its COW is stored.</summary>
/// <param name="Name">The name without the suffix of a slot.</param>
/// <param name="Old">Blocks before the update; 0 for a new partition.</param>
/// <param name="New">Blocks after it.</param>
/// <param name="CowInSuper">Blocks of the COW that lie in super; the rest lies on userdata.</param>
public sealed record BuiltPartition(string Name, int Old, int New, int CowInSuper);

/// <summary>
/// Builds devices. The update lays the new partitions over the old ones as Android does: each begins with the blocks of its old partition,
/// and one that grows takes blocks that others have given up first, and then free ones.
/// </summary>
/// <param name="chance">Decides contents, ops and places.</param>
/// <param name="oddSectors">Sectors by which the blocks of partitions are shifted against the pages of the disks.</param>
/// <param name="scattered">Partitions consist of several extents.</param>
public sealed class DeviceBuilder(Chance chance, int oddSectors, bool scattered)
{
    private const int BlockSectors = CowOp.BlockSize / LpGeometry.SectorBytes;
    private const int FirstBlockOfData = 2;

    private long First => LpWriter.FirstFreeSector + oddSectors;

    /// <summary>A shrinking partition whose last blocks become a part of a growing one, whose COW is stored on both devices.</summary>
    public static WholeDevice Small(ulong seed, int oddSectors = 0) => new DeviceBuilder(new Chance(seed), oddSectors, scattered: false)
        .Build($"small device {seed}", [new BuiltPartition("vendor", 6, 4, 99), new BuiltPartition("system", 4, 7, 1)]);

    /// <summary>Two to four partitions that shrink, grow, stay or are new, in pieces anywhere.</summary>
    public static WholeDevice Random(ulong seed)
    {
        Chance chance = new(Chance.Mix(seed));
        List<BuiltPartition> partitions = [];
        string[] names = ["system", "vendor", "product", "odm"];
        for (int i = 0, count = 2 + chance.Below(3); i < count; i++)
            partitions.Add(new BuiltPartition(names[i], i > 1 && chance.Percent(20) ? 0 : 2 + chance.Below(5), 2 + chance.Below(5),
                chance.Percent(40) ? 99 : chance.Below(4)));
        int odd = chance.Percent(50) ? 0 : chance.Below(BlockSectors);
        return new DeviceBuilder(chance, odd, scattered: true).Build($"device {seed}", partitions);
    }

    private WholeDevice Build(string name, List<BuiltPartition> partitions)
    {
        const int blocks = 120;
        long end = (First + (blocks * BlockSectors)) * LpGeometry.SectorBytes;
        byte[] super = new byte[(end + CowOp.BlockSize - 1) & -CowOp.BlockSize];
        FillRandom(super);
        byte[] userData = new byte[blocks * CowOp.BlockSize];
        FillRandom(userData);
        List<int> free = [.. Enumerable.Range(0, blocks)], freeOnData = [.. Enumerable.Range(FirstBlockOfData, blocks - FirstBlockOfData)];

        // The old table, and then the new one over it.
        List<int>[] old = [.. partitions.Select(one => Take(free, one.Old))];
        List<int> givenUp = [];
        for (int i = 0; i < old.Length; i++) givenUp.AddRange(old[i].Skip(partitions[i].New));
        List<int>[] updated = [.. partitions.Select((one, i) => old[i].Take(one.New).ToList())];
        for (int i = 0; i < updated.Length; i++)
        {
            int more = partitions[i].New - updated[i].Count, again = Math.Min(more, givenUp.Count);
            updated[i].AddRange(givenUp.GetRange(0, again));
            givenUp.RemoveRange(0, again);
            updated[i].AddRange(Take(free, more - again));
        }

        LpWriter slotA = new("super", First, super.Length), slotB = new("super", First, super.Length);
        LpWriter oldTable = new("super", First, super.Length), images = new("userdata", 0, userData.Length);
        Dictionary<string, byte[]> files = [];
        Dictionary<string, (byte[] Target, int Ops)> expected = [];
        for (int i = 0; i < partitions.Count; i++)
        {
            BuiltPartition one = partitions[i];
            string updatedName = one.Name + "_b";
            byte[] source = Content(super, old[i]), before = Content(super, updated[i]);
            CowBuilder cow = RandomCow(one.Old, one.New);
            byte[] bytes = cow.Build();
            int cowBlocks = (bytes.Length + CowOp.BlockSize - 1) / CowOp.BlockSize, inSuper = Math.Min(one.CowInSuper, cowBlocks);
            Array.Resize(ref bytes, cowBlocks * CowOp.BlockSize);
            List<int> superPart = Take(free, inSuper), dataPart = Take(freeOnData, cowBlocks - inSuper);
            for (int block = 0; block < cowBlocks; block++)
            {
                Span<byte> place = block < inSuper ? At(super, First, superPart[block]) : At(userData, 0, dataPart[block - inSuper]);
                bytes.AsSpan(block * CowOp.BlockSize, CowOp.BlockSize).CopyTo(place);
            }
            if (one.Old > 0) oldTable.Add(one.Name + "_a", 1, Extents(First, old[i]));
            slotA.Add(one.Name + "_a", 1, Extents(First, old[i]));
            slotB.Add(updatedName, LpWriter.Updated, Extents(First, updated[i]));
            if (inSuper > 0) slotB.Add(updatedName + "-cow", 0, Extents(First, superPart));
            if (cowBlocks > inSuper) images.Add(updatedName + "-cow-img", 0, Extents(0, dataPart));
            files["ota/snapshots/" + updatedName] = Message((2, one.New < one.Old ? 2ul : 1), (3, Bytes(one.New)), (4, Bytes(one.New)),
                (5, Bytes(inSuper)), (6, Bytes(cowBlocks - inSuper)), (9, 1), (10, Bytes(one.Old)));
            byte[] target = NaiveMerger.Merge(cow.Ops, one.Old == 0 ? before : source, before);
            expected[updatedName] = (target, cow.Ops.Count);
        }
        LpWriter.WriteSuper(super, slotA, slotB);
        bool shrinks = partitions.Exists(one => one.New < one.Old);
        files["ota/state"] = Message((1, 3), (5, 1), (6, shrinks ? 1ul : 2), (9, 1));
        files["ota/snapshot-boot"] = "_a"u8.ToArray();
        files["ota/old-partition-metadata"] = oldTable.File();
        files["gsi/ota/lp_metadata"] = images.File();
        return new WholeDevice(name, super, userData, files, expected);
    }

    /// <summary>
    /// Ops whose copies go up and read their own block or later ones, or go down and read their own block or earlier ones, so that no op
    /// reads what an earlier one has written. A partition that shrinks prefers to read the blocks that it gives up.
    /// </summary>
    private CowBuilder RandomCow(int oldBlocks, int newBlocks)
    {
        CowBuilder cow = new() { ScratchBytes = SmallCases.ScratchFor(2 + chance.Below(2)), MaxUnitBytes = 2 * CowOp.BlockSize };
        bool up = newBlocks < oldBlocks || chance.Percent(50);
        for (int i = 0; i < newBlocks; i++)
        {
            int block = up ? i : newBlocks - 1 - i, from = up ? block : 0, to = up ? oldBlocks : Math.Min(block + 1, oldBlocks);
            int choice = chance.Below(100);
            if (from < to && choice < 65)
            {
                // Neighbours make chains, in which each op reads what the next one overwrites.
                int source = chance.Percent(50) ? Math.Clamp(block + (up ? chance.Below(2) : -chance.Below(2)), from, to - 1)
                    : up && newBlocks < oldBlocks ? newBlocks + chance.Below(oldBlocks - newBlocks)
                    : from + chance.Below(to - from);
                if (choice < 35) cow.Copy((uint)block, (ulong)source);
                else if (choice < 50 || source + 1 >= to) cow.Xor((uint)block, Bytes(source), RandomBlock());
                else cow.Xor((uint)block, Bytes(source) + 100, RandomBlock());
            }
            else if (choice < 90) cow.Replace((uint)block, RandomBlock());
            else if (choice < 96) cow.Zero((uint)block);
        }
        // Even a COW of nothing else has one op.
        if (cow.Ops.Count == 0) cow.Zero(0);
        return cow;
    }

    private static ulong Bytes(int blocks) => (ulong)blocks * CowOp.BlockSize;

    /// <summary>Removes blocks from the free ones: neighbours, or several runs of them.</summary>
    private List<int> Take(List<int> free, int count)
    {
        List<int> taken = [];
        while (taken.Count < count)
        {
            int run = scattered ? Math.Min(count - taken.Count, 1 + chance.Below(4)) : count;
            int at = scattered ? chance.Below(free.Count - run + 1) : 0;
            taken.AddRange(free.GetRange(at, run));
            free.RemoveRange(at, run);
        }
        return taken;
    }

    private static List<(long Start, long Sectors)> Extents(long first, List<int> blocks)
    {
        List<(long Start, long Sectors)> extents = [];
        foreach (int block in blocks)
        {
            long start = first + ((long)block * BlockSectors);
            if (extents.Count > 0 && extents[^1].Start + extents[^1].Sectors == start)
                extents[^1] = (extents[^1].Start, extents[^1].Sectors + BlockSectors);
            else extents.Add((start, BlockSectors));
        }
        return extents;
    }

    private static Span<byte> At(byte[] device, long first, int block) =>
        device.AsSpan((int)(first * LpGeometry.SectorBytes) + (block * CowOp.BlockSize), CowOp.BlockSize);

    private byte[] Content(byte[] super, List<int> blocks)
    {
        byte[] bytes = new byte[blocks.Count * CowOp.BlockSize];
        for (int i = 0; i < blocks.Count; i++) At(super, First, blocks[i]).CopyTo(bytes.AsSpan(i * CowOp.BlockSize));
        return bytes;
    }

    private byte[] RandomBlock()
    {
        byte[] block = new byte[CowOp.BlockSize];
        FillRandom(block);
        return block;
    }

    private void FillRandom(byte[] bytes)
    {
        for (int at = 0; at < bytes.Length; at += 8) BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(at), chance.Next());
    }

    /// <summary>A protobuf message of varints.</summary>
    private static byte[] Message(params (int Field, ulong Value)[] fields)
    {
        List<byte> bytes = [];
        foreach ((int field, ulong value) in fields)
        {
            if (value == 0) continue;
            bytes.Add((byte)(field << 3));
            ulong rest = value;
            for (; rest >= 0x80; rest >>= 7) bytes.Add((byte)(rest | 0x80));
            bytes.Add((byte)rest);
        }
        return [.. bytes];
    }
}
