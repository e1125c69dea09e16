using System;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Merge;

/// <summary>
/// The layout of the scratch region of a COW (cow-format §6.7). H is the header's size, B the scratch size in bytes, M = B × 16 / 4096 the
/// size of the metadata area, W the window:
/// <code>
/// 0          H  H+1                         H+M                               H+B
/// | header   | s | entry 0 | entry 1 | … | 0 | slot 0 | slot 1 | … | slot W−1 | … ops and data
/// |&lt;- sector 0 ->|                           |&lt;- 4096 ->|
/// </code>
/// s is the state byte: 0 never used, 1 invalid, 2 valid. An entry is { new_block u64, file_offset u64 }, little-endian, at an odd address.
/// An entry of zeros ends the list. Three invariants hold:
/// <list type="bullet">
/// <item>Header, state byte and <c>num_merge_ops</c> share the first 512 bytes, so that one sector write changes count and state
/// together.</item>
/// <item>Entry i names the op at position <c>num_merge_ops</c> + i and points at slot i.</item>
/// <item>A slot holds the bytes to be written to Base; for an Xor, its result.</item>
/// </list>
/// </summary>
public readonly record struct ScratchLayout
{
    /// <summary>State byte: nothing was ever journaled.</summary>
    public const byte NeverUsed = 0;
    /// <summary>State byte: the contents of the region must not be read.</summary>
    public const byte Invalid = 1;
    /// <summary>State byte: the region holds the window at <c>num_merge_ops</c>, completely.</summary>
    public const byte Valid = 2;

    /// <summary>Bytes per metadata entry.</summary>
    public const int EntryBytes = 16;

    /// <summary>
    /// The layout after a header of <paramref name="headerBytes"/> bytes for a region of <paramref name="scratchBytes"/> bytes.
    /// </summary>
    public ScratchLayout(int headerBytes, uint scratchBytes)
    {
        HeaderBytes = headerBytes;
        MetadataBytes = (long)scratchBytes * EntryBytes / CowOp.BlockSize;
        long slots = (scratchBytes - MetadataBytes) / CowOp.BlockSize;
        long entries = ((MetadataBytes - 1) / EntryBytes) - 1;   // The area starts with the state byte and ends with the terminator.
        Window = scratchBytes == 0 ? 0 : (int)Math.Max(0, Math.Min(slots, entries));
    }

    /// <summary>H, in bytes.</summary>
    public int HeaderBytes { get; }

    /// <summary>M, in bytes.</summary>
    public long MetadataBytes { get; }

    /// <summary>W, in ops: 510 for 2 MiB, 0 if the region is absent or too small to use.</summary>
    public int Window { get; }

    /// <summary>File offset of the state byte.</summary>
    public int StateOffset => HeaderBytes;

    /// <summary>File offset of slot 0.</summary>
    public long DataOffset => HeaderBytes + MetadataBytes;

    /// <summary>File offset of entry <paramref name="index"/>; index n of a window of n is the terminator.</summary>
    public long EntryOffset(int index) => HeaderBytes + 1 + ((long)index * EntryBytes);

    /// <summary>File offset of slot <paramref name="index"/>.</summary>
    public long SlotOffset(int index) => DataOffset + ((long)index * CowOp.BlockSize);

    /// <summary>
    /// Bytes from the file's start that windows of up to <paramref name="slots"/> ops touch, in whole pages; page 0 only for 0 slots.
    /// </summary>
    public long HeadBytes(int slots) => slots == 0 ? CowOp.BlockSize : (SlotOffset(slots) + CowOp.BlockSize - 1) & -CowOp.BlockSize;
}
