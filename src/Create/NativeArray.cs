using System;
using System.Runtime.CompilerServices;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Create;

/// <summary>Counts the bytes of memory that a comparison holds outside the managed heap.</summary>
internal sealed class NativeTally
{
    private long _held;
    private long _peak;

    /// <summary>Most bytes held at once.</summary>
    public long Peak => Volatile.Read(ref _peak);

    public void Add(long bytes)
    {
        long held = Interlocked.Add(ref _held, bytes);
        for (long peak = Peak; held > peak; peak = Peak)
            if (Interlocked.CompareExchange(ref _peak, held, peak) == peak) break;
    }
}

/// <summary>Zero-filled values outside the managed heap: there may be more than 2^31 of them, and untouched pages cost nothing.</summary>
internal sealed class NativeArray<T> : IDisposable where T : unmanaged
{
    private readonly NativeTally _tally;
    private readonly MappedMemory? _memory;
    private long _bytes;

    /// <summary>
    /// Maps the memory. Exit code 71 if the system does not have enough; <paramref name="what"/> names the array in that message.
    /// </summary>
    public NativeArray(NativeTally tally, long length, string what)
    {
        _tally = tally;
        Length = length;
        _bytes = length * Unsafe.SizeOf<T>();
        if (length == 0) return;
        int result = MappedMemory.Map((nint)_bytes, out _memory);
        if (result < 0)
            throw new SnapuserdException(ExitCode.OutOfResources, $"cannot map {_bytes} bytes for {what}: {Errno.Name(result)}");
        tally.Add(_bytes);
    }

    public long Length { get; }

    public ref T this[long index] => ref _memory!.Span<T>((nint)index * Unsafe.SizeOf<T>(), 1)[0];

    public Span<T> Slice(long start, int count) => count == 0 ? default : _memory!.Span<T>((nint)start * Unsafe.SizeOf<T>(), count);

    public void Dispose()
    {
        if (_memory == null || _bytes == 0) return;
        _memory.Dispose();
        _tally.Add(-_bytes);
        _bytes = 0;
    }
}
