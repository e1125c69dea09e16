using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>
/// Anonymous, page-aligned memory outside the managed heap, accessed as spans. Zero-filled; costs nothing until it is touched.
/// </summary>
public sealed unsafe class MappedMemory : IDisposable
{
    private readonly SystemMemory _system;
    private byte* _start;

    private MappedMemory(SystemMemory system, nint address, nint length)
    {
        _system = system;
        _start = (byte*)address;
        Length = length;
    }

    /// <summary>Length in bytes.</summary>
    public nint Length { get; private set; }

    /// <summary>Address of the first byte, for the kernel and the C library; 0 once disposed.</summary>
    public nint Address => (nint)_start;

    /// <summary>The system whose pages back the memory.</summary>
    public SystemMemory System => _system;

    /// <summary>
    /// Maps <paramref name="length"/> bytes of <paramref name="system"/>, which is the running kernel unless a test passes another.
    /// Returns 0, or a negative errno with <paramref name="memory"/> null.
    /// </summary>
    public static int Map(nint length, out MappedMemory? memory, SystemMemory? system = null)
    {
        memory = null;
        system ??= SystemMemory.Own;
        nint address = system.Map(length);
        // User space is the lower half of the addresses on every 64-bit Linux, so a negative value is an errno.
        if (address < 0) return (int)address;
        memory = new MappedMemory(system, address, length);
        return 0;
    }

    /// <summary>
    /// Maps memory that a driver shares with this process, for reading: <paramref name="length"/> bytes at <paramref name="offset"/> of a
    /// descriptor. Returns 0, or a negative errno with <paramref name="memory"/> null.
    /// </summary>
    public static int MapShared(int fd, long offset, nint length, out MappedMemory? memory)
    {
        memory = null;
        nint address = Libc.MMap(0, length, Libc.PROT_READ, Libc.MAP_SHARED | Libc.MAP_POPULATE, fd, offset);
        if (address < 0) return (int)address;
        memory = new MappedMemory(SystemMemory.Own, address, length);
        return 0;
    }

    /// <summary>
    /// Returns the whole pages among the <paramref name="length"/> bytes at <paramref name="offset"/> to the system; they read as zeros
    /// afterwards. The rest of the range, on pages shared with its neighbours, is unchanged. Returns the number of bytes given back, or a
    /// negative errno.
    /// </summary>
    public nint Discard(nint offset, nint length)
    {
        if (_start == null || offset < 0 || length < 0 || offset > Length - length)
            throw new ArgumentOutOfRangeException(nameof(offset), $"{length} bytes at {offset} of {Length} bytes");
        // A mapping begins on a page, and the page of its last byte contains no other mapping of this process.
        nint from = (nint)Sizes.RoundUp((long)offset, _system.Page);
        nint to = offset + length == Length ? Length : (nint)Sizes.RoundDown((long)offset + length, _system.Page);
        if (from >= to) return 0;
        int result = _system.Discard(Address + from, to - from);
        return result < 0 ? result : to - from;
    }

    /// <summary><paramref name="count"/> values of <typeparamref name="T"/> from byte <paramref name="offset"/> on.</summary>
    public Span<T> Span<T>(nint offset, int count) where T : unmanaged
    {
        if (_start == null || offset < 0 || count < 0 || offset + ((nint)count * sizeof(T)) > Length)
            throw new ArgumentOutOfRangeException(nameof(offset), $"{count} values at {offset} of {Length} bytes");
        return MemoryMarshal.CreateSpan(ref *(T*)(_start + offset), count);
    }

    /// <summary>Unmaps. Spans and addresses obtained before become invalid.</summary>
    public void Dispose()
    {
        if (_start != null) _ = _system.Unmap((nint)_start, Length);
        _start = null;
        Length = 0;
        GC.SuppressFinalize(this);
    }

    /// <summary>Finalizer, for memory that was never disposed.</summary>
    ~MappedMemory() => Dispose();
}
