using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Security.Cryptography;
using System.Text;

namespace Snapuserd.Tests.Support;

/// <summary>
/// A simple writer of partition tables (LP metadata) for tests, written from android-device §2 and independent of the product. Each table
/// has one block device.
/// </summary>
/// <param name="device">Name of the block device.</param>
/// <param name="firstSector">First sector of it that partitions may use.</param>
/// <param name="deviceBytes">Bytes of it.</param>
public sealed class LpWriter(string device, long firstSector, long deviceBytes)
{
    private const int MaxTableBytes = 4096, Slots = 2, Padded = 4096, HeaderBytes = 128;
    private readonly List<(string Name, uint Attributes, List<(long Start, long Sectors)> Extents)> _partitions = [];

    /// <summary>The first sector after the tables of a super partition.</summary>
    public const long FirstFreeSector = (Padded + (2 * Padded) + (2 * Slots * MaxTableBytes)) / 512;

    /// <summary>Attributes of a partition that an update has written: readonly, updated.</summary>
    public const uint Updated = 5;

    /// <summary>Adds a partition.</summary>
    public LpWriter Add(string name, uint attributes, List<(long Start, long Sectors)> extents)
    {
        _partitions.Add((name, attributes, extents));
        return this;
    }

    /// <summary>A file with one table, as old-partition-metadata and lp_metadata are.</summary>
    public byte[] File() => [.. Geometry(), .. Table()];

    /// <summary>Writes both geometries, and the tables of both slots with their backups, to the beginning of a super partition.</summary>
    public static void WriteSuper(Span<byte> super, LpWriter slotA, LpWriter slotB)
    {
        for (int copy = 0; copy < 2; copy++)
        {
            Geometry().CopyTo(super[(Padded * (1 + copy))..]);
            Span<byte> tables = super[((3 * Padded) + (copy * Slots * MaxTableBytes))..];
            slotA.Table().CopyTo(tables);
            slotB.Table().CopyTo(tables[MaxTableBytes..]);
        }
    }

    private static byte[] Geometry()
    {
        byte[] bytes = new byte[Padded];
        U32(bytes, 0, 0x616c4467);
        U32(bytes, 4, 52);
        U32(bytes, 40, MaxTableBytes);
        U32(bytes, 44, Slots);
        U32(bytes, 48, 4096);
        SHA256.HashData(bytes.AsSpan(0, 52)).CopyTo(bytes, 8);
        return bytes;
    }

    private byte[] Table()
    {
        List<byte> partitions = [], extents = [];
        int used = 0;
        foreach ((string name, uint attributes, List<(long Start, long Sectors)> own) in _partitions)
        {
            byte[] entry = new byte[52];
            Encoding.ASCII.GetBytes(name).CopyTo(entry, 0);
            U32(entry, 36, attributes);
            U32(entry, 40, (uint)used);
            U32(entry, 44, (uint)own.Count);
            partitions.AddRange(entry);
            used += own.Count;
            foreach ((long start, long sectors) in own)
            {
                byte[] extent = new byte[24];
                BinaryPrimitives.WriteInt64LittleEndian(extent, sectors);
                BinaryPrimitives.WriteInt64LittleEndian(extent.AsSpan(12), start);
                extents.AddRange(extent);
            }
        }
        byte[] group = new byte[48], block = new byte[64];
        Encoding.ASCII.GetBytes("default").CopyTo(group, 0);
        BinaryPrimitives.WriteInt64LittleEndian(block, firstSector);
        U32(block, 8, 4096);
        BinaryPrimitives.WriteInt64LittleEndian(block.AsSpan(16), deviceBytes);
        Encoding.ASCII.GetBytes(device).CopyTo(block, 24);
        byte[] tables = [.. partitions, .. extents, .. group, .. block];

        byte[] header = new byte[HeaderBytes];
        U32(header, 0, 0x414c5030);
        header[4] = 10;
        // Minor version 1 has the attribute of updated partitions.
        header[6] = 1;
        U32(header, 8, HeaderBytes);
        U32(header, 44, (uint)tables.Length);
        SHA256.HashData(tables).CopyTo(header, 48);
        Descriptor(header, 80, 0, _partitions.Count, 52);
        Descriptor(header, 92, partitions.Count, used, 24);
        Descriptor(header, 104, partitions.Count + extents.Count, 1, 48);
        Descriptor(header, 116, partitions.Count + extents.Count + 48, 1, 64);
        SHA256.HashData(header).CopyTo(header, 12);
        byte[] all = [.. header, .. tables];
        return all.Length <= MaxTableBytes ? all : throw new InvalidOperationException($"a table of {all.Length} bytes is too large");
    }

    private static void Descriptor(byte[] header, int at, int offset, int count, int bytes)
    {
        U32(header, at, (uint)offset);
        U32(header, at + 4, (uint)count);
        U32(header, at + 8, (uint)bytes);
    }

    private static void U32(Span<byte> bytes, int at, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(bytes[at..], value);
}
