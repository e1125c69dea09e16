using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Tests.Simulator;

/// <summary>How far a fault reaches.</summary>
public enum FaultReach
{
    /// <summary>One request.</summary>
    Once,
    /// <summary>That request and every later one to its device.</summary>
    Device,
    /// <summary>That request and every later one.</summary>
    All,
    /// <summary>That request and every later one, except synchronous calls.</summary>
    Queued,
    /// <summary>That request is cancelled, and the synchronous call that replaces it gets the fault.</summary>
    Plain,
}

/// <summary>
/// The fault of a request. If <paramref name="Errno"/> (positive) is not 0, the request fails with it; else at most
/// <paramref name="Length"/> bytes move. A negative length means that many bytes fewer than requested. A flush that fails may drop its
/// data.
/// </summary>
public readonly record struct FaultKind(int Errno, int Length, FaultReach Reach, bool DropsDirty = false)
{
    /// <summary>
    /// How many of <paramref name="asked"/> bytes move; <paramref name="asked"/> itself when the request is too small for this fault.
    /// </summary>
    public int Moved(int asked) => Length >= 0 ? Math.Min(Length, asked) : asked + Length > 0 ? asked + Length : asked;

    public override string ToString()
    {
        string what = Errno != 0 ? Interop.Errno.Name(Errno)
            : Length == 0 ? "nothing"
            : Length > 0 ? $"{Length} bytes" : $"{-Length} bytes too few";
        return $"{what}{(DropsDirty ? " and lost data" : "")}, {Reach}";
    }
}

/// <summary>
/// A <see cref="SimQueue"/> that injects a fault into request number <paramref name="first"/>. It records what it did to the engine, so
/// that the right outcome is known. It rejects what an engine must not do around a fault: write to Base before a predecessor's data is
/// flushed, flush again after a failed flush, continue after a short transfer anywhere but at its last whole granule, or retry for ever.
/// </summary>
public sealed class FaultyQueue(SimDisk[] disks, Arena arena, int depth, int granule, ulong seed, int first, FaultKind kind) : IBlockQueue
{
    /// <summary>
    /// The most requests of a run of a small case before it counts as endless: forty times what the longest absorbed fault takes.
    /// </summary>
    public const int MostRequests = 200_000;

    private readonly Dictionary<uint, BlockRequest> _asked = [];
    private readonly HashSet<(BlockVerb Verb, int Device, long Offset)> _cancelled = [];
    private readonly Dictionary<(BlockVerb Verb, int Device, long End, int BufferEnd), long> _continuesAt = [];
    private readonly bool[] _flushed = new bool[disks.Length];
    private SimQueue? _queue;
    private bool _plain;
    private bool _flushFailed;
    private int _device = -1;

    /// <summary>Faults delivered.</summary>
    public int Delivered { get; private set; }

    /// <summary>Device and errno of every fault that nothing can absorb.</summary>
    public HashSet<(int Device, int Errno)> Fatal { get; } = [];

    /// <summary>A request moved less than a whole granule: repeating it always ends in EIO.</summary>
    public bool BelowGranule { get; private set; }

    /// <summary>Every request so far, in the order in which they were queued.</summary>
    public List<BlockRequest> Requests { get; } = [];

    /// <summary>A write was queued.</summary>
    public bool Wrote { get; private set; }

    /// <summary>Number of the wait that fails with <see cref="BreaksWith"/>, or −1.</summary>
    public int BreaksAtWait { get; init; } = -1;

    /// <summary>Errno of a broken queue.</summary>
    public int BreaksWith { get; init; } = Errno.EBADF;

    /// <summary>Every other wait returns no completion, as after a wake-up.</summary>
    public bool WakesUp { get; init; }

    /// <summary>Waits so far.</summary>
    public int Waits { get; private set; }

    private SimQueue Queue => _queue ??= new SimQueue(disks, arena, depth, seed, () => { }, Next);

    public int Depth => depth;

    public bool TryQueue(in BlockRequest request)
    {
        if (!Queue.TryQueue(request)) return false;
        _asked[request.Tag] = request;
        return true;
    }

    public int Wait(Span<BlockCompletion> completions)
    {
        int wait = Waits++;
        if (BreaksAtWait >= 0 && wait >= BreaksAtWait) return -BreaksWith;
        if (WakesUp && wait % 2 == 0) return 0;
        int count = Queue.Wait(completions);
        foreach (BlockCompletion completion in completions[..count]) Ended(_asked[completion.Tag], completion.Result);
        return count;
    }

    public int Perform(in BlockRequest request)
    {
        _plain = true;
        int result = Queue.Perform(request);
        _plain = false;
        Ended(request, result);
        return result;
    }

    public void Dispose()
    {
        // The state of a broken queue is undefined; any other queue must be empty.
        if (BreaksAtWait < 0) Queue.Dispose();
    }

    private Fault? Next(int number, BlockRequest request)
    {
        if (number >= MostRequests) throw new ContractViolationException($"no end after {number} requests");
        Requests.Add(request);
        Order(request);
        if (number < first || !Meets(number, request)) return null;
        int result = kind.Errno != 0 ? -kind.Errno : kind.Moved(request.Buffer.Length);
        if (kind.Reach == FaultReach.Plain && !_plain)
        {
            _cancelled.Add((request.Verb, request.Device, request.Offset));
            result = -Errno.ECANCELED;
        }
        if (request.Verb == BlockVerb.WriteBack)
        {
            // The result of a hint is not reported to the engine.
            Delivered++;
            return new Fault(result);
        }
        if (request.Verb == BlockVerb.Flush)
        {
            if (result >= 0) return null;
            Fatal.Add((request.Device, -result));
            Delivered++;
            return new Fault(result, kind.DropsDirty);
        }
        if (result == request.Buffer.Length) return null;
        Delivered++;
        if (result == 0) Fatal.Add((request.Device, Errno.EIO));
        else if (result > 0 && result < granule) BelowGranule = true;
        else if (result < 0 && (_plain || -result is not (Errno.EINTR or Errno.EAGAIN or Errno.ECANCELED)))
            Fatal.Add((request.Device, -result));
        // With direct I/O a sector is written whole or not at all (design §5), even if a device reports a part of one.
        return new Fault(result, WholeSectors: granule > 1);
    }

    private bool Meets(int number, in BlockRequest request)
    {
        if (number == first)
        {
            _device = request.Device;
            return true;
        }
        return kind.Reach switch
        {
            FaultReach.Once => false,
            FaultReach.Device => request.Device == _device,
            FaultReach.All => true,
            FaultReach.Queued => !_plain,
            _ => _plain && _cancelled.Contains((request.Verb, request.Device, request.Offset)),
        };
    }

    private void Order(in BlockRequest request)
    {
        if (request.Verb == BlockVerb.Flush)
        {
            if (_flushFailed) throw new ContractViolationException($"device {request.Device} is flushed again after a failed flush");
            return;
        }
        if (request.Verb == BlockVerb.Write)
        {
            Wrote = true;
            if (request.Device == 1 && !(_flushed[0] && _flushed[1]))
                throw new ContractViolationException("the base is written before COW and base were flushed");
        }
        (BlockVerb, int, long, int) end = End(request);
        if (_continuesAt.Remove(end, out long at) && request.Offset != at)
            throw new ContractViolationException(
                $"{request.Verb} continues at {request.Offset} of device {request.Device} instead of {at}");
    }

    private static (BlockVerb Verb, int Device, long End, int BufferEnd) End(in BlockRequest request) =>
        (request.Verb, request.Device, request.Offset + request.Buffer.Length, request.Buffer.Offset + request.Buffer.Length);

    private void Ended(in BlockRequest request, int result)
    {
        if (request.Verb == BlockVerb.Flush)
        {
            if (result < 0) _flushFailed = true;
            else _flushed[request.Device] = true;
        }
        else if (result >= granule && result < request.Buffer.Length)
        {
            _continuesAt[End(request)] = request.Offset + result - (result % granule);
        }
    }
}
