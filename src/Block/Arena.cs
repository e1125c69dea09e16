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
/// All the memory for I/O and decompression, mapped once at start. Slices are handed out and never returned one by one: the caller keeps
/// a slice for the run or divides it further.
/// </summary>
public sealed class Arena : IDisposable
{
    /// <summary>Default alignment of a slice in bytes: direct I/O works with it.</summary>
    public const int Alignment = Sizes.Granule;

    private readonly MappedMemory _memory;
    private int _used;
    private bool _abandoned;

    /// <summary>
    /// Maps <paramref name="size"/> bytes; exit code 71 if the system refuses. <paramref name="system"/> is the running kernel unless a
    /// test passes another.
    /// </summary>
    public Arena(int size, SystemMemory? system = null)
    {
        int result = MappedMemory.Map(size, out MappedMemory? memory, system);
        if (result < 0)
            throw new SnapuserdException(ExitCode.OutOfResources,
                $"cannot map {size} bytes of buffer memory: {ErrnoText.Of(result)}; try a smaller --memory");
        _memory = memory!;
    }

    /// <summary>Size in bytes.</summary>
    public int Size => (int)_memory.Length;

    /// <summary>The system whose pages back the memory: <see cref="Forget"/> returns whole pages to it.</summary>
    public SystemMemory System => _memory.System;

    /// <summary>Bytes not handed out yet.</summary>
    public int Free => Size - _used;

    /// <summary>The arena is registered with a ring, which holds the pages themselves and not only their addresses.</summary>
    internal bool IsRegistered { get; set; }

    /// <summary>Address of byte 0 for the kernel and the codecs.</summary>
    public nint Address => _memory.Address;

    /// <summary>The bytes of a slice.</summary>
    public Span<byte> this[Slice slice] => _memory.Span<byte>(slice.Offset, slice.Length);

    /// <summary>Address of a slice's first byte, for the kernel and the codecs. A slice outside the arena is a bug and throws.</summary>
    public nint AddressOf(Slice slice)
    {
        if (slice.Offset < 0 || slice.Length < 0 || slice.Offset > Size - slice.Length)
            throw new ArgumentOutOfRangeException(nameof(slice), $"{slice.Length} bytes at {slice.Offset} of an arena of {Size}");
        return Address + slice.Offset;
    }

    /// <summary>
    /// Hands out <paramref name="length"/> bytes such that the byte at <paramref name="bias"/> of the slice is aligned to
    /// <paramref name="alignment"/> (a power of two). Null if the arena is too small.
    /// </summary>
    public Slice? Take(int length, int alignment = Alignment, int bias = 0)
    {
        long start = Sizes.RoundUp((long)_used + bias, alignment) - bias;
        if (length < 0 || start + length > Size) return null;
        _used = (int)(start + length);
        return new Slice((int)start, length);
    }

    /// <summary>
    /// Returns the whole system pages of a slice to the system, including locked ones; the slice's contents are then undefined. A page
    /// that the slice shares with a neighbour stays, because the kernel takes back whole pages only. So a slice to be forgotten should be
    /// aligned to <see cref="SystemMemory.Page"/> and a multiple of it. Returns nothing if the pages are locked and the kernel is older
    /// than 5.18, or if the arena is registered with a ring, which would continue to use the old pages.
    /// </summary>
    public void Forget(Slice slice)
    {
        if (!IsRegistered) _ = _memory.Discard(slice.Offset, slice.Length);
    }

    /// <summary>Takes back all slices: the next run starts with an empty arena.</summary>
    public void Reset() => _used = 0;

    /// <summary>
    /// From here on neither <see cref="Dispose"/> nor the garbage collector unmaps the memory: the kernel may still write to it, and
    /// would write to the next mapping at that address.
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
