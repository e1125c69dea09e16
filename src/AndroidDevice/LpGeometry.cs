using System;
using System.Buffers.Binary;
using System.Globalization;
using Snapuserd.Interop;

namespace Snapuserd.AndroidDevice;

/// <summary>
/// The geometry at the beginning of a super partition, or of a file with a partition table (LP metadata, android-device §2). It determines
/// where the tables are.
/// <code>
///  off size field
///    0    4 magic 0x616c4467
///    4    4 size of this structure, 52
///    8   32 SHA-256 of the 52 bytes, with these 32 bytes as zeros
///   40    4 metadata_max_size, bytes reserved for each table, a multiple of 512
///   44    4 number of metadata slots
///   48    4 logical block size in bytes
/// </code>
/// </summary>
public sealed class LpGeometry(uint maxTableBytes, uint slots, uint blockBytes)
{
    /// <summary>Bytes reserved for each table.</summary>
    public uint MaxTableBytes { get; } = maxTableBytes;
    /// <summary>Tables on the device, each with a backup.</summary>
    public uint Slots { get; } = slots;
    /// <summary>The unit of partition sizes, in bytes.</summary>
    public uint BlockBytes { get; } = blockBytes;

    /// <summary>Bytes of a geometry on disk, with its padding.</summary>
    public const int PaddedBytes = 8 * SectorBytes;

    /// <summary>Bytes before the first geometry of a super partition.</summary>
    public const int ReservedBytes = 8 * SectorBytes;

    /// <summary>Bytes of a sector, the unit of everything in a table.</summary>
    public const int SectorBytes = 512;

    private const uint Magic = 0x616c4467;
    private const int StructBytes = 52;
    private const int ChecksumOffset = 8;

    /// <summary>Larger than any table of a device; limits the memory that a crafted geometry can take.</summary>
    private const uint LargestTable = 16 << 20;

    private const uint MostSlots = 64;

    /// <summary>Byte offset of the table of <paramref name="slot"/> on a super partition.</summary>
    public long PrimaryOffset(int slot) => ReservedBytes + (2 * PaddedBytes) + ((long)MaxTableBytes * slot);

    /// <summary>Byte offset of the backup of the table of <paramref name="slot"/>.</summary>
    public long BackupOffset(int slot) => PrimaryOffset(0) + ((long)MaxTableBytes * (Slots + slot));

    /// <summary>Byte offset of the end of the last backup: partitions lie after it.</summary>
    public long EndOffset => BackupOffset((int)Slots);

    /// <summary>
    /// Reads a geometry from its first <see cref="StructBytes"/> bytes. Returns null, or the reason why it is invalid.
    /// </summary>
    public static string? Parse(ReadOnlySpan<byte> bytes, out LpGeometry? geometry)
    {
        geometry = null;
        if (bytes.Length < StructBytes) return Text($"{bytes.Length} bytes, expected {StructBytes}");
        uint magic = U32(bytes, 0);
        if (magic != Magic) return Text($"magic 0x{magic:x8}, expected 0x{Magic:x8}");
        uint size = U32(bytes, 4);
        if (size != StructBytes) return Text($"a structure of {size} bytes, expected {StructBytes}");
        if (!Checksum.Matches(bytes[..StructBytes], ChecksumOffset)) return "the checksum is wrong";
        LpGeometry read = new(U32(bytes, 40), U32(bytes, 44), U32(bytes, 48));
        if (read.MaxTableBytes is 0 or > LargestTable || read.MaxTableBytes % SectorBytes != 0)
            return Text($"metadata_max_size is {read.MaxTableBytes}; expected a multiple of {SectorBytes} up to {LargestTable}");
        if (read.Slots is 0 or > MostSlots) return Text($"the number of slots is {read.Slots}; expected 1 to {MostSlots}");
        if (read.BlockBytes == 0 || read.BlockBytes % SectorBytes != 0)
            return Text($"the logical block size is {read.BlockBytes}; expected a multiple of {SectorBytes}");
        geometry = read;
        return null;
    }

    private static uint U32(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt32LittleEndian(bytes[at..]);

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}

/// <summary>The checksums of LP metadata.</summary>
internal static class Checksum
{
    /// <summary>True if the bytes have their SHA-256 at <paramref name="offset"/>, computed with zeros there.</summary>
    internal static bool Matches(ReadOnlySpan<byte> bytes, int offset)
    {
        Span<byte> zeros = stackalloc byte[Sodium.Sha256Bytes];
        zeros.Clear();
        Sha256State state = default;
        _ = Sodium.Sha256Init(ref state);
        _ = Sodium.Sha256Update(ref state, bytes[..offset]);
        _ = Sodium.Sha256Update(ref state, zeros);
        _ = Sodium.Sha256Update(ref state, bytes[(offset + zeros.Length)..]);
        Span<byte> hash = stackalloc byte[Sodium.Sha256Bytes];
        _ = Sodium.Sha256Final(ref state, hash);
        return hash.SequenceEqual(bytes.Slice(offset, hash.Length));
    }

    /// <summary>True if <paramref name="hash"/> is the SHA-256 of <paramref name="bytes"/>.</summary>
    internal static bool IsOf(ReadOnlySpan<byte> hash, ReadOnlySpan<byte> bytes)
    {
        Sha256State state = default;
        _ = Sodium.Sha256Init(ref state);
        _ = Sodium.Sha256Update(ref state, bytes);
        Span<byte> computed = stackalloc byte[Sodium.Sha256Bytes];
        _ = Sodium.Sha256Final(ref state, computed);
        return computed.SequenceEqual(hash);
    }
}
