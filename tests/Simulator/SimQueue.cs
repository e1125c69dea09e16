using System;
using System.Buffers;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Tests.Simulator;

/// <summary>The engine broke the contract of the block queue (design §4).</summary>
public sealed class ContractViolationException(string what) : Exception(what);

/// <summary>
/// The injected result of one request: a negative errno or a number of bytes. For a flush, <paramref name="DropsDirty"/> makes the cache
/// drop its dirty data. With <paramref name="WholeSectors"/> a short write never leaves a part of a sector on the device, whatever result
/// it reports.
/// </summary>
public readonly record struct Fault(int Result, bool DropsDirty = false, bool WholeSectors = false);

/// <summary>
/// Simulated devices that implement the engine's block queue. Requests complete in an order that the seed decides. The queue watches the
/// buffers it owns and rejects reads and writes that race. A flush covers exactly the writes that were reaped before it was queued.
/// <paramref name="step"/> is called after everything that changes the state a crash would leave.
/// </summary>
public sealed class SimQueue(SimDisk[] disks, Arena arena, int depth, ulong seed, Action step,
    Func<int, BlockRequest, Fault?>? faults = null, PageStore? pages = null) : IBlockQueue
{
    // The fill byte of a buffer while a read into it is in flight.
    private const byte Unread = 0xdb;

    private static readonly int[] s_endsOfHints =
    [
        0, -Errno.EINVAL, -Errno.ESPIPE, -Errno.EAGAIN, -Errno.EINTR, -Errno.ECANCELED, -Errno.EIO,
    ];

    private readonly record struct Flight(BlockRequest Request, byte[] Watched, long Queued, Fault? Fault);

    private readonly Chance _chance = new(seed);
    private readonly List<Flight> _flights = [];
    private long _writes;
    private long _events;
    private bool _disposed;

    public int Depth => depth;

    /// <summary>A flush ends only after everything else in flight, as on a system that first writes back a whole page cache.</summary>
    public bool SlowFlushes { get; init; }

    /// <summary>
    /// Parts of device 2 that are parts of device 1. Each device has its own cache, like two block devices over one disk: a read of one
    /// device may miss data that was written to the other and is not on the medium yet.
    /// </summary>
    public SharedRange[] Overlap { get; init; } = [];

    /// <summary>Queues of other threads on the same disks: their requests must not race with this queue's requests either.</summary>
    public SimQueue[] Beside { get; set; } = [];

    /// <summary>Readers that run beside the thread of this queue, during its waits and between them.</summary>
    public SimReaders? Readers { get; set; }

    /// <summary>Pauses and resumes the merge.</summary>
    public SimThrottle? Throttle { get; set; }

    /// <summary>Requests so far; faults are numbered by them.</summary>
    public int Requests { get; private set; }

    public bool TryQueue(in BlockRequest request)
    {
        if (_disposed) throw new ContractViolationException("a request was queued after the queue was closed");
        if (_flights.Count == depth) return false;
        Queue(request);
        return true;
    }

    public int Wait(Span<BlockCompletion> completions)
    {
        Readers?.Run();
        bool held = Throttle?.Look(idle: _flights.Count == 0) ?? false;
        if (_flights.Count == 0)
        {
            if (held) return 0;
            Readers?.WakeUp();
            if (Readers is null) throw new ContractViolationException("waiting with nothing in flight would last for ever");
            return 0;
        }
        int wanted = Math.Min(completions.Length, 1 + _chance.Below(_flights.Count));
        for (int i = 0; i < wanted; i++)
        {
            int choice = _chance.Below(_flights.Count);
            if (SlowFlushes && _flights[choice].Request.Verb == BlockVerb.Flush
                && _flights.FindIndex(flight => flight.Request.Verb != BlockVerb.Flush) is >= 0 and int other)
            {
                // A flush does not end in the same wait in which another request has ended.
                choice = other;
            }
            else if (SlowFlushes && i > 0 && _flights[choice].Request.Verb == BlockVerb.Flush)
            {
                return i;
            }
            Flight flight = _flights[choice];
            _flights[choice] = _flights[^1];
            _flights.RemoveAt(_flights.Count - 1);
            completions[i] = new BlockCompletion(flight.Request.Tag, Complete(flight));
        }
        return wanted;
    }

    public int Perform(in BlockRequest request)
    {
        Queue(request);
        Flight flight = _flights[^1];
        _flights.RemoveAt(_flights.Count - 1);
        return Complete(flight);
    }

    public void Dispose()
    {
        if (_flights.Count > 0) throw new ContractViolationException($"the queue is closed with {_flights.Count} requests in flight");
        _disposed = true;
    }

    private void Queue(in BlockRequest request)
    {
        int number = Requests++;
        Fault? fault = faults?.Invoke(number, request);
        byte[] watched = [];
        if (request.Verb is BlockVerb.Read or BlockVerb.Write)
        {
            Span<byte> buffer = arena[request.Buffer];
            if (request.Offset < 0 || request.Offset + buffer.Length > disks[request.Device].Cache.Length)
                throw new ContractViolationException(
                    $"{request.Verb} of {buffer.Length} bytes at {request.Offset} goes beyond device {request.Device}");
            foreach (SimQueue queue in Beside)
                foreach (Flight other in queue._flights) CheckRace(request, buffer, other, queue);
            foreach (Flight other in _flights)
            {
                if (other.Request.Verb is BlockVerb.Flush or BlockVerb.WriteBack
                    || (request.Verb == BlockVerb.Read && other.Request.Verb == BlockVerb.Read))
                    continue;
                CheckRace(request, buffer, other, this);
                if (Meet(other.Request.Buffer.Offset, other.Request.Buffer.Length, request.Buffer.Offset, request.Buffer.Length)
                    && !(request.Verb == BlockVerb.Write && other.Request.Verb == BlockVerb.Write))
                    throw new ContractViolationException($"a buffer is used by two requests: {request} and {other.Request}");
            }
            if (request.Verb == BlockVerb.Read) buffer.Fill(Unread);
            else
            {
                watched = ArrayPool<byte>.Shared.Rent(buffer.Length);
                buffer.CopyTo(watched);
            }
        }
        _flights.Add(new Flight(request, watched, _events, fault));
        if (request.Verb == BlockVerb.Write)
        {
            Land(request, watched.AsSpan(0, request.Buffer.Length));
            step();
        }
    }

    /// <summary>
    /// Rejects two requests in flight for the same bytes if one of them changes these bytes, no matter which queues own the requests.
    /// </summary>
    private void CheckRace(in BlockRequest request, ReadOnlySpan<byte> buffer, Flight flight, SimQueue whose)
    {
        BlockRequest other = flight.Request;
        if (other.Verb is BlockVerb.Flush or BlockVerb.WriteBack || (request.Verb == BlockVerb.Read && other.Verb == BlockVerb.Read))
            return;
        foreach ((SimDisk disk, long offset, int length) in Places(request))
        {
            foreach ((SimDisk otherDisk, long otherOffset, int otherLength) in whose.Places(other))
            {
                if (otherDisk != disk || !Meet(otherOffset, otherLength, offset, length)) continue;
                if (!(request.Verb == BlockVerb.Write
                    ? ChangesNothingFor(request, buffer, other.Verb, otherOffset, otherLength)
                    : ChangesNothingFor(other, flight.Watched, request.Verb, offset, length)))
                    throw new ContractViolationException($"{request.Verb} at {request.Offset} races with {other.Verb} at {other.Offset} on "
                        + $"device {request.Device}{(whose == this ? "" : " by another thread")}");
            }
        }
    }

    /// <summary>
    /// The places on the disks that a request covers: with an overlap, the shared parts of a read of the source are parts of Base.
    /// </summary>
    private List<(SimDisk Disk, long Offset, int Length)> Places(in BlockRequest request)
    {
        List<(SimDisk, long, int)> places = [(disks[request.Device], request.Offset, request.Buffer.Length)];
        if (request.Device != 2) return places;
        foreach (SharedRange range in Overlap)
        {
            long start = Math.Max(request.Offset, range.SourceOffset),
                end = Math.Min(request.Offset + request.Buffer.Length, range.SourceOffset + range.Length);
            if (start < end) places.Add((disks[1], start + range.BaseOffset - range.SourceOffset, (int)(end - start)));
        }
        return places;
    }

    private void ReadShared(long offset, Span<byte> buffer)
    {
        foreach (SharedRange range in Overlap)
        {
            long start = Math.Max(offset, range.SourceOffset), end = Math.Min(offset + buffer.Length, range.SourceOffset + range.Length);
            if (start >= end) continue;
            Span<byte> part = buffer[(int)(start - offset)..(int)(end - offset)];
            (_chance.Percent(50) ? disks[1].Cache : disks[1].Durable).Read(start + range.BaseOffset - range.SourceOffset, part);
        }
    }

    private SimDisk Disk(int device) => disks[device];

    private void Land(in BlockRequest request, ReadOnlySpan<byte> data)
    {
        SimDisk disk = disks[request.Device];
        _writes++;
        disk.Changes++;
        Span<byte> contents = stackalloc byte[Page.Size];
        for (int done = 0; done < data.Length;)
        {
            long at = request.Offset + done;
            int page = (int)(at / Page.Size), from = (int)(at % Page.Size), count = Math.Min(Page.Size - from, data.Length - done);
            if (count < Page.Size) Newest(disk, page).Bytes.CopyTo(contents);
            data.Slice(done, count).CopyTo(contents[from..]);
            disk.Pending.Add(new PendingPage(page, Keep(contents), _writes));
            done += count;
        }
    }

    /// <summary>
    /// True if a read that races with the write sees the same bytes in either order, because the write repeats the present contents. Two
    /// writes must never overlap.
    /// </summary>
    private bool ChangesNothingFor(in BlockRequest write, ReadOnlySpan<byte> data, BlockVerb other, long offset, int length)
    {
        if (other != BlockVerb.Read) return false;
        long from = Math.Max(write.Offset, offset), to = Math.Min(write.Offset + write.Buffer.Length, offset + length);
        byte[] there = new byte[to - from];
        disks[write.Device].Cache.Read(from, there);
        return data.Slice((int)(from - write.Offset), there.Length).SequenceEqual(there);
    }

    private Page Keep(ReadOnlySpan<byte> contents) => pages is null ? new Page(contents) : pages.Of(contents);

    private static Page Newest(SimDisk disk, int page)
    {
        for (int i = disk.Pending.Count - 1; i >= 0; i--)
            if (disk.Pending[i].Number == page && disk.Pending[i].InFlight) return disk.Pending[i].Contents;
        return disk.Cache[page];
    }

    private int Complete(Flight flight)
    {
        BlockRequest request = flight.Request;
        // A hint guarantees nothing: with or without it, a power cut leaves any subset of the pending pages. Its result must not matter.
        if (request.Verb == BlockVerb.WriteBack) return flight.Fault?.Result ?? s_endsOfHints[_chance.Below(s_endsOfHints.Length)];
        if (request.Verb != BlockVerb.Flush)
        {
            ReadOnlySpan<byte> buffer = arena[request.Buffer];
            bool untouched = request.Verb == BlockVerb.Read
                ? !buffer.ContainsAnyExcept(Unread)
                : buffer.SequenceEqual(flight.Watched.AsSpan(0, buffer.Length));
            if (request.Verb == BlockVerb.Write) ArrayPool<byte>.Shared.Return(flight.Watched);
            if (!untouched) throw new ContractViolationException($"the buffer of {request} was touched while the queue owned it");
        }
        SimDisk disk = disks[request.Device];
        _events++;
        int result = flight.Fault?.Result ?? request.Buffer.Length;
        switch (request.Verb)
        {
            case BlockVerb.Flush:
                if (flight.Fault is { DropsDirty: true }) disk.DropDirty();
                else if (flight.Fault is null) disk.Flush(flight.Queued);
                step();
                return flight.Fault?.Result ?? 0;

            case BlockVerb.Read:
                int got = Math.Min(result, request.Buffer.Length);
                if (got > 0) disk.Cache.Read(request.Offset, arena[request.Buffer][..got]);
                if (got > 0 && request.Device == 2) ReadShared(request.Offset, arena[request.Buffer][..got]);
                return result;

            default:
                long end = request.Offset + Math.Max(0, result);
                if (flight.Fault is { WholeSectors: true }) end &= -Page.Sector;
                Span<byte> mixed = stackalloc byte[Page.Size];
                for (int i = 0; i < disk.Pending.Count; i++)
                {
                    PendingPage page = disk.Pending[i];
                    if (!page.InFlight || !Mine(page, request)) continue;
                    long start = (long)page.Number * Page.Size;
                    // A failed write guarantees nothing: each of its pages may have changed. A short write stops at the length it reports.
                    bool lands = result < 0 ? _chance.Percent(50) : start < end;
                    if (!lands) { disk.Pending.RemoveAt(i--); disk.Changes++; continue; }
                    if (result > 0 && end < start + Page.Size && end < request.Offset + request.Buffer.Length)
                    {
                        disk.Cache[page.Number].Bytes.CopyTo(mixed);
                        page.Contents.Bytes[..(int)(end - start)].CopyTo(mixed);
                        disk.Pending[i] = page = page with { Contents = Keep(mixed) };
                        disk.Changes++;
                    }
                    page.InFlight = false;
                    page.Reaped = _events;
                    disk.Cache.Set(page.Number, page.Contents);
                }
                step();
                return result;
        }
    }

    private static bool Mine(PendingPage page, in BlockRequest request)
    {
        long from = request.Offset / Page.Size, to = (request.Offset + request.Buffer.Length + Page.Size - 1) / Page.Size;
        return page.Number >= from && page.Number < to;
    }

    private static bool Meet(long a, long aLength, long b, long bLength) => a < b + bLength && b < a + aLength;
}
