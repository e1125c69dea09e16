using System;
using System.Globalization;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;

namespace Snapuserd.Merge;

/// <summary>
/// COW.merging, a marker file beside a COW that is a file. <c>boot</c> creates it before a merge may begin. A merge that begins writes into
/// it which COW has written to the base. So a COW that is missing, cut off or exchanged is not mistaken for an update that never began. The
/// marker is removed after all is merged and durable. To delete a merged COW, delete the marker first.
/// <code>
///   empty                          a merge may begin; the base is the old image
///   "maybe " DIGEST " " COUNT "\n"  the COW cannot itself show whether its merge has begun
///   "begun " DIGEST " " COUNT "\n"  the merge of the COW with this digest has begun; at least COUNT (16 hex digits) ops are merged
///   "begun\n"                      the same, from versions that wrote no digest
/// </code>
/// DIGEST is the CowDigest. When a merge begins, first the COW's state byte becomes durable, then the marker, then the base is written. So
/// an empty marker proves an old image even if the COW is unreadable. An untouched COW beside a marker with content is not the one that was
/// merged.
/// <para>
/// The whole content lies within one sector and is rewritten in place. A power cut can leave zeros in its place: such a marker means that
/// the merge of an unknown COW has begun. A file with any other content belongs to another program: it is never written or removed, and
/// that COW can have no marker.
/// </para>
/// </summary>
/// <param name="cow">Path of the COW.</param>
public sealed class MergeMarker(string cow) : IMergeMarker
{
    private const int WordBytes = 6, DigestBytes = 64, CountBytes = 16;

    /// <summary>Bytes of a marker with content.</summary>
    public const int Bytes = WordBytes + DigestBytes + 1 + CountBytes + 1;

    private static ReadOnlySpan<byte> Old => "begun\n"u8;

    /// <summary>The path of the marker of a COW.</summary>
    public static string PathOf(string cow) => cow + ".merging";

    /// <summary>The path of a marker with content until the content is durable.</summary>
    private static string NewPathOf(string cow) => PathOf(cow) + ".new";

    /// <summary>Reads the marker of <paramref name="cow"/>.</summary>
    public static MarkerState Look(string cow)
    {
        int fd = Open(cow, Libc.O_RDONLY, out MarkerState state);
        if (fd >= 0) _ = Libc.Close(fd);
        return state;
    }

    /// <summary>
    /// Makes a durable marker that says at least what <paramref name="says"/> does; an existing marker that says more stays as it is.
    /// Returns 0 or a negative errno; -EEXIST if the existing file is not a marker.
    /// <para>
    /// A marker that a power cut can remove is worthless: the base could be half merged, the COW lost in the same power cut, and the next
    /// boot would take the base for the old image. So it is a failure if the folder cannot be flushed and flushing the whole file system is
    /// not known to be equivalent. It is also a failure if the file system has no space for the content. After a failure the row is served
    /// and not merged.
    /// </para>
    /// </summary>
    public static int Make(string cow, MarkerState says)
    {
        // An empty marker says that the base is the old image, so a marker with content gets its name only after the content is durable.
        bool isNew = says.HasContent && Look(cow).Kind == MarkerKind.None;
        string path = isNew ? NewPathOf(cow) : PathOf(cow);
        int fd = OpenAt(path, Libc.O_RDWR | Libc.O_CREAT, out MarkerState there);
        if (fd < 0) return fd;
        // Later writes by the merge must not fail for want of a block.
        int result = Libc.FAllocate(fd, Libc.FALLOC_FL_KEEP_SIZE, 0, Bytes), unsupported = 0;
        if (result != -Errno.ENOSPC) result = 0;
        if (result == 0 && (isNew || says.Kind > there.Kind || (says.Kind == there.Kind && says.Digest != null && there.Digest == null)))
            result = Write(fd, says);
        if (result == 0) result = FileFlush.Of(fd);
        if (result >= 0 && isNew) result = Libc.Rename(path, PathOf(cow));
        // An existing marker needs this as well: the process that made it may have been killed before its own flush of the folder.
        if (result >= 0) result = FolderFlush.Of(cow, fd, out unsupported);
        _ = Libc.Close(fd);
        return result < 0 ? result : unsupported;
    }

    /// <summary>
    /// True if the marker exists and outlasts a power cut. Only then does a marker without content prove that no merge has begun.
    /// </summary>
    public static bool IsDurable(string cow)
    {
        int fd = Open(cow, Libc.O_RDONLY, out _);
        if (fd < 0) return false;
        int result = FolderFlush.Of(cow, fd, out int unsupported);
        _ = Libc.Close(fd);
        return result == 0 && unsupported == 0;
    }

    /// <summary>
    /// Removes the marker if there is one, and a new one that a killed process has not renamed. Never fails: the next boot removes a marker
    /// that remains.
    /// </summary>
    public static void Remove(string cow)
    {
        int newFd = OpenAt(NewPathOf(cow), Libc.O_RDWR, out _), fd = Open(cow, Libc.O_RDWR, out _);
        bool isRemoved = newFd >= 0 && Libc.Unlink(NewPathOf(cow)) == 0;
        if (fd >= 0 && Libc.Unlink(PathOf(cow)) == 0) isRemoved = true;
        if (isRemoved) _ = FolderFlush.Of(cow, fd >= 0 ? fd : newFd, out _);
        if (newFd >= 0) _ = Libc.Close(newFd);
        if (fd >= 0) _ = Libc.Close(fd);
    }

    /// <summary>The error text for a COW that contradicts the marker beside it.</summary>
    public static string Sentence(string cow, string why) =>
        $"{PathOf(cow)} says that the merge of another file has written to the base, or may have: {cow} is not that file, {why}; bring "
        + "that one back, or write an image to the base and remove the marker";

    /// <inheritdoc/>
    public void Check(CowFile file)
    {
        int fd = Open(cow, Libc.O_RDONLY, out MarkerState marker);
        if (fd >= 0) _ = Libc.Close(fd);
        if (marker.Kind == MarkerKind.Unreadable)
            throw ErrnoPolicy.Failure(FailedCall.Open, fd,
                $"{PathOf(cow)} cannot be read, and may say that another merge has written to the base");
        if (!marker.HasContent) return;
        string? why = marker.Digest == null ? null : marker.Contradicts(DigestOf(file), file.Header.NumMergeOps);
        bool merged = file.Header.NumMergeOps == (ulong)file.Order.Count;
        if (why == null && !merged && marker.Denies(StartOf(file))) why = "nothing of it is merged, so it is a copy from before";
        if (why != null) throw new SnapuserdException(ExitCode.CowCorrupt, Sentence(cow, why));
    }

    private MergeStart StartOf(CowFile file)
    {
        using CowInput input = new(cow);
        return MergeTrace.Of(input.Source, file);
    }

    /// <inheritdoc/>
    public void Begin(CowFile file, int count)
    {
        int fd = Open(cow, Libc.O_RDWR, out MarkerState state);
        if (fd < 0 && state.Kind is MarkerKind.None or MarkerKind.Unknown) return;
        if (fd >= 0)
        {
            int result = Write(fd, new MarkerState(MarkerKind.Begun, state.Digest ?? DigestOf(file), (ulong)count));
            if (result == 0) result = FileFlush.Of(fd);
            _ = Libc.Close(fd);
            if (result == 0) return;
            fd = result;
        }
        throw ErrnoPolicy.Failure(FailedCall.Open, fd,
            $"{PathOf(cow)} cannot say that the merge has begun, so nothing was written to the base");
    }

    /// <inheritdoc/>
    public void End() => Remove(cow);

    private string DigestOf(CowFile file)
    {
        using CowInput input = new(cow);
        return CowDigest.Of(input.Source, file);
    }

    private static int Write(int fd, MarkerState says)
    {
        string digest = says.Digest ?? throw new ArgumentException("a marker with content names its COW", nameof(says));
        string word = says.Kind == MarkerKind.Begun ? "begun" : "maybe";
        byte[] text = Encoding.ASCII.GetBytes(string.Create(CultureInfo.InvariantCulture, $"{word} {digest} {says.Count:x16}\n"));
        nint written = Libc.PWrite(fd, text, 0);
        return written < 0 ? (int)written : written == text.Length ? 0 : -Errno.EIO;
    }

    /// <summary>
    /// Opens the marker, without following a link or waiting for the other end of a pipe. -EEXIST if the file is not a marker.
    /// </summary>
    private static int Open(string cow, int flags, out MarkerState state) => OpenAt(PathOf(cow), flags, out state);

    private static int OpenAt(string path, int flags, out MarkerState state)
    {
        int fd = Retry.OpenAt(Libc.AT_FDCWD, path, Libc.O_NOFOLLOW | Libc.O_NONBLOCK | Libc.O_CLOEXEC | flags, Modes.PrivateFile);
        // If the name of the marker would be too long, no marker can exist.
        state = new MarkerState(fd is -Errno.ENOENT or -Errno.ENOTDIR or -Errno.ENAMETOOLONG ? MarkerKind.None
            : fd is -Errno.ELOOP or -Errno.EISDIR or -Errno.ENXIO ? MarkerKind.Unknown : MarkerKind.Unreadable);
        if (fd < 0) return state.Kind == MarkerKind.Unknown ? -Errno.EEXIST : fd;
        int result = Read(fd, out state);
        if (result == 0) return fd;
        _ = Libc.Close(fd);
        return result;
    }

    /// <summary>Returns 0, -EEXIST if the file is not a marker, or another negative errno if it cannot be read.</summary>
    private static int Read(int fd, out MarkerState state)
    {
        state = new MarkerState(MarkerKind.Unreadable);
        int known = Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData status);
        if (known < 0) return known;
        Span<byte> text = stackalloc byte[Bytes];
        int read = (status.Mode & (uint)Libc.S_IFMT) == Libc.S_IFREG
            && status.Size <= Bytes ? (int)Libc.PRead(fd, text[..(int)status.Size], 0) : -Errno.EEXIST;
        if (read is < 0 and not -Errno.EEXIST) return read;
        MarkerState? parsed = read == (int)status.Size ? Parse(text[..read]) : null;
        state = parsed ?? new MarkerState(MarkerKind.Unknown);
        return parsed == null ? -Errno.EEXIST : 0;
    }

    /// <summary>Null if the text is not a marker.</summary>
    private static MarkerState? Parse(ReadOnlySpan<byte> text)
    {
        int size = text.Length;
        if (size == 0) return new MarkerState(MarkerKind.Empty);
        bool whole = size == Bytes, maybe = text.StartsWith("maybe"u8);
        // A power cut may have kept the bytes of an old marker that was being rewritten, with the length of the new content.
        if (size > Old.Length && text.StartsWith(Old) && !text[Old.Length..size].ContainsAnyExcept((byte)0))
            return new MarkerState(MarkerKind.Begun);
        for (int i = 0; i < size; i++)
        {
            // A power cut may have kept the length of the content and lost its bytes.
            if (text[i] == 0) whole = false;
            else if (!Fits(text[i], i, size, maybe)) return null;
        }
        MarkerKind kind = maybe ? MarkerKind.Maybe : MarkerKind.Begun;
        if (!whole) return new MarkerState(kind);
        ulong count = ulong.Parse(Encoding.ASCII.GetString(text.Slice(WordBytes + DigestBytes + 1, CountBytes)),
            NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);
        return new MarkerState(kind, Encoding.ASCII.GetString(text.Slice(WordBytes, DigestBytes)), count);
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
