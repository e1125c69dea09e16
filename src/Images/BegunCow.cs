using System;
using System.Buffers.Binary;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;

namespace Snapuserd.Images;

/// <summary>
/// Protects a COW whose merge has begun and is not finished: it is the only file that can finish its base. No output of this program
/// replaces it.
/// </summary>
public static class BegunCow
{
    // Offsets in the header (CowHeader.cs): the version, the header's size, and the end of num_merge_ops, where the size of scratch begins.
    private const int MajorAt = 8, HeaderSizeAt = 12, CountEnd = 34;

    /// <summary>
    /// Exit code 65 if <paramref name="path"/> holds a begun COW. A file that is not a COW, or an untouched or merged COW, may be replaced.
    /// </summary>
    public static void Refuse(string path)
    {
        string? why;
        try
        {
            using CowInput input = new(path);
            why = Why(input.Source);
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.InputMissing)
        {
            return;
        }
        if (why != null)
        {
            throw new SnapuserdException(ExitCode.CowCorrupt,
                $"{path} is a COW whose merge has begun ({why}): it is the only file that can finish its base, and is not replaced; finish "
                + "it (snapuserd merge), or write to another file");
        }
    }

    /// <summary>
    /// The state of the merge, as a clause; null unless the merge has begun and is not finished. It has begun if the count is above 0, the
    /// scratch state is not 0, or the magic says that a block is being overwritten.
    /// </summary>
    private static string? Why(IByteSource source)
    {
        Span<byte> magic = stackalloc byte[sizeof(ulong)];
        if (source.Length < magic.Length) return null;
        source.Read(0, magic);
        if (BinaryPrimitives.ReadUInt64LittleEndian(magic) == CowHeader.UnsafeMagic)
            return "it was killed while it overwrote a block without scratch";
        if (BinaryPrimitives.ReadUInt64LittleEndian(magic) != CowHeader.Magic || source.Length < CountEnd) return null;
        // Read without any validation: a COW that was damaged after its merge began is still the only file that can finish its base.
        Span<byte> start = stackalloc byte[CountEnd];
        source.Read(0, start);
        int major = BinaryPrimitives.ReadUInt16LittleEndian(start[MajorAt..]),
            header = BinaryPrimitives.ReadUInt16LittleEndian(start[HeaderSizeAt..]);
        if (major is not (2 or 3)) return null;
        ulong count = BinaryPrimitives.ReadUInt64LittleEndian(start[CowHeader.MergeCountOffset..]);
        Span<byte> state = stackalloc byte[1 + sizeof(uint)];
        state.Clear();
        if (source.Length >= CountEnd + sizeof(uint)) source.Read(CountEnd, state[1..]);
        if (BinaryPrimitives.ReadUInt32LittleEndian(state[1..]) > 0 && header > CountEnd && header < source.Length)
            source.Read(header, state[..1]);
        if (count == 0 && state[0] == ScratchLayout.NeverUsed) return null;
        try
        {
            using CowFile cow = CowFile.Read(source);
            return count >= (ulong)cow.Order.Count ? null : $"{count} of {cow.Order.Count} ops are merged";
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.CowCorrupt)
        {
            return $"{count} ops are merged, and the file is damaged";
        }
    }
}
