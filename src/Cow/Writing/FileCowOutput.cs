using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Cow;

/// <summary>A regular file or a block device as output, held exclusively while it is written.</summary>
public sealed class FileCowOutput : ICowOutput, IDisposable
{
    private readonly BlockDevice _device;
    private long _length;

    private FileCowOutput(BlockDevice device)
    {
        _device = device;
        _length = device.Length;
    }

    /// <summary>
    /// Opens <paramref name="path"/> and creates it if it does not exist; its content stays until the writer begins. Exit code 73 if that
    /// fails, 71 without descriptors or memory, 76 when another program uses it, 69 when it cannot be locked and
    /// <paramref name="access"/> does not waive the lock.
    /// </summary>
    public static FileCowOutput Create(string path, DeviceAccess access = DeviceAccess.Exclusive)
    {
        // Only a missing file is created here. Opening a device node, a link or a busy file is left to BlockDevice.
        if (Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out _) < 0)
        {
            int fd = Retry.OpenAt(Libc.AT_FDCWD, path, Libc.O_CREAT | Libc.O_EXCL | Libc.O_WRONLY | Libc.O_CLOEXEC, Modes.ReadableFile);
            if (fd < 0) throw ErrnoPolicy.Failure(FailedCall.Create, fd, $"{path}: cannot be created");
            _ = Libc.Close(fd);
        }
        try
        {
            return Open(path, access);
        }
        catch (SnapuserdException e) when (e.Code is not (ExitCode.InUse or ExitCode.OutOfResources or ExitCode.Unavailable))
        {
            throw new SnapuserdException(ExitCode.CannotCreate, e.Message);
        }
    }

    /// <summary>Opens a file or device that exists, for appending. Exit codes as <see cref="BlockDevice.Open"/>.</summary>
    public static FileCowOutput Open(string path, DeviceAccess access = DeviceAccess.Exclusive) =>
        new(BlockDevice.Open(path, DeviceAccess.Write | access));

    /// <inheritdoc/>
    public string Name => _device.Path;

    /// <summary>The descriptor, for calls that move no bytes.</summary>
    public int Fd => _device.Fd;

    /// <inheritdoc/>
    public long Length => _length;

    /// <inheritdoc/>
    public long? Capacity => _device.IsBlockDevice ? _device.Length : null;

    /// <inheritdoc/>
    public void Write(long offset, ReadOnlySpan<byte> bytes)
    {
        int tries = 0;
        while (bytes.Length > 0)
        {
            nint done = Libc.PWrite(_device.Fd, bytes, offset);
            if (Retry.Again(done, ref tries)) continue;
            if (done <= 0) throw Failed($"writing {bytes.Length} bytes at {offset}", done == 0 ? -Errno.EIO : (int)done);
            bytes = bytes[(int)done..];
            offset += done;
            if (!_device.IsBlockDevice && offset > _length) _length = offset;
        }
    }

    /// <inheritdoc/>
    public void Read(long offset, Span<byte> destination)
    {
        int tries = 0;
        while (destination.Length > 0)
        {
            nint done = Libc.PRead(_device.Fd, destination, offset);
            if (Retry.Again(done, ref tries)) continue;
            if (done <= 0) throw Failed($"reading {destination.Length} bytes at {offset}", done == 0 ? -Errno.EIO : (int)done);
            destination = destination[(int)done..];
            offset += done;
        }
    }

    /// <inheritdoc/>
    public void Flush()
    {
        // Not repeated after EINTR: the kernel may report lost data by this error, and it reports a loss only once.
        int result = FileFlush.OfData(_device.Fd);
        if (result < 0) throw Failed("flushing", result);
    }

    /// <inheritdoc/>
    public void Truncate(long length)
    {
        if (_device.IsBlockDevice || length == _length) return;
        int result;
        do result = Libc.FTruncate(_device.Fd, length);
        while (Retry.Interrupted(result));
        if (result < 0) throw Failed($"setting the length to {length}", result);
        _length = length;
    }

    /// <summary>Closes the file or device.</summary>
    public void Dispose() => _device.Dispose();

    private SnapuserdException Failed(string doing, int error) =>
        new(ExitCode.InputOutput, $"{Name}: {doing} failed: {ErrnoText.Of(error)}");
}
