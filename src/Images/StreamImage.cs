using System;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Merge;

namespace Snapuserd.Images;

/// <summary>
/// An image on standard output, for `extract --output -`: a pipe, a socket, or a file or device opened by the caller. The program writes
/// nothing else to standard output; results go to standard error.
/// </summary>
/// <param name="stop">Polled while the reader accepts no data.</param>
/// <param name="fd">A descriptor that replaces standard output, for tests. The caller keeps ownership.</param>
public sealed class StreamImage(StopFlag stop, int fd = StreamImage.StandardOutput) : IDisposable
{
    /// <summary>The value of `--output` that selects standard output.</summary>
    public const string Dash = "-";

    private const int StandardOutput = 1;

    /// <summary>
    /// Maximum bytes per write to a pipe. A pipe that is ready for writing accepts this many at once, so the write does not block and a
    /// stop is noticed.
    /// </summary>
    private const int PipeBytes = Libc.PIPE_BUF;

    /// <summary>Milliseconds between two checks for a stop while the reader accepts no data.</summary>
    private const int LookMilliseconds = 100;

    private uint _kind;
    private BlockDevice? _held;

    /// <summary>Bytes written so far.</summary>
    public long Length { get; private set; }

    /// <summary>Checks standard output. Exit code 64 for a terminal, 73 if it is closed or cannot be written to.</summary>
    /// <param name="isClosed">Standard output was closed when the program started.</param>
    public void Check(bool isClosed)
    {
        if (isClosed) throw new SnapuserdException(ExitCode.CannotCreate, "extract: --output -: standard output is closed");
        if (Libc.IsATty(fd))
        {
            throw new SnapuserdException(ExitCode.Usage, "extract: --output -: standard output is a terminal, and an image is not "
                + "for reading; redirect it to a pipe or a file (one named \"-\" is ./-)");
        }
        int flags = Libc.Fcntl(fd, Libc.F_GETFL, 0);
        if (flags >= 0 && (flags & Libc.O_ACCMODE) == Libc.O_RDONLY)
            throw new SnapuserdException(ExitCode.CannotCreate, "extract: --output -: standard output is open for reading only");
        int result = Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData status);
        if (result < 0) throw Failed("looking at it", result);
        _kind = status.Mode & (uint)Libc.S_IFMT;
    }

    /// <summary>
    /// Locks the file or device that standard output leads to. Exit code 64 if it is one of the <paramref name="devices"/> that are read,
    /// 65 if it is a COW whose merge has begun, 76 if another program or process uses it. If /proc is not mounted, or this user may not
    /// open the file, only an exact match with one of the devices is detected.
    /// </summary>
    public void Claim(DeviceSet devices, bool withoutLock)
    {
        if (!IsStored) return;
        int result = Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData own);
        if (result < 0) throw Failed("looking at it", result);
        foreach (BlockDevice read in devices.Devices)
            if (Libc.Statx(read.Fd, Libc.STATX_BASIC_STATS, out StatxData status) == 0 && IsSame(own, status)) throw IsRead();
        string path = $"/proc/self/fd/{fd}";
        if (Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out StatxData there) != 0 || !IsSame(own, there)) return;
        try
        {
            using (BlockDevice device = BlockDevice.Open(path, DeviceAccess.Read))
                if (devices.Contains(device)) throw IsRead();
            _held = BlockDevice.Open(path, DeviceAccess.Write | DeviceAccess.Exclusive | (withoutLock ? DeviceAccess.WithoutLock : 0));
            BegunCow.Refuse(path);
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.Permission)
        {
            // Not an error: the descriptor itself can be written to, because the process that opened it had permission.
        }
        catch (SnapuserdException e) when (e.Code is ExitCode.InUse or ExitCode.CowCorrupt)
        {
            throw new SnapuserdException(e.Code, $"standard output: {e.Message}");
        }
    }

    /// <summary>Releases the file or device.</summary>
    public void Dispose() => _held?.Dispose();

    /// <summary>
    /// Writes the next bytes. Exit code 74 if that fails, also because the reader has closed its end. Exit code 75 if a stop is requested.
    /// In both cases the image is incomplete.
    /// </summary>
    public void Append(ReadOnlySpan<byte> bytes)
    {
        while (bytes.Length > 0)
        {
            AwaitRoom();
            nint written = _kind switch
            {
                Libc.S_IFSOCK => Libc.Send(fd, bytes, Libc.MSG_NOSIGNAL | Libc.MSG_DONTWAIT),
                Libc.S_IFIFO => Libc.Write(fd, bytes[..Math.Min(bytes.Length, PipeBytes)]),
                _ => Libc.Write(fd, bytes),
            };
            if (written is -Errno.EINTR or -Errno.EAGAIN) continue;
            if (written <= 0) throw Failed($"writing at {Length}", written == 0 ? -Errno.EIO : (int)written);
            Length += written;
            bytes = bytes[(int)written..];
        }
    }

    /// <summary>Makes a file or device durable. A write that the system delayed may still fail here.</summary>
    public void Finish()
    {
        int result = IsStored ? FileFlush.Of(fd) : 0;
        if (result < 0) throw Failed("flushing", result);
    }

    private bool IsStored => _kind is Libc.S_IFREG or Libc.S_IFBLK;

    private void AwaitRoom()
    {
        if (IsStored) return;
        while (true)
        {
            if (stop.Requested)
                throw new SnapuserdException(ExitCode.Interrupted, $"stopped after {Length} bytes of the image; nothing was changed");
            Span<PollFd> one = [new PollFd { Fd = fd, Events = Libc.POLLOUT }];
            // Poll reports an error as ready; the write then returns it.
            int ready = Libc.Poll(one, LookMilliseconds);
            if (ready > 0) return;
            if (ready < 0 && !Retry.Interrupted(ready)) throw Failed("waiting for it", ready);
        }
    }

    private static bool IsSame(in StatxData one, in StatxData other) => (one.Mode & (uint)Libc.S_IFMT) == (other.Mode & (uint)Libc.S_IFMT)
        && ((one.Mode & (uint)Libc.S_IFMT) == Libc.S_IFBLK ? (one.RdevMajor, one.RdevMinor) == (other.RdevMajor, other.RdevMinor)
            : (one.DevMajor, one.DevMinor, one.Ino) == (other.DevMajor, other.DevMinor, other.Ino));

    private static SnapuserdException IsRead() =>
        new(ExitCode.Usage, "extract: --output -: standard output is read by this very command; write to another file");

    private static SnapuserdException Failed(string doing, int errno) =>
        new(ExitCode.InputOutput, $"standard output: {doing} failed: {ErrnoText.Of(errno)}");
}
