using System;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>A piece of the arena: <paramref name="Offset"/> and <paramref name="Length"/> in bytes.</summary>
public readonly record struct Slice(int Offset, int Length)
{
    /// <summary><paramref name="length"/> bytes of this slice from <paramref name="start"/> on.</summary>
    public Slice Part(int start, int length)
    {
        if (start < 0 || length < 0 || start > Length - length)
            throw new ArgumentOutOfRangeException(nameof(start), $"{length} bytes at {start} of a slice of {Length}");
        return new Slice(Offset + start, length);
    }
}

/// <summary>
/// All the memory that I/O and decompression use, mapped once at start. Slices are handed out and never come back one by one:
/// whoever takes one keeps it for the run or divides it further.
/// </summary>
public sealed class Arena : IDisposable
{
    private readonly MappedMemory _memory;
    private int _used;
    private bool _abandoned;

    /// <summary>Maps <paramref name="size"/> bytes; exit code 71 if the system refuses.</summary>
    public Arena(int size)
    {
        int result = MappedMemory.Map(size, out MappedMemory? memory);
        if (result < 0)
            throw new SnapuserdException(ExitCode.OutOfResources, $"cannot map {size} bytes of buffer memory: {Reason.Of(result)}; try a smaller --memory");
        _memory = memory!;
    }

    /// <summary>Size in bytes.</summary>
    public int Size => (int)_memory.Length;

    /// <summary>Bytes not handed out yet.</summary>
    public int Free => Size - _used;

    /// <summary>A ring has the pages themselves, not only their addresses.</summary>
    internal bool IsRegistered { get; set; }

    /// <summary>Address of byte 0 for the kernel and the codecs.</summary>
    public nint Address => _memory.Address;

    /// <summary>The bytes of a slice.</summary>
    public Span<byte> this[Slice slice] => _memory.Span<byte>(slice.Offset, slice.Length);

    /// <summary>Address of a slice's first byte, for the kernel and the codecs. A slice that does not lie in the arena is a defect of ours and throws.</summary>
    public nint AddressOf(Slice slice)
    {
        if (slice.Offset < 0 || slice.Length < 0 || slice.Offset > Size - slice.Length)
            throw new ArgumentOutOfRangeException(nameof(slice), $"{slice.Length} bytes at {slice.Offset} of an arena of {Size}");
        return Address + slice.Offset;
    }

    /// <summary>
    /// Hands out <paramref name="length"/> bytes such that the byte at <paramref name="bias"/> of the slice lies on a multiple of
    /// <paramref name="alignment"/> (a power of two). Null if the arena is too small.
    /// </summary>
    public Slice? Take(int length, int alignment = 4096, int bias = 0)
    {
        long start = (((long)_used + bias + alignment - 1) & -alignment) - bias;
        if (length < 0 || start + length > Size) return null;
        _used = (int)(start + length);
        return new Slice((int)start, length);
    }

    /// <summary>
    /// Gives the memory of a slice that begins and ends on pages back to the system, also where it is locked; it reads as zeros when it is used again. Where the
    /// kernel refuses (locked, before 5.18) it stays as it is, and where it is registered with a ring, which would go on with the old pages.
    /// </summary>
    public void Forget(Slice slice)
    {
        if (IsRegistered) return;
        if (Libc.MAdvise(AddressOf(slice), slice.Length, Libc.MADV_DONTNEED_LOCKED) < 0) _ = Libc.MAdvise(AddressOf(slice), slice.Length, Libc.MADV_DONTNEED);
    }

    /// <summary>Takes everything back that was handed out: the next run starts from an empty arena.</summary>
    public void Reset() => _used = 0;

    /// <summary>
    /// From here on the memory is never unmapped, neither by <see cref="Dispose"/> nor by the collector: the kernel may still write to it,
    /// and would write to whatever was mapped there next.
    /// </summary>
    public void Abandon()
    {
        _abandoned = true;
        GC.SuppressFinalize(_memory);
    }

    /// <summary>Unmaps the memory, unless it was abandoned; no request may be in flight.</summary>
    public void Dispose()
    {
        if (!_abandoned) _memory.Dispose();
    }
}
