using System;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// The block queue of synchronous system calls, for kernels and containers without io_uring. The waiting thread executes requests one by
/// one, in the order in which they were queued.
/// </summary>
public sealed class SyncQueue : IBlockQueue
{
    private readonly int[] _fds;
    private readonly Arena _arena;
    private readonly WakeUp _wakeUp;
    private readonly BlockRequest[] _queued;
    private int _first;
    private int _count;

    /// <summary>
    /// A queue over <paramref name="devices"/>, which requests name by their index. The caller keeps devices, arena and wake-up.
    /// </summary>
    public SyncQueue(ReadOnlySpan<BlockDevice> devices, Arena arena, WakeUp wakeUp, int depth)
        : this(BlockDevice.Descriptors(devices), arena, wakeUp, depth)
    {
    }

    internal SyncQueue(int[] fds, Arena arena, WakeUp wakeUp, int depth)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(depth);
        _fds = fds;
        _arena = arena;
        _wakeUp = wakeUp;
        _queued = new BlockRequest[depth];
    }

    /// <inheritdoc/>
    public int Depth => _queued.Length;

    /// <inheritdoc/>
    public bool TryQueue(in BlockRequest request)
    {
        if (request.Verb is BlockVerb.Read or BlockVerb.Write) _ = _arena.AddressOf(request.Buffer);
        if ((uint)request.Device >= (uint)_fds.Length)
            throw new ArgumentOutOfRangeException(nameof(request), $"device {request.Device} of {_fds.Length}");
        if (_count == _queued.Length) return false;
        _queued[(_first + _count) % _queued.Length] = request;
        _count++;
        return true;
    }

    /// <inheritdoc/>
    public int Wait(Span<BlockCompletion> completions)
    {
        if (completions.IsEmpty) throw new ArgumentException("no room for a completion", nameof(completions));
        if (_count == 0)
        {
            while (!_wakeUp.Take()) { }
            return 0;
        }
        int done = 0;
        while (_count > 0 && done < completions.Length)
        {
            ref readonly BlockRequest request = ref _queued[_first];
            completions[done++] = new BlockCompletion(request.Tag, SyncIo.Once(request, _fds[request.Device], _arena));
            _first = (_first + 1) % _queued.Length;
            _count--;
        }
        // The caller checks every source of events after each return, so a signal that came in the meantime is consumed here.
        _ = _wakeUp.TryTake();
        return done;
    }

    /// <inheritdoc/>
    public int Perform(in BlockRequest request) => SyncIo.Uninterrupted(request, _fds[request.Device], _arena);

    /// <summary>Discards the queued requests: none of them has begun.</summary>
    public void Dispose() => _count = 0;
}
