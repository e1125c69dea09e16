using System;
using System.Buffers.Binary;

namespace Snapuserd.AndroidDevice;

/// <summary>What the bootloader is told about the update (android-device §8); the numbers are Android's.</summary>
public enum BootloaderMergeStatus
{
    /// <summary>No update.</summary>
    None = 0,
    /// <summary>Not known.</summary>
    Unknown = 1,
    /// <summary>An update is written and not merged.</summary>
    Snapshotted = 2,
    /// <summary>The merge has begun.</summary>
    Merging = 3,
    /// <summary>`fastboot snapshot-update cancel` asked for the end of the update.</summary>
    Cancelled = 4,
}

/// <summary>
/// The merge status in the misc partition, for bootloaders that use AOSP's layout.
/// <code>
///    off  size field
///  32768     1 version, 2
///  32769     4 magic 0x56740AB0
///  32773     1 merge status
///  32774     1 number of the slot that was current when it was written
/// </code>
/// </summary>
public static class MiscPartition
{
    /// <summary>Byte offset of the structure.</summary>
    public const int Offset = 32768;

    /// <summary>Bytes of the structure, with its reserved part.</summary>
    public const int Bytes = 64;

    /// <summary>Bytes from its beginning that hold the structure and those before it.</summary>
    public const int EndOffset = Offset + Bytes;

    private const byte Version = 2;
    private const uint Magic = 0x56740AB0;
    private const int MagicOffset = 1, StatusOffset = 5, SlotOffset = 6;

    /// <summary>
    /// Reads the structure from its <see cref="Bytes"/> bytes. False if they are not such a structure; boards that shift the layout, and
    /// vendors that keep the status elsewhere, have none here.
    /// </summary>
    public static bool TryRead(ReadOnlySpan<byte> bytes, out BootloaderMergeStatus status, out int slot)
    {
        (status, slot) = (BootloaderMergeStatus.Unknown, -1);
        if (bytes.Length < Bytes || bytes[0] != Version || BinaryPrimitives.ReadUInt32LittleEndian(bytes[MagicOffset..]) != Magic
            || bytes[StatusOffset] > (byte)BootloaderMergeStatus.Cancelled)
            return false;
        (status, slot) = ((BootloaderMergeStatus)bytes[StatusOffset], bytes[SlotOffset]);
        return true;
    }

    /// <summary>The structure with another status and slot; the rest of <paramref name="bytes"/> stays.</summary>
    public static byte[] With(ReadOnlySpan<byte> bytes, BootloaderMergeStatus status, int slot)
    {
        byte[] changed = bytes[..Bytes].ToArray();
        (changed[StatusOffset], changed[SlotOffset]) = ((byte)status, (byte)slot);
        return changed;
    }
}
