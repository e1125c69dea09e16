using System;
using System.Globalization;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Merge;

namespace Snapuserd.Daemon;

/// <summary>
/// COW.merging, a file beside a COW that is a file. <c>boot</c> makes it before a merge may begin; a merge that begins writes into it which COW it is that has written to the base. So a COW that is
/// missing, cut off, or another one than before is not taken for an update that never was. It goes when all is merged and durable. To delete a merged COW, delete the mark first.
/// <code>
///   empty                          a merge may begin; the base is the old image
///   "maybe " DIGEST " " COUNT "\n"  the COW cannot say itself whether its merge has begun
///   "begun " DIGEST " " COUNT "\n"  the merge of the COW with this digest (CowDigest) has begun; COUNT ops, 16 hexadecimal digits, are merged or more
///   "begun\n"                      the same from versions that wrote no digest
/// </code>
/// The order at a start: the COW's state byte is durable, then the mark, then the first write to the base. So a mark without content proves an old image even where nothing can be read from the COW, and an
/// untouched COW beside a mark with content is not the one that was merged.
/// <para>
/// All of it lies within one sector, and is rewritten in place. A power cut can leave zeros in place of what was written: a mark that has begun, of which COW is not known.
/// A file with anything else in it belongs to someone else: it is never written to and never removed, and there can be no mark beside that COW.
/// </para>
/// </summary>
/// <param name="cow">Path of the COW.</param>
public sealed class MergingMark(string cow) : IMergeMark
{
    private const int WordBytes = 6, DigestBytes = 64, CountBytes = 16;

    /// <summary>Bytes of a mark with content.</summary>
    public const int Bytes = WordBytes + DigestBytes + 1 + CountBytes + 1;

    private static ReadOnlySpan<byte> Old => "begun\n"u8;

    /// <summary>Where the mark of a COW lies.</summary>
    public static string PathOf(string cow) => cow + ".merging";

    /// <summary>Reads the mark of <paramref name="cow"/>.</summary>
    public static MarkState Look(string cow)
    {
        int fd = Open(cow, Libc.O_RDONLY, out MarkState state);
        if (fd >= 0) _ = Libc.Close(fd);
        return state;
    }

    /// <summary>
    /// Makes a durable mark that says what <paramref name="says"/> does; one that says more already stays as it is. Returns 0 or a negative errno; -EEXIST if something of that name is no mark.
    /// <para>
    /// A mark that a power cut can take away is none: the base could be half merged, the COW lost with the same cut, and the next boot would take the base for the old
    /// image. Where the folder cannot be flushed, and flushing all of the file system is not known to be as good, this is a failure: the row is served and not merged. So is a file system without room for the content.
    /// </para>
    /// </summary>
    public static int Make(string cow, MarkState says)
    {
        int fd = Open(cow, Libc.O_RDWR | Libc.O_CREAT, out MarkState there);
        if (fd < 0) return fd;
        // What the merge will write must not fail for want of a block.
        int result = Libc.FAllocate(fd, Libc.FALLOC_FL_KEEP_SIZE, 0, Bytes), unsupported = 0;
        if (result != -Errno.ENOSPC) result = 0;
        if (result == 0 && (says.Kind > there.Kind || (says.Kind == there.Kind && says.Digest != null && there.Digest == null))) result = Write(fd, says);
        if (result == 0) result = FileFlush.Of(fd);
        // Also if it was there before: who made it may have been killed before this.
        if (result >= 0) result = FolderFlush.Of(cow, fd, out unsupported);
        _ = Libc.Close(fd);
        return result < 0 ? result : unsupported;
    }

    /// <summary>What a mark would say here outlasts a power cut: then one without content says that no merge has begun.</summary>
    public static bool IsDurable(string cow)
    {
        int fd = Open(cow, Libc.O_RDONLY, out _);
        if (fd < 0) return false;
        int result = FolderFlush.Of(cow, fd, out int unsupported);
        _ = Libc.Close(fd);
        return result == 0 && unsupported == 0;
    }

    /// <summary>Removes the mark if there is one. Never fails: one that stays is removed by the next boot.</summary>
    public static void Remove(string cow)
    {
        int fd = Open(cow, Libc.O_RDWR, out _);
        if (fd < 0) return;
        if (Libc.Unlink(PathOf(cow)) == 0) _ = FolderFlush.Of(cow, fd, out _);
        _ = Libc.Close(fd);
    }

    /// <summary>The sentence for a COW that the mark beside it contradicts.</summary>
    public static string Sentence(string cow, string why) =>
        $"{PathOf(cow)} says that the merge of another file has written to the base, or may have: {cow} is not that file, {why}; bring that one back, or write an image to the base and remove the mark";

    /// <inheritdoc/>
    public void Check(CowFile file)
    {
        int fd = Open(cow, Libc.O_RDONLY, out MarkState mark);
        if (fd >= 0) _ = Libc.Close(fd);
        if (mark.Kind == MarkKind.Unreadable) throw Failure(fd, $"{PathOf(cow)} cannot be read, and may say that another merge has written to the base");
        if (!mark.HasContent) return;
        string? why = mark.Digest == null ? null : mark.Contradicts(DigestOf(file), file.Header.NumMergeOps);
        if (why == null && IsUntouched()) why = "nothing of it is merged, so it is a copy from before";
        if (why != null) throw new SnapuserdException(ExitCode.CowCorrupt, Sentence(cow, why));
    }

    private bool IsUntouched()
    {
        using CowInput input = new(cow);
        return MergeTrace.IsUntouched(input.Source);
    }

    /// <inheritdoc/>
    public void Begin(CowFile file, int count)
    {
        int fd = Open(cow, Libc.O_RDWR, out MarkState state);
        if (fd < 0 && state.Kind is MarkKind.None or MarkKind.Unknown) return;
        if (fd >= 0)
        {
            int result = Write(fd, new MarkState(MarkKind.Begun, state.Digest ?? DigestOf(file), (ulong)count));
            if (result == 0) result = FileFlush.Of(fd);
            _ = Libc.Close(fd);
            if (result == 0) return;
            fd = result;
        }
        throw Failure(fd, $"{PathOf(cow)} cannot say that the merge has begun, so nothing was written to the base");
    }

    /// <inheritdoc/>
    public void End() => Remove(cow);

    private static SnapuserdException Failure(int error, string what) =>
        new(error is -Errno.EMFILE or -Errno.ENFILE or -Errno.ENOMEM ? ExitCode.OutOfResources : ExitCode.InputOutput, $"{what}: {Reason.Of(error)}");

    private string DigestOf(CowFile file)
    {
        using CowInput input = new(cow);
        return CowDigest.Of(input.Source, file);
    }

    private static int Write(int fd, MarkState says)
    {
        string digest = says.Digest ?? throw new ArgumentException("a mark with content names its COW", nameof(says));
        string word = says.Kind == MarkKind.Begun ? "begun" : "maybe";
        byte[] text = Encoding.ASCII.GetBytes(string.Create(CultureInfo.InvariantCulture, $"{word} {digest} {says.Count:x16}\n"));
        nint written = Libc.PWrite(fd, text, 0);
        return written < 0 ? (int)written : written == text.Length ? 0 : -Errno.EIO;
    }

    /// <summary>Opens the mark, without following a link or waiting for the other end of a pipe. -EEXIST if it is none.</summary>
    private static int Open(string cow, int flags, out MarkState state)
    {
        int fd;
        do fd = Libc.OpenAt(Libc.AT_FDCWD, PathOf(cow), Libc.O_NOFOLLOW | Libc.O_NONBLOCK | Libc.O_CLOEXEC | flags, 0x180);
        while (fd == -Errno.EINTR);
        // A name that leaves no room for a mark has none either.
        state = new MarkState(fd is -Errno.ENOENT or -Errno.ENOTDIR or -Errno.ENAMETOOLONG ? MarkKind.None : fd is -Errno.ELOOP or -Errno.EISDIR or -Errno.ENXIO ? MarkKind.Unknown : MarkKind.Unreadable);
        if (fd < 0) return state.Kind == MarkKind.Unknown ? -Errno.EEXIST : fd;
        int result = Read(fd, out state);
        if (result == 0) return fd;
        _ = Libc.Close(fd);
        return result;
    }

    /// <summary>Returns 0, or -EEXIST if the file is no mark, or another negative errno if it cannot be read.</summary>
    private static int Read(int fd, out MarkState state)
    {
        state = new MarkState(MarkKind.Unreadable);
        int known = Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData status);
        if (known < 0) return known;
        Span<byte> text = stackalloc byte[Bytes];
        int read = (status.Mode & (uint)Libc.S_IFMT) == Libc.S_IFREG && status.Size <= Bytes ? (int)Libc.PRead(fd, text[..(int)status.Size], 0) : -Errno.EEXIST;
        if (read is < 0 and not -Errno.EEXIST) return read;
        MarkState? parsed = read == (int)status.Size ? Parse(text[..read]) : null;
        state = parsed ?? new MarkState(MarkKind.Unknown);
        return parsed == null ? -Errno.EEXIST : 0;
    }

    /// <summary>Null if that is no mark.</summary>
    private static MarkState? Parse(ReadOnlySpan<byte> text)
    {
        int size = text.Length;
        if (size == 0) return new MarkState(MarkKind.Empty);
        bool whole = size == Bytes, maybe = text.StartsWith("maybe"u8);
        // Of an old mark that was rewritten, a power cut may have kept the bytes, and the length of what was to take their place.
        if (size > Old.Length && text.StartsWith(Old) && !text[Old.Length..size].ContainsAnyExcept((byte)0)) return new MarkState(MarkKind.Begun);
        for (int i = 0; i < size; i++)
        {
            // A power cut may have kept the length of what was written, and lost the bytes.
            if (text[i] == 0) whole = false;
            else if (!Fits(text[i], i, size, maybe)) return null;
        }
        MarkKind kind = maybe ? MarkKind.Maybe : MarkKind.Begun;
        if (!whole) return new MarkState(kind);
        ulong count = ulong.Parse(Encoding.ASCII.GetString(text.Slice(WordBytes + DigestBytes + 1, CountBytes)), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);
        return new MarkState(kind, Encoding.ASCII.GetString(text.Slice(WordBytes, DigestBytes)), count);
    }

    private static bool Fits(byte one, int at, int size, bool maybe)
    {
        if (at < WordBytes - 1) return one == (maybe ? "maybe"u8 : "begun"u8)[at];
        if (size <= Old.Length) return one == (byte)'\n' && !maybe;
        return at switch
        {
            WordBytes - 1 or WordBytes + DigestBytes => one == (byte)' ',
            Bytes - 1 => one == (byte)'\n',
            _ => char.IsAsciiHexDigitLower((char)one),
        };
    }
}
