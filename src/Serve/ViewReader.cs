using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>The completion of a read: its tag, and the requested number of bytes or a negative errno.</summary>
public readonly record struct ViewCompletion(uint Tag, int Result);

/// <summary>
/// Reads a <see cref="SnapshotView"/> for one thread. The maximum number of concurrent reads is fixed, and each has memory of its own. A
/// read that fails returns −EIO and does not affect the others. Not thread-safe.
/// </summary>
public sealed class ViewReader : IDisposable
{
    private readonly IoScheduler _io;
    private readonly UnitDecoder _decoder = new();
    private readonly ViewRead[] _reads;
    private readonly int[] _active;
    private int _activeCount;

    /// <summary>
    /// A reader for <paramref name="reads"/> reads at a time over <paramref name="io"/>, whose device numbers are those of the view's
    /// engine. Takes <see cref="BytesPerRead"/> bytes of <paramref name="arena"/> for each read; throws with exit code 71 if less is free.
    /// The caller keeps ownership of <paramref name="io"/> and <paramref name="arena"/>, which must outlive the reader.
    /// </summary>
    public ViewReader(SnapshotView view, IoScheduler io, Arena arena, int reads)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(reads);
        _io = io;
        _reads = new ViewRead[reads];
        _active = new int[reads];
        int bytes = BytesPerRead(view);
        for (int i = 0; i < reads; i++)
        {
            Slice memory = arena.Take(bytes) ?? throw new SnapuserdException(ExitCode.OutOfResources,
                $"reading takes {bytes} bytes of buffer memory, {arena.Free} are left; try a larger --memory");
            _reads[i] = new ViewRead(view, io, arena, memory, _decoder);
            _active[i] = i;
        }
    }

    /// <summary>
    /// The memory in bytes that a read needs in addition to its buffer: for stored payloads, and for a unit of which only a part is needed.
    /// </summary>
    public static int BytesPerRead(SnapshotView view) => ViewRead.MemoryBytes(view.Cow);

    /// <summary>Reads in flight.</summary>
    public int Count => _activeCount;

    /// <summary>Payloads decoded so far.</summary>
    public long Decodes
    {
        get
        {
            long decodes = 0;
            foreach (ViewRead read in _reads) decodes += read.Decodes;
            return decodes;
        }
    }

    /// <summary>True if another read can begin.</summary>
    public bool HasRoom => _activeCount < _reads.Length;

    /// <summary>
    /// Begins a read of <paramref name="buffer"/>.Length bytes at <paramref name="offset"/> of the image. Offset and length need not be
    /// aligned; a read beyond the image's end fails with −EINVAL. <see cref="HasRoom"/> must be true. The caller must not touch the buffer
    /// until the completion is reaped.
    /// </summary>
    public void Begin(long offset, Slice buffer, uint tag)
    {
        if (!HasRoom) throw new InvalidOperationException($"{_activeCount} reads are under way already");
        _reads[_active[_activeCount++]].Begin(offset, buffer, tag);
    }

    /// <summary>
    /// Returns a completed read; false if there is none. Does all work that needs no waiting for a device, mainly decoding.
    /// </summary>
    public bool TryReap(out ViewCompletion completion)
    {
        for (int i = 0; i < _activeCount; i++)
        {
            ViewRead read = _reads[_active[i]];
            if (!read.Advance()) continue;
            completion = new ViewCompletion(read.Tag, read.Result);
            _activeCount--;
            (_active[i], _active[_activeCount]) = (_active[_activeCount], _active[i]);
            return true;
        }
        completion = default;
        return false;
    }

    /// <summary>Blocks until a device request completes or the queue is woken up. At least one read must be in flight.</summary>
    public void Wait() => _io.Wait();

    /// <summary>Reads synchronously; no other read may be in flight. Returns the requested number of bytes or a negative errno.</summary>
    public int Read(long offset, Slice buffer)
    {
        Begin(offset, buffer, 0);
        ViewCompletion completion;
        while (!TryReap(out completion)) Wait();
        return completion.Result;
    }

    /// <summary>Waits for the requests in flight and leaves the gate, so that the merge can continue.</summary>
    public void Dispose()
    {
        _io.Abandon();
        for (int i = 0; i < _activeCount; i++) _reads[_active[i]].Abandon();
        _activeCount = 0;
        _decoder.Dispose();
    }
}
