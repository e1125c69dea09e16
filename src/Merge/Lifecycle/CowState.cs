using System;
using System.Buffers.Binary;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Merge;

/// <summary>The kinds of state of a COW.</summary>
public enum CowKind
{
    /// <summary>The file does not exist, although a folder for it was expected.</summary>
    Absent,
    /// <summary>
    /// A block device with zeros in place of a COW's magic: no COW was completed on it, or `create` is replacing the last one.
    /// </summary>
    Blank,
    /// <summary>A COW that no program has begun to merge: the base is the old image.</summary>
    Untouched,
    /// <summary>
    /// A COW whose merge has begun: the base may be neither the old image nor the new one, and the merge must be continued.
    /// </summary>
    Begun,
    /// <summary>A COW that does not show whether its merge has begun: the base may be the old image, or neither image.</summary>
    Unknown,
    /// <summary>All is merged: the base is the new image.</summary>
    Merged,
    /// <summary>A file that cannot be served; <see cref="CowState.BaseIsUntouched"/> describes the base.</summary>
    Corrupt,
}

/// <summary>
/// The state of a COW and its base according to the COW, read without writing anything. <paramref name="BaseIsUntouched"/>: the base is
/// certainly the old image. <paramref name="Code"/> and <paramref name="Sentence"/> describe the error or the state.
/// <para>
/// The table in docs/states.md lists what a count and a state byte prove (<see cref="MergeStart"/>). In addition, no program ever merged a
/// file (not a device) that is cut off: an engine reads all of a COW before it begins, and a crash does not later cut off what it has read.
/// </para>
/// </summary>
public sealed record CowState(CowKind Kind, bool BaseIsUntouched, ExitCode Code, string Sentence)
{
    /// <summary>
    /// The file is the beginning of a copy: empty, all zeros, or shorter than its own header says, and its existing part shows no merge. No
    /// merge begins with such a file, and a merge that has begun has flushed the whole file first. So the base is the old image, unless a
    /// marker says otherwise. Only a file can be shorter than its header says, not a device.
    /// </summary>
    public bool IsIncomplete { get; init; }

    /// <summary>The evidence in the COW about the start of its merge.</summary>
    public MergeStart Start { get; init; } = MergeStart.NotShown;

    /// <summary>This program has not begun the merge. Android's engine may have, unless <see cref="BaseIsUntouched"/>.</summary>
    public bool IsNotBegunHere => Start is MergeStart.NotBegun or MergeStart.NotBegunHere;

    /// <summary>The <see cref="CowDigest"/>, if it was requested and can be computed.</summary>
    public string? Digest { get; init; }

    /// <summary>Ops that are counted as merged.</summary>
    public ulong Count { get; init; }

    // Byte offset of the end of the header field that holds the size of scratch.
    private const int ScratchSizeEnd = 38;

    public static readonly CowState Absent = new(CowKind.Absent, true, ExitCode.Done, "there is no update");

    /// <summary>
    /// Reads the state of the existing COW at <paramref name="path"/>, for a base and a source of these lengths in bytes. With
    /// <paramref name="identify"/> also computes its digest.
    /// </summary>
    public static CowState Read(string path, long baseBytes, long sourceBytes, bool sourceIsBase, bool identify = false)
    {
        try
        {
            using CowInput input = new(path);
            return Of(input.Source, input.IsBlockDevice, baseBytes, sourceBytes, sourceIsBase, identify);
        }
        catch (SnapuserdException e)
        {
            return new CowState(CowKind.Corrupt, false, e.Code, e.Message);
        }
    }

    /// <summary>Reads the same state from any byte source.</summary>
    public static CowState Of(IByteSource source, bool isBlockDevice, long baseBytes, long sourceBytes, bool sourceIsBase,
        bool identify = false)
    {
        MergeStart? start = null;
        string? digest = null;
        ulong count = 0;
        try
        {
            if (isBlockDevice && IsBlank(source))
                return new CowState(CowKind.Blank, true, ExitCode.Done, $"there is no update on {source.Name}");
            if (!isBlockDevice && CutShort(source) is { } message)
                return new CowState(CowKind.Corrupt, false, ExitCode.CowCorrupt, message) { IsIncomplete = true };
            CowHeader header = CowHeader.Parse(source);
            count = header.NumMergeOps;
            using CowFile cow = CowFile.Read(source);
            start = MergeTrace.Of(source, cow);
            if (identify) digest = CowDigest.Of(source, cow);
            CowState state = Of(source, cow, start.Value, baseBytes, sourceBytes, sourceIsBase);
            return state with { Start = start.Value, Digest = digest, Count = count };
        }
        catch (SnapuserdException e)
        {
            start ??= StartOf(source);
            bool untouched = start == MergeStart.NotBegun
                || (start == MergeStart.NotBegunHere && e is CowCutOffException && !isBlockDevice);
            return new CowState(CowKind.Corrupt, untouched, e.Code, e.Message) { Start = start.Value, Digest = digest, Count = count };
        }
    }

    private static MergeStart StartOf(IByteSource source)
    {
        try
        {
            return MergeTrace.Of(source, null);
        }
        catch (SnapuserdException)
        {
            return MergeStart.NotShown;
        }
    }

    private static CowState Of(IByteSource source, CowFile cow, MergeStart start, long baseBytes, long sourceBytes, bool sourceIsBase)
    {
        CowHeader header = cow.Header;
        if (header.Major < 2)
            throw new SnapuserdException(ExitCode.CowCorrupt, $"{source.Name}: version {header.Major} can be neither served nor merged");
        int total = cow.Order.Count;
        if (header.NumMergeOps == (ulong)total)
            return new CowState(CowKind.Merged, false, ExitCode.Done, $"all {total} ops of {source.Name} are merged");
        cow.CheckDevices(baseBytes, sourceBytes);
        cow.Order.Check(sharedDevices: true, default, sourceIsBase);
        return start switch
        {
            MergeStart.NotBegun => new CowState(CowKind.Untouched, true, ExitCode.Done, $"nothing of {source.Name} is merged"),
            MergeStart.NotBegunHere => new CowState(CowKind.Unknown, false, ExitCode.Done,
                $"nothing shows whether Android's engine has begun to merge {source.Name}, because its first op is no Copy or Xor"),
            MergeStart.NotShown => new CowState(CowKind.Unknown, false, ExitCode.Done,
                $"nothing shows whether the merge of {source.Name} has begun, because it has no scratch"),
            _ => new CowState(CowKind.Begun, false, ExitCode.Done,
                header.NumMergeOps > 0 ? $"{header.NumMergeOps} of {total} ops of {source.Name} are merged"
                    : $"the merge of {source.Name} has begun"),
        };
    }

    /// <summary>
    /// The message for a file whose copy was interrupted before the place where a merge leaves its first trace. Null if the file does not
    /// show this, or if its count says that a merge has begun.
    /// </summary>
    private static string? CutShort(IByteSource source)
    {
        if (source.Length == 0) return $"{source.Name} is empty: it was not copied";
        Span<byte> start = stackalloc byte[CowHeader.MaxHeaderBytes];
        start.Clear();
        int length = (int)Math.Min(start.Length, source.Length);
        source.Read(0, start[..length]);
        if (!start.ContainsAnyExcept((byte)0))
            return IsZero(source) ? $"{source.Name} has nothing but zeros in it: its copy was interrupted" : null;
        Span<byte> magic = stackalloc byte[sizeof(ulong)];
        BinaryPrimitives.WriteUInt64LittleEndian(magic, CowHeader.Magic);
        if (!start[..Math.Min(length, magic.Length)].SequenceEqual(magic[..Math.Min(length, magic.Length)])) return null;
        int major = BinaryPrimitives.ReadUInt16LittleEndian(start[8..]), header = BinaryPrimitives.ReadUInt16LittleEndian(start[12..]);
        if (length >= CowHeader.PrefixBytes && !CowHeader.IsKnown(major, header)) return null;
        // The state byte follows the header directly.
        if (length >= CowHeader.PrefixBytes && source.Length > header) return null;
        bool counted = BinaryPrimitives.ReadUInt64LittleEndian(start[CowHeader.MergeCountOffset..]) > 0;
        bool scratchless = major == 1 || (length >= ScratchSizeEnd
            && new ScratchLayout(header, BinaryPrimitives.ReadUInt32LittleEndian(start[(ScratchSizeEnd - sizeof(uint))..])).Window == 0);
        return counted || scratchless ? null
            : $"{source.Name} is {source.Length} bytes long, shorter than its own header says: its copy was interrupted";
    }

    private static bool IsZero(IByteSource source)
    {
        byte[] part = new byte[64 << 10];
        for (long at = 0; at < source.Length; at += part.Length)
        {
            Span<byte> bytes = part.AsSpan(0, (int)Math.Min(part.Length, source.Length - at));
            source.Read(at, bytes);
            if (bytes.ContainsAnyExcept((byte)0)) return false;
        }
        return true;
    }

    /// <summary>
    /// True if the device begins with zeros. `create` writes the magic to a device after all else is durable, and no merge accepts a COW
    /// without it. A wiped device begins with zeros as well.
    /// </summary>
    private static bool IsBlank(IByteSource source)
    {
        Span<byte> magic = stackalloc byte[sizeof(ulong)];
        if (source.Length < magic.Length) return false;
        source.Read(0, magic);
        return !magic.ContainsAnyExcept((byte)0);
    }
}
