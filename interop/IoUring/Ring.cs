using System;
using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Threading;

namespace Snapuserd.Interop;

/// <summary>
/// The arithmetic of a ring pair: the slot of the next request, the published tail, the available completions. It owns neither the memory
/// nor the descriptor, so it runs in the tests without a kernel. Used by one thread.
/// </summary>
public sealed unsafe class Ring
{
    private readonly IRingKernel _kernel;
    private readonly uint* _sqHead;
    private readonly uint* _sqTail;
    private readonly uint* _sqFlags;
    private readonly uint* _sqDropped;
    private readonly uint* _sqArray;
    private readonly byte* _entries;
    private readonly int _entrySize;
    private readonly uint _sqMask;
    private readonly uint* _cqHead;
    private readonly uint* _cqTail;
    private readonly uint* _cqOverflow;
    private readonly IoUringCqe* _cqes;
    private readonly uint _cqMask;

    /// <summary>Tail after the prepared requests; <see cref="Enter"/> publishes it to the kernel.</summary>
    private uint _prepared;

    /// <summary>A ring over memory shared with the kernel. Its counters may have any initial value.</summary>
    public Ring(in RingMemory memory, IRingKernel kernel)
    {
        _kernel = kernel;
        byte* sq = (byte*)memory.SubmissionRing;
        byte* cq = (byte*)memory.CompletionRing;
        _sqHead = (uint*)(sq + memory.Submission.Head);
        _sqTail = (uint*)(sq + memory.Submission.Tail);
        _sqFlags = (uint*)(sq + memory.Submission.Flags);
        _sqDropped = (uint*)(sq + memory.Submission.Dropped);
        _sqArray = (uint*)(sq + memory.Submission.Array);
        _sqMask = *(uint*)(sq + memory.Submission.RingMask);
        Capacity = *(uint*)(sq + memory.Submission.RingEntries);
        _entries = (byte*)memory.Entries;
        _entrySize = memory.EntrySize;
        _cqHead = (uint*)(cq + memory.Completion.Head);
        _cqTail = (uint*)(cq + memory.Completion.Tail);
        _cqOverflow = (uint*)(cq + memory.Completion.Overflow);
        _cqes = (IoUringCqe*)(cq + memory.Completion.Cqes);
        _cqMask = *(uint*)(cq + memory.Completion.RingMask);
        CompletionCapacity = *(uint*)(cq + memory.Completion.RingEntries);
        if (!BitOperations.IsPow2(Capacity) || _sqMask != Capacity - 1 || !BitOperations.IsPow2(CompletionCapacity)
            || _cqMask != CompletionCapacity - 1)
            throw new ArgumentException($"ring sizes {Capacity} and {CompletionCapacity} do not match masks {_sqMask:x} and {_cqMask:x}",
                nameof(memory));
        _prepared = *_sqTail;
    }

    /// <summary>Requests that fit the submission ring, a power of two.</summary>
    public uint Capacity { get; }

    /// <summary>Completions that fit the completion ring, a power of two.</summary>
    public uint CompletionCapacity { get; }

    /// <summary>Prepared requests that the kernel has not taken yet.</summary>
    public uint Pending => _prepared - Volatile.Read(ref *_sqHead);

    /// <summary>Completions that can be reaped without entering the kernel.</summary>
    public uint Ready => Volatile.Read(ref *_cqTail) - *_cqHead;

    /// <summary>The kernel holds completions back because the completion ring is full: reap, then enter with GETEVENTS.</summary>
    public bool HasOverflow => (Volatile.Read(ref *_sqFlags) & IoUringAbi.IORING_SQ_CQ_OVERFLOW) != 0;

    /// <summary>
    /// Completions that are permanently lost (a kernel without IORING_FEAT_NODROP), and requests that the kernel found malformed. If not
    /// 0, some request will never complete.
    /// </summary>
    public uint Lost => Volatile.Read(ref *_cqOverflow) + Volatile.Read(ref *_sqDropped);

    /// <summary>Prepares a request; false when the submission ring is full. The kernel sees it at the next <see cref="Enter"/>.</summary>
    public bool TryPrepare(in IoUringSqe request)
    {
        byte* entry = Claim();
        if (entry == null) return false;
        *(IoUringSqe*)entry = request;
        if (_entrySize > sizeof(IoUringSqe)) new Span<byte>(entry + sizeof(IoUringSqe), _entrySize - sizeof(IoUringSqe)).Clear();
        _prepared++;
        return true;
    }

    /// <summary>
    /// Prepares a request with <paramref name="command"/> bytes after its first 48 (IORING_OP_URING_CMD): up to 16 in a 64-byte entry, up
    /// to 80 in one of 128. False when the submission ring is full.
    /// </summary>
    public bool TryPrepare(in IoUringSqe request, ReadOnlySpan<byte> command)
    {
        Span<byte> room = CommandRoom(Claim());
        if (room.IsEmpty) return false;
        if (command.Length > room.Length)
            throw new ArgumentException($"{command.Length} command bytes do not fit into {room.Length}", nameof(command));
        if (!TryPrepare(request)) return false;
        command.CopyTo(room);
        return true;
    }

    /// <summary>
    /// Publishes the prepared requests and enters the kernel once. Always sets GETEVENTS, because a ring with DEFER_TASKRUN completes
    /// nothing without it. Waits until <paramref name="complete"/> completions are in the ring. Returns how many requests the kernel took,
    /// which may be fewer than <see cref="Pending"/>, or a negative errno. -EINTR, -EAGAIN (out of memory for requests) and -EBUSY
    /// (completions overflow: reap first) are not final. If the kernel took fewer, it did not wait.
    /// </summary>
    public int Enter(uint complete) => Enter(Pending, complete);

    /// <summary>The same, but offers the kernel only the first <paramref name="submit"/> of the prepared requests.</summary>
    public int Enter(uint submit, uint complete)
    {
        // Release: the kernel that sees the new tail also sees the entries before it.
        Volatile.Write(ref *_sqTail, _prepared);
        return _kernel.Enter(Math.Min(submit, Pending), complete, IoUringAbi.IORING_ENTER_GETEVENTS);
    }

    /// <summary>Takes the next completion, if there is one.</summary>
    public bool TryReap(out IoUringCqe completion)
    {
        uint head = *_cqHead;
        // Acquire: the entry is read after the tail that covers it.
        if (head == Volatile.Read(ref *_cqTail))
        {
            completion = default;
            return false;
        }
        completion = _cqes[head & _cqMask];
        // Release: the kernel reuses the entry only after it was copied.
        Volatile.Write(ref *_cqHead, head + 1);
        return true;
    }

    /// <summary>Takes back the last prepared request, if the kernel has not taken it yet, and returns its user data.</summary>
    public bool TryTakeBack(out ulong userData)
    {
        userData = 0;
        if (Pending == 0) return false;
        _prepared--;
        userData = ((IoUringSqe*)(_entries + ((nint)(_prepared & _sqMask) * _entrySize)))->UserData;
        // An enter that took fewer requests may have published the tail; the kernel reads it only inside an enter.
        Volatile.Write(ref *_sqTail, _prepared);
        return true;
    }

    private byte* Claim()
    {
        if (Pending >= Capacity) return null;
        uint slot = _prepared & _sqMask;
        _sqArray[slot] = slot;
        return _entries + ((nint)slot * _entrySize);
    }

    private Span<byte> CommandRoom(byte* entry) =>
        entry == null ? default
            : MemoryMarshal.CreateSpan(ref Unsafe.AsRef<byte>(entry + IoUringSqe.CommandOffset), _entrySize - IoUringSqe.CommandOffset);
}
