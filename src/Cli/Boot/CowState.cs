using System;
using System.Buffers.Binary;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Daemon;
using Snapuserd.Merge;

namespace Snapuserd.Cli.Boot;

/// <summary>What has become of a COW.</summary>
internal enum CowKind
{
    /// <summary>There is no such file, and there was to be a folder that it could be in.</summary>
    Absent,
    /// <summary>A block device with zeros where a COW has its magic: no COW was completed on it, or `create` is writing another over the last one.</summary>
    Blank,
    /// <summary>A COW that nobody has begun to merge: the base is the old image.</summary>
    Untouched,
    /// <summary>A COW whose merge has begun: the base may be neither the old image nor the new one, and to go on is the only way.</summary>
    Begun,
    /// <summary>A COW of which nothing shows whether its merge has begun: the base may be the old image, or neither.</summary>
    Doubtful,
    /// <summary>All is merged: the base is the new image.</summary>
    Merged,
    /// <summary>Something that cannot be served: <see cref="CowState.BaseIsUntouched"/> says what the base is.</summary>
    Corrupt,
}

/// <summary>
/// What a COW says about itself and its base, without anything being written. <paramref name="BaseIsUntouched"/>: the base is the old image for certain. <paramref name="Code"/> and <paramref name="Sentence"/> say what is wrong
/// with it, or how it is.
/// <para>
/// Certain is only this: before the first write to a base the engine makes the scratch state byte 1 durable, and never 0 again (design §5), and Android's writes its first window into scratch
/// and makes the byte 2. So a COW with scratch, a count of 0 and a state byte of 0 has an untouched base. A count of 0 alone proves nothing, because ops are written before they are counted; and without
/// scratch (format 1, and files that were made so) nothing else is there to look at.
/// </para>
/// </summary>
internal sealed record CowState(CowKind Kind, bool BaseIsUntouched, ExitCode Code, string Sentence)
{
    /// <summary>
    /// It is the beginning of a copy: empty, all zeros, or shorter than its own header says, and what is there of it says nothing of a merge. No merge begins with such a file, and one that has begun has flushed all of it
    /// before. So the base is the old image, unless a mark knows more; a file is meant, because nothing can be shorter on a device.
    /// </summary>
    internal bool IsIncomplete { get; init; }

    /// <summary>Its <see cref="CowDigest"/>, if it was asked for and can be computed.</summary>
    internal string? Digest { get; init; }

    /// <summary>Ops that are counted as merged.</summary>
    internal ulong Count { get; init; }

    // Where the header says how large scratch is.
    private const int ScratchSizeEnd = 38;

    internal static readonly CowState Absent = new(CowKind.Absent, true, ExitCode.Done, "there is no update");

    /// <summary>Looks at the COW at <paramref name="path"/>, which is there, for a base and a source of so many bytes; <paramref name="identify"/> asks for its digest.</summary>
    internal static CowState Read(string path, long baseBytes, long sourceBytes, bool sourceIsBase, bool identify = false)
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

    /// <summary>The same for bytes from anywhere.</summary>
    internal static CowState Of(IByteSource source, bool isBlockDevice, long baseBytes, long sourceBytes, bool sourceIsBase, bool identify = false)
    {
        bool untouched = false;
        string? digest = null;
        ulong count = 0;
        try
        {
            if (isBlockDevice && IsBlank(source)) return new CowState(CowKind.Blank, true, ExitCode.Done, $"there is no update on {source.Name}");
            if (!isBlockDevice && CutShort(source) is { } sentence) return new CowState(CowKind.Corrupt, false, ExitCode.CowCorrupt, sentence) { IsIncomplete = true };
            untouched = MergeTrace.IsUntouched(source);
            CowHeader header = CowHeader.Parse(source);
            count = header.NumMergeOps;
            using CowFile cow = CowFile.Read(source);
            if (identify) digest = CowDigest.Of(source, cow);
            CowState state = Of(source, cow, untouched, baseBytes, sourceBytes, sourceIsBase);
            return state with { Digest = digest, Count = count };
        }
        catch (SnapuserdException e)
        {
            return new CowState(CowKind.Corrupt, untouched, e.Code, e.Message) { Digest = digest, Count = count };
        }
    }

    private static CowState Of(IByteSource source, CowFile cow, bool untouched, long baseBytes, long sourceBytes, bool sourceIsBase)
    {
        CowHeader header = cow.Header;
        if (header.Major < 2) throw new SnapuserdException(ExitCode.CowCorrupt, $"{source.Name}: version {header.Major} can be neither served nor merged");
        int total = cow.Order.Count;
        if (header.NumMergeOps == (ulong)total) return new CowState(CowKind.Merged, false, ExitCode.Done, $"all {total} ops of {source.Name} are merged");
        cow.CheckDevices(baseBytes, sourceBytes);
        cow.Order.Check(sharedDevices: true, default, sourceIsBase);
        if (untouched) return new CowState(CowKind.Untouched, true, ExitCode.Done, $"nothing of {source.Name} is merged");
        if (header.NumMergeOps == 0 && new ScratchLayout(header.HeaderBytes, header.ScratchBytes).Window == 0) return new CowState(CowKind.Doubtful, false, ExitCode.Done, $"nothing shows whether the merge of {source.Name} has begun, because it has no scratch");
        return new CowState(CowKind.Begun, false, ExitCode.Done, header.NumMergeOps > 0 ? $"{header.NumMergeOps} of {total} ops of {source.Name} are merged" : $"the merge of {source.Name} has begun");
    }

    /// <summary>How a file shows that its copy was interrupted before the place where a merge leaves its first trace; null if it does not, or if what is there of its count says that a merge has begun.</summary>
    private static string? CutShort(IByteSource source)
    {
        if (source.Length == 0) return $"{source.Name} is empty: it was not copied";
        Span<byte> start = stackalloc byte[CowHeader.MaxHeaderBytes];
        start.Clear();
        int length = (int)Math.Min(start.Length, source.Length);
        source.Read(0, start[..length]);
        if (!start.ContainsAnyExcept((byte)0)) return IsZero(source) ? $"{source.Name} has nothing but zeros in it: its copy was interrupted" : null;
        Span<byte> magic = stackalloc byte[sizeof(ulong)];
        BinaryPrimitives.WriteUInt64LittleEndian(magic, CowHeader.Magic);
        if (!start[..Math.Min(length, magic.Length)].SequenceEqual(magic[..Math.Min(length, magic.Length)])) return null;
        int major = BinaryPrimitives.ReadUInt16LittleEndian(start[8..]), header = BinaryPrimitives.ReadUInt16LittleEndian(start[12..]);
        if (length >= CowHeader.PrefixBytes && !CowHeader.IsKnown(major, header)) return null;
        // The state byte is right after the header.
        if (length >= CowHeader.PrefixBytes && source.Length > header) return null;
        bool counted = BinaryPrimitives.ReadUInt64LittleEndian(start[CowHeader.MergeCountOffset..]) > 0;
        bool scratchless = major == 1 || (length >= ScratchSizeEnd && new ScratchLayout(header, BinaryPrimitives.ReadUInt32LittleEndian(start[(ScratchSizeEnd - sizeof(uint))..])).Window == 0);
        return counted || scratchless ? null : $"{source.Name} is {source.Length} bytes long, shorter than its own header says: its copy was interrupted";
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

    /// <summary>`create` writes the magic to a device when all else is durable, and no merge takes a COW without it; a device that was wiped begins with zeros as well.</summary>
    private static bool IsBlank(IByteSource source)
    {
        Span<byte> magic = stackalloc byte[sizeof(ulong)];
        if (source.Length < magic.Length) return false;
        source.Read(0, magic);
        return !magic.ContainsAnyExcept((byte)0);
    }
}
