using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>Anonymous, page-aligned memory outside the managed heap, given out as spans. Zero-filled; costs nothing until it is touched.</summary>
public sealed unsafe class MappedMemory : IDisposable
{
    private byte* _start;

    private MappedMemory(byte* start, nint length)
    {
        _start = start;
        Length = length;
    }

    /// <summary>Length in bytes.</summary>
    public nint Length { get; private set; }

    /// <summary>Address of the first byte, for the kernel and the C library; 0 once disposed.</summary>
    public nint Address => (nint)_start;

    /// <summary>Maps <paramref name="length"/> bytes. Returns 0, or a negative errno with <paramref name="memory"/> null.</summary>
    public static int Map(nint length, out MappedMemory? memory)
    {
        memory = null;
        nint address = Libc.MMap(0, length, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_PRIVATE | Libc.MAP_ANONYMOUS | Libc.MAP_NORESERVE, -1, 0);
        if (address is < 0 and > -4096) return (int)address;
        memory = new MappedMemory((byte*)address, length);
        return 0;
    }

    /// <summary>
    /// Maps what a driver shares with us, for reading: <paramref name="length"/> bytes at <paramref name="offset"/> of a descriptor. Returns 0, or a
    /// negative errno with <paramref name="memory"/> null.
    /// </summary>
    public static int MapShared(int fd, long offset, nint length, out MappedMemory? memory)
    {
        memory = null;
        nint address = Libc.MMap(0, length, Libc.PROT_READ, Libc.MAP_SHARED | Libc.MAP_POPULATE, fd, offset);
        if (address is < 0 and > -4096) return (int)address;
        memory = new MappedMemory((byte*)address, length);
        return 0;
    }

    /// <summary><paramref name="count"/> values of <typeparamref name="T"/> from byte <paramref name="offset"/> on.</summary>
    public Span<T> Span<T>(nint offset, int count) where T : unmanaged
    {
        if (_start == null || offset < 0 || count < 0 || offset + ((nint)count * sizeof(T)) > Length)
            throw new ArgumentOutOfRangeException(nameof(offset), $"{count} values at {offset} of {Length} bytes");
        return MemoryMarshal.CreateSpan(ref *(T*)(_start + offset), count);
    }

    /// <summary>Unmaps. Spans and addresses given out before are dead from here on.</summary>
    public void Dispose()
    {
        if (_start != null) _ = Libc.MUnmap((nint)_start, Length);
        _start = null;
        Length = 0;
        GC.SuppressFinalize(this);
    }

    /// <summary>Last resort for memory nobody disposed.</summary>
    ~MappedMemory() => Dispose();
}
