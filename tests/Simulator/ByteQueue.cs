using System;
using System.Collections.Generic;
using Snapuserd.Block;

namespace Snapuserd.Tests.Simulator;

/// <summary>A run exceeded a limit of requests, reads or image chunks that no run over such small test files needs.</summary>
public sealed class HangException(string what) : Exception(what);

/// <summary>
/// A queue for devices that are byte arrays, fast enough for hundreds of thousands of trials. Unlike <see cref="SimQueue"/>, it simulates
/// neither a cache nor crashes. Every range is checked, racing requests are rejected, completions come in an order that the seed decides,
/// and requests are counted against a limit. <paramref name="lie"/> receives the device, the offset and the bytes of every read and may
/// change the bytes.
/// </summary>
public sealed class ByteQueue(byte[][] devices, Arena arena, int depth, ulong seed, int limit, Action<int, long, Memory<byte>>? lie = null)
    : IBlockQueue
{
    private readonly Chance _chance = new(seed);
    private readonly List<BlockRequest> _flights = [];

    public int Depth => depth;

    /// <summary>Requests so far.</summary>
    public int Requests { get; private set; }

    /// <summary>Writes so far, by device.</summary>
    public int[] Writes { get; } = new int[devices.Length];

    public bool TryQueue(in BlockRequest request)
    {
        if (_flights.Count == depth) return false;
        Check(request);
        _flights.Add(request);
        return true;
    }

    public int Wait(Span<BlockCompletion> completions)
    {
        if (_flights.Count == 0) throw new ContractViolationException("waiting with nothing in flight would last for ever");
        int wanted = Math.Min(completions.Length, 1 + _chance.Below(_flights.Count));
        for (int i = 0; i < wanted; i++)
        {
            int choice = _chance.Below(_flights.Count);
            BlockRequest request = _flights[choice];
            _flights.RemoveAt(choice);
            completions[i] = new BlockCompletion(request.Tag, Complete(request));
        }
        return wanted;
    }

    public int Perform(in BlockRequest request)
    {
        Check(request);
        return Complete(request);
    }

    public void Dispose()
    {
        if (_flights.Count > 0) throw new ContractViolationException($"the queue is closed with {_flights.Count} requests in flight");
    }

    /// <summary>See <see cref="SimQueue"/>: a write may race with a read of bytes that it leaves unchanged.</summary>
    private bool ChangesNothingFor(in BlockRequest write, in BlockRequest read)
    {
        if (read.Verb != BlockVerb.Read) return false;
        int from = (int)Math.Max(write.Offset, read.Offset),
            to = (int)Math.Min(write.Offset + write.Buffer.Length, read.Offset + read.Buffer.Length);
        return arena[write.Buffer].Slice(from - (int)write.Offset, to - from).SequenceEqual(devices[write.Device].AsSpan(from, to - from));
    }

    private void Check(in BlockRequest request)
    {
        if (++Requests > limit) throw new HangException($"more than {limit} requests");
        if (request.Verb is BlockVerb.Flush or BlockVerb.WriteBack) return;
        int length = arena[request.Buffer].Length;
        if (length == 0) throw new ContractViolationException($"an empty {request.Verb}");
        if (request.Offset < 0 || request.Offset > devices[request.Device].Length - length)
            throw new ContractViolationException($"{request.Verb} of {length} bytes at {request.Offset} goes beyond device "
                + $"{request.Device}, which has {devices[request.Device].Length} bytes");
        foreach (BlockRequest other in _flights)
        {
            if (other.Verb is BlockVerb.Flush or BlockVerb.WriteBack || (request.Verb == BlockVerb.Read && other.Verb == BlockVerb.Read))
                continue;
            if (other.Device == request.Device && other.Offset < request.Offset + length
                && request.Offset < other.Offset + other.Buffer.Length
                && !(request.Verb == BlockVerb.Write ? ChangesNothingFor(request, other) : ChangesNothingFor(other, request)))
                throw new ContractViolationException(
                    $"{request.Verb} at {request.Offset} races with {other.Verb} at {other.Offset} on device {request.Device}");
        }
    }

    private int Complete(in BlockRequest request)
    {
        if (request.Verb is BlockVerb.Flush or BlockVerb.WriteBack) return 0;
        Span<byte> buffer = arena[request.Buffer], place = devices[request.Device].AsSpan((int)request.Offset, buffer.Length);
        if (request.Verb == BlockVerb.Write)
        {
            Writes[request.Device]++;
            buffer.CopyTo(place);
        }
        else if (lie == null)
        {
            place.CopyTo(buffer);
        }
        else
        {
            byte[] told = place.ToArray();
            lie(request.Device, request.Offset, told);
            told.CopyTo(buffer);
        }
        return buffer.Length;
    }
}
