using System;

namespace Snapuserd.Block;

/// <summary>
/// The lowest known location of bytes: a file (by the device number of its file system and its inode), or a block device that is not a
/// window onto another, or whose bytes cannot be mapped to those below.
/// </summary>
internal readonly record struct StorageBottom(bool IsFile, uint Major, uint Minor, ulong Inode) : IComparable<StorageBottom>
{
    /// <summary>A block device.</summary>
    internal static StorageBottom OfDevice(uint major, uint minor) => new(false, major, minor, 0);

    /// <summary>A regular file.</summary>
    internal static StorageBottom OfFile(uint major, uint minor, ulong inode) => new(true, major, minor, inode);

    /// <summary>An order that is the same in every process.</summary>
    public int CompareTo(StorageBottom other) =>
        (IsFile, Major, Minor, Inode).CompareTo((other.IsFile, other.Major, other.Minor, other.Inode));
}

/// <summary>A range of bytes of a bottom.</summary>
internal readonly record struct StoragePiece(StorageBottom Bottom, long Offset, long Length)
{
    /// <summary>The offset after the last byte; a length that exceeds the offset range ends at the largest offset.</summary>
    internal long End => Length > long.MaxValue - Offset ? long.MaxValue : Offset + Length;

    internal bool Overlaps(in StoragePiece other) => Bottom == other.Bottom && Offset < other.End && other.Offset < End;
}
