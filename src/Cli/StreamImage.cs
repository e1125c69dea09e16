using System;
using Snapuserd.Block;
using Snapuserd.Daemon;
using Snapuserd.Interop;

namespace Snapuserd.Cli;

/// <summary>
/// An image on standard output, for `extract --output -`: a pipe, a socket, or a file or device that the caller has opened. Nothing
/// else is written there; results go to standard error.
/// </summary>
internal sealed class StreamImage(StopFlag stop) : IDisposable
{
    /// <summary>What `--output` is then.</summary>
    internal const string Dash = "-";

    private const int Fd = 1;

    /// <summary>
    /// So much is taken at once by a pipe that is ready for writing, so that nothing waits where no signal is seen.
    /// </summary>
    private const int PipeBytes = Libc.PIPE_BUF;

    /// <summary>Between two looks whether to stop, while the reader takes nothing.</summary>
    private const int LookMilliseconds = 100;

    private uint _kind;
    private BlockDevice? _held;

    /// <summary>Bytes so far.</summary>
    internal long Length { get; private set; }

    /// <summary>Exit code 64 for a terminal, 73 if standard output is closed or cannot be written to.</summary>
    internal void Check(Output output)
    {
        if (output.ResultsWereClosed) throw new SnapuserdException(ExitCode.CannotCreate, "extract: --output -: standard output is closed");
        if (Libc.IsATty(Fd))
        {
            throw new SnapuserdException(ExitCode.Usage, "extract: --output -: standard output is a terminal, and an image is not "
                + "for reading; redirect it to a pipe or a file (one named \"-\" is ./-)");
        }
        int flags = Libc.Fcntl(Fd, Libc.F_GETFL, 0);
        if (flags >= 0 && (flags & Libc.O_ACCMODE) == Libc.O_RDONLY)
            throw new SnapuserdException(ExitCode.CannotCreate, "extract: --output -: standard output is open for reading only");
        int result = Libc.Statx(Fd, Libc.STATX_BASIC_STATS, out StatxData status);
        if (result < 0) throw Failed("looking at it", result);
        _kind = status.Mode & (uint)Libc.S_IFMT;
    }

    /// <summary>
    /// Locks the file or device that it leads to. Exit code 64 if it is one of the <paramref name="devices"/> that are read, 65 if it
    /// is a COW whose merge has begun, 76 if another program or process uses it. Where
    /// /proc is not mounted, or the file is not this user's to open, only one of the devices themselves is found.
    /// </summary>
    internal void Claim(DeviceSet devices, bool withoutLock)
    {
        if (!IsStored) return;
        int result = Libc.Statx(Fd, Libc.STATX_BASIC_STATS, out StatxData own);
        if (result < 0) throw Failed("looking at it", result);
        foreach (BlockDevice read in devices.Devices)
            if (Libc.Statx(read.Fd, Libc.STATX_BASIC_STATS, out StatxData status) == 0 && IsSame(own, status)) throw IsRead();
        const string path = "/proc/self/fd/1";
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
            // It may be written to all the same: the process that opened it was allowed to.
        }
        catch (SnapuserdException e) when (e.Code is ExitCode.InUse or ExitCode.CowCorrupt)
        {
            throw new SnapuserdException(e.Code, $"standard output: {e.Message}");
        }
    }

    /// <summary>Lets go of it.</summary>
    public void Dispose() => _held?.Dispose();

    /// <summary>
    /// Writes the next bytes. Exit code 74 when that fails, also when the reader has gone: the image is not whole. 75 when asked to
    /// stop.
    /// </summary>
    internal void Append(ReadOnlySpan<byte> bytes)
    {
        while (bytes.Length > 0)
        {
            AwaitRoom();
            nint written = _kind switch
            {
                Libc.S_IFSOCK => Libc.Send(Fd, bytes, Libc.MSG_NOSIGNAL | Libc.MSG_DONTWAIT),
                Libc.S_IFIFO => Libc.Write(Fd, bytes[..Math.Min(bytes.Length, PipeBytes)]),
                _ => Libc.Write(Fd, bytes),
            };
            if (written is -Errno.EINTR or -Errno.EAGAIN) continue;
            if (written <= 0) throw Failed($"writing at {Length}", written == 0 ? -Errno.EIO : (int)written);
            Length += written;
            bytes = bytes[(int)written..];
        }
    }

    /// <summary>Makes it durable if it is a file or a device; a write that the system has only promised may still fail there.</summary>
    internal void Finish()
    {
        int result = IsStored ? Libc.FSync(Fd) : 0;
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
            Span<PollFd> one = [new PollFd { Fd = Fd, Events = Libc.POLLOUT }];
            // An error shows as being ready, and then in the write.
            int ready = Libc.Poll(one, LookMilliseconds);
            if (ready > 0) return;
            if (ready < 0 && ready != -Errno.EINTR) throw Failed("waiting for it", ready);
        }
    }

    private static bool IsSame(in StatxData one, in StatxData other) => (one.Mode & (uint)Libc.S_IFMT) == (other.Mode & (uint)Libc.S_IFMT)
        && ((one.Mode & (uint)Libc.S_IFMT) == Libc.S_IFBLK ? (one.RdevMajor, one.RdevMinor) == (other.RdevMajor, other.RdevMinor)
            : (one.DevMajor, one.DevMinor, one.Ino) == (other.DevMajor, other.DevMinor, other.Ino));

    private static SnapuserdException IsRead() =>
        new(ExitCode.Usage, "extract: --output -: standard output is read by this very command; write to another file");

    private static SnapuserdException Failed(string doing, int errno) =>
        new(ExitCode.InputOutput, $"standard output: {doing} failed: {Reason.Of(errno)}");
}
