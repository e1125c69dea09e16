using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Create;

/// <summary>
/// Proves by reading that a hole of the hole map contains zeros. The maps of FUSE and network file systems have been wrong, and those of
/// some kernels have been wrong for data that was just written. With O_DIRECT a hole of ext4 reads at memory speed and evicts nothing from
/// the page cache; through the page cache it reads at a few hundred MB/s.
/// </summary>
internal sealed class HoleProof : IDisposable
{
    /// <summary>Bytes of one read: they stay in the processor's cache while they are compared.</summary>
    private const int ReadBytes = 1 << 20;

    /// <summary>Maximum bytes proved at once: the bytes that one task of a comparison reads.</summary>
    private const long MostBytes = 16L * ReadBytes;

    private readonly object _gate = new();
    private readonly Stack<MappedMemory> _buffers = new();
    private readonly BlockDevice _device;
    private int _direct = -1;

    /// <summary>Opens the file a second time with O_DIRECT. If that fails, reads go through the page cache.</summary>
    internal HoleProof(BlockDevice device)
    {
        _device = device;
        int fd = Retry.OpenAt(Libc.AT_FDCWD, device.Path, Libc.O_RDONLY | Libc.O_DIRECT | Libc.O_CLOEXEC | Libc.O_NOCTTY | Libc.O_NONBLOCK);
        if (fd < 0) return;
        if (Identity(fd) is { } other && other == Identity(device.Fd)) _direct = fd;
        else _ = Libc.Close(fd);
    }

    /// <summary>
    /// Reads zeros from <paramref name="offset"/> on, and returns where they end, at most <paramref name="end"/>. Returns
    /// <paramref name="offset"/> if nothing was proved.
    /// </summary>
    internal long ZerosUntil(long offset, long end)
    {
        if (offset % Sizes.Granule != 0) return offset;
        if (Take() is not { } memory) return offset;
        long at = offset;
        end = Math.Min(end, offset + MostBytes);
        while (at < end)
        {
            Span<byte> bytes = memory.Span<byte>(0, (int)Math.Min(ReadBytes, end - at));
            int read = Read(memory, bytes, at);
            if (read <= 0 || !ZeroKernel.IsZero(bytes[..read])) break;
            at += read;
            // A short read is the end of the file, or an error that the ordinary read reports.
            if (read < bytes.Length) break;
        }
        lock (_gate) _buffers.Push(memory);
        return at;
    }

    /// <summary>Closes the second descriptor and frees the buffers. No thread may be reading.</summary>
    public void Dispose()
    {
        if (_direct >= 0) _ = Libc.Close(_direct);
        _direct = -1;
        foreach (MappedMemory memory in _buffers) memory.Dispose();
        _buffers.Clear();
    }

    private static (uint, uint, ulong)? Identity(int fd) =>
        Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData status) == 0 ? (status.DevMajor, status.DevMinor, status.Ino) : null;

    private MappedMemory? Take()
    {
        lock (_gate)
            if (_buffers.TryPop(out MappedMemory? free)) return free;
        return MappedMemory.Map(ReadBytes, out MappedMemory? fresh) < 0 ? null : fresh;
    }

    private int Read(MappedMemory memory, Span<byte> bytes, long offset)
    {
        if (_direct >= 0)
        {
            // The file may end within a sector: the buffer is larger, and the read returns the bytes that exist.
            nint aligned = Sizes.RoundUp(bytes.Length, Sizes.Granule), direct;
            do direct = Libc.PRead(_direct, memory.Address, (int)aligned, offset);
            while (Retry.Interrupted(direct));
            if (direct > 0) return (int)Math.Min(direct, bytes.Length);
        }
        nint read;
        do read = Libc.PRead(_device.Fd, bytes, offset);
        while (Retry.Interrupted(read));
        return (int)read;
    }
}
