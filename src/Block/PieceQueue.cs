using System;
using System.Collections.Generic;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// A block queue whose devices consist of pieces of the devices of another queue (<see cref="PieceMap"/>). A request is split at the
/// borders of pieces; its completion is that of all parts.
/// <code>
///   request   [ ------------ 40 KiB ------------ ]        device 1 = super: 8 MiB + 24 KiB, super: 2 MiB + 1 MiB
///   parts     [ super 24 KiB ][ super 16 KiB ]            queued below at once; those that do not fit wait here
///   result    bytes up to the first part that is short or failed; its errno if nothing was moved before it
/// </code>
/// A flush goes to each device below that holds a piece, once, and fails if one of them fails. A read from a piece of zeros needs no
/// device; a write there fails with EROFS. As for a device, a read at the end returns 0, and a write there ENOSPC.
/// <para>
/// The queue below must belong to this one alone. A wait may return 0 although the wake-up was not signalled.
/// </para>
/// </summary>
public sealed class PieceQueue : IBlockQueue
{
    private readonly IBlockQueue _below;
    private readonly PieceMap[] _devices;
    private readonly Arena _arena;
    private readonly Request[] _requests;
    private readonly Stack<int> _freeRequests = new();
    private readonly List<Part> _parts = [];
    private readonly Stack<int> _freeParts = new();
    private readonly Queue<int> _waiting = new();
    private readonly Queue<int> _finished = new();
    private readonly BlockCompletion[] _completions;

    /// <summary>A request, how many of its parts have not ended, and the first part that is not complete.</summary>
    private struct Request
    {
        public BlockRequest Whole;
        public int Parts;
        public int FirstBad;
        public int BadResult;
    }

    /// <summary>A part of a request: its request's slot, its offset in the request, and what is queued below.</summary>
    private readonly record struct Part(int Slot, int Within, BlockRequest Below);

    /// <summary>
    /// A queue over <paramref name="devices"/>, whose pieces name the devices of <paramref name="below"/>. Disposes of that queue; the
    /// caller keeps the arena, which both queues use.
    /// </summary>
    public PieceQueue(IBlockQueue below, PieceMap[] devices, Arena arena)
    {
        _below = below;
        _devices = devices;
        _arena = arena;
        _requests = new Request[below.Depth];
        _completions = new BlockCompletion[below.Depth];
        for (int slot = below.Depth - 1; slot >= 0; slot--) _freeRequests.Push(slot);
    }

    /// <inheritdoc/>
    public int Depth => _requests.Length;

    /// <inheritdoc/>
    public bool TryQueue(in BlockRequest request)
    {
        if ((uint)request.Device >= (uint)_devices.Length)
            throw new ArgumentOutOfRangeException(nameof(request), $"device {request.Device} of {_devices.Length}");
        if (request.Verb is BlockVerb.Read or BlockVerb.Write) _ = _arena.AddressOf(request.Buffer);
        if (!_freeRequests.TryPop(out int slot)) return false;
        _requests[slot] = new Request { Whole = request, FirstBad = int.MaxValue };
        // Counts as a part itself, so that the request does not end before all of its parts are made.
        _requests[slot].Parts = 1;
        if (request.Verb is BlockVerb.Read or BlockVerb.Write) Split(slot);
        else
            foreach (int device in _devices[request.Device].Devices)
                Add(slot, 0, request with { Device = device });
        EndPart(slot);
        Submit();
        return true;
    }

    /// <inheritdoc/>
    public int Wait(Span<BlockCompletion> completions)
    {
        if (completions.IsEmpty) throw new ArgumentException("no room for a completion", nameof(completions));
        if (_finished.Count == 0)
        {
            // One wait only: it may have consumed the wake-up, and the caller has to check every source of events then.
            int count = _below.Wait(_completions);
            if (count < 0) return count;
            foreach (BlockCompletion completion in _completions.AsSpan(0, count)) Reap(completion);
            Submit();
        }
        int done = 0;
        while (done < completions.Length && _finished.TryDequeue(out int slot))
        {
            ref readonly Request request = ref _requests[slot];
            completions[done++] = new BlockCompletion(request.Whole.Tag, Result(request));
            _freeRequests.Push(slot);
        }
        return done;
    }

    /// <inheritdoc/>
    public int Perform(in BlockRequest request)
    {
        PieceMap device = _devices[request.Device];
        if (request.Verb is not (BlockVerb.Read or BlockVerb.Write))
        {
            int failure = 0;
            foreach (int number in device.Devices)
                if (_below.Perform(request with { Device = number }) is < 0 and var errno && failure == 0) failure = errno;
            return failure;
        }
        int moved = 0;
        while (moved < request.Buffer.Length)
        {
            int wanted = request.Buffer.Length - moved;
            MappedPiece piece = device.Locate(request.Offset + moved, wanted);
            int result = piece.Length == 0 ? AtEnd(request.Verb)
                : piece.Device == MappedPiece.Zeros ? Zeros(request, moved, (int)piece.Length)
                : _below.Perform(Below(request, piece, moved));
            if (result <= 0) return moved > 0 ? moved : result;
            moved += result;
            if (result < piece.Length) break;
        }
        return moved;
    }

    /// <inheritdoc/>
    public void Dispose() => _below.Dispose();

    private void Split(int slot)
    {
        BlockRequest whole = _requests[slot].Whole;
        int length = whole.Buffer.Length;
        for (int within = 0; within < length;)
        {
            MappedPiece piece = _devices[whole.Device].Locate(whole.Offset + within, length - within);
            if (piece.Length == 0)
            {
                NoteBad(slot, within, AtEnd(whole.Verb));
                return;
            }
            if (piece.Device == MappedPiece.Zeros)
            {
                int result = Zeros(whole, within, (int)piece.Length);
                if (result < 0) NoteBad(slot, within, result);
            }
            else Add(slot, within, Below(whole, piece, within));
            within += (int)piece.Length;
        }
    }

    private static BlockRequest Below(in BlockRequest whole, MappedPiece piece, int within) =>
        whole with { Device = piece.Device, Offset = piece.Offset, Buffer = whole.Buffer.Part(within, (int)piece.Length) };

    private static int AtEnd(BlockVerb verb) => verb == BlockVerb.Read ? 0 : -Errno.ENOSPC;

    private int Zeros(in BlockRequest whole, int within, int length)
    {
        if (whole.Verb == BlockVerb.Write) return -Errno.EROFS;
        _arena[whole.Buffer.Part(within, length)].Clear();
        return length;
    }

    private void Add(int slot, int within, in BlockRequest below)
    {
        if (!_freeParts.TryPop(out int part))
        {
            part = _parts.Count;
            _parts.Add(default);
        }
        _parts[part] = new Part(slot, within, below with { Tag = (uint)part });
        _requests[slot].Parts++;
        _waiting.Enqueue(part);
    }

    private void Submit()
    {
        while (_waiting.TryPeek(out int part) && _below.TryQueue(_parts[part].Below)) _ = _waiting.Dequeue();
    }

    private void Reap(BlockCompletion completion)
    {
        Part part = _parts[(int)completion.Tag];
        _freeParts.Push((int)completion.Tag);
        bool moves = part.Below.Verb is BlockVerb.Read or BlockVerb.Write;
        if (completion.Result < 0 || (moves && completion.Result != part.Below.Buffer.Length))
            NoteBad(part.Slot, part.Within, completion.Result);
        EndPart(part.Slot);
    }

    private void NoteBad(int slot, int within, int result)
    {
        ref Request request = ref _requests[slot];
        if (within < request.FirstBad) (request.FirstBad, request.BadResult) = (within, result);
    }

    private void EndPart(int slot)
    {
        if (--_requests[slot].Parts == 0) _finished.Enqueue(slot);
    }

    private static int Result(in Request request)
    {
        bool moves = request.Whole.Verb is BlockVerb.Read or BlockVerb.Write;
        if (request.FirstBad == int.MaxValue) return moves ? request.Whole.Buffer.Length : 0;
        int moved = moves ? request.FirstBad + Math.Max(request.BadResult, 0) : 0;
        return moved > 0 ? moved : request.BadResult;
    }
}
