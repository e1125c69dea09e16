using System;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Create;

/// <summary>An image in a file or on a block device, read by pread.</summary>
public sealed class FileImageReader : IImageReader, IDisposable
{
    private readonly BlockDevice _device;
    private readonly HoleProof? _proof;
    private bool _noHoles;

    private FileImageReader(BlockDevice device)
    {
        _device = device;
        _noHoles = device.IsBlockDevice;
        if (!_noHoles) _proof = new HoleProof(device);
    }

    /// <summary>
    /// Opens an image, shared with other readers. Exit code 64 if it is neither a file nor a block device, 66 if it does not exist, 74 if
    /// it cannot be read. Exit code 76 if another process writes it, 77 without permission to read.
    /// </summary>
    public static FileImageReader Open(string path) => new(BlockDevice.Open(path, DeviceAccess.Shared));

    /// <summary>Opens a file that this process already holds exclusively.</summary>
    public static FileImageReader OpenUnlocked(string path) => new(BlockDevice.Open(path, DeviceAccess.Read));

    /// <summary>The underlying file or device, to detect whether another path is the same one.</summary>
    public BlockDevice Device => _device;

    /// <inheritdoc/>
    public string Name => _device.Path;

    /// <inheritdoc/>
    public long Length => _device.Length;

    /// <inheritdoc/>
    public void Read(long offset, Span<byte> destination)
    {
        int tries = 0;
        while (!destination.IsEmpty)
        {
            nint done = Libc.PRead(_device.Fd, destination, offset);
            if (Retry.Again(done, ref tries)) continue;
            if (done < 0)
                throw new SnapuserdException(ExitCode.InputOutput,
                    $"{Name}: reading {destination.Length} bytes at {offset} failed: {ErrnoText.Of((int)done)}");
            if (done == 0)
                throw new SnapuserdException(ExitCode.InputOutput,
                    $"{Name} has become shorter while it was read: it ends before byte {offset + destination.Length}");
            destination = destination[(int)done..];
            offset += done;
        }
    }

    /// <inheritdoc/>
    public bool TrySkipHole(long offset, out long nextData)
    {
        nextData = offset;
        if (Volatile.Read(ref _noHoles)) return false;
        long found = Libc.LSeek(_device.Fd, offset, Libc.SEEK_DATA);
        if (found == -Errno.ENXIO) found = Length;
        else if (found < 0)
        {
            // Some file systems do not support SEEK_DATA. One attempt is enough.
            Volatile.Write(ref _noHoles, true);
            return false;
        }
        // The file system's hole map is only a hint: the bytes of a hole are read before they count as zeros.
        if (found > offset) nextData = _proof!.ZerosUntil(offset, Math.Min(found, Length));
        return nextData > offset;
    }

    /// <summary>Closes the image. No thread may be reading.</summary>
    public void Dispose()
    {
        _proof?.Dispose();
        _device.Dispose();
    }
}
