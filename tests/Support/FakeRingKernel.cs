using System;
using System.Collections.Generic;
using Snapuserd.Interop;

namespace Snapuserd.Tests.Support;

/// <summary>
/// The kernel's side of a ring, in ordinary memory. By default it accepts every request and completes all in order with the requested
/// length. A test replaces <see cref="OnEnter"/> and uses <see cref="Take"/> and <see cref="Complete(IoUringSqe, int)"/> for any other
/// behavior.
/// </summary>
public sealed class FakeRingKernel : IRingKernel, IDisposable
{
    private const int CompletionOffset = 0x10000;
    private const int EntryOffset = 0x20000;
    private readonly MappedMemory _memory;
    private readonly Queue<IoUringCqe> _overflow = new();
    private readonly uint _entries;
    private readonly uint _completions;
    private readonly int _entrySize;

    /// <param name="entries">Size of the submission ring.</param>
    /// <param name="completions">Size of the completion ring.</param>
    /// <param name="start">Initial value of all four counters; near uint.MaxValue to test their wrap-around.</param>
    /// <param name="entrySize">64 or 128.</param>
    public FakeRingKernel(uint entries, uint completions, uint start = 0, int entrySize = 64)
    {
        if (MappedMemory.Map(0x40000, out MappedMemory? memory) < 0) throw new OutOfMemoryException();
        _memory = memory!;
        (_entries, _completions, _entrySize) = (entries, completions, entrySize);
        Submission(0) = Submission(4) = Completion(0) = Completion(4) = start;
        (Submission(8), Submission(12)) = (entries - 1, entries);
        (Completion(8), Completion(12)) = (completions - 1, completions);
        OnEnter = (_, submit, _) =>
        {
            int taken = Take(submit);
            while (InFlight.Count > 0) Complete(InFlight[0], (int)InFlight[0].Len);
            return taken;
        };
    }

    /// <summary>The effect of io_uring_enter: maps (kernel, to submit, to complete) to the call's result.</summary>
    public Func<FakeRingKernel, uint, uint, int> OnEnter { get; set; }

    /// <summary>Requests accepted and not completed, in submission order.</summary>
    public List<IoUringSqe> InFlight { get; } = [];

    /// <summary>The flags of every io_uring_enter call.</summary>
    public List<uint> EnterFlags { get; } = [];

    /// <summary>Head of the submission ring: how many requests were accepted since <c>start</c>.</summary>
    public uint SubmissionHead => Submission(0);

    /// <summary>Addresses and offsets of the rings.</summary>
    public RingMemory Memory => new(
        _memory.Address, _memory.Address + CompletionOffset, _memory.Address + EntryOffset, _entrySize,
        new IoSqringOffsets { Head = 0, Tail = 4, RingMask = 8, RingEntries = 12, Flags = 16, Dropped = 20, Array = 64 },
        new IoCqringOffsets { Head = 0, Tail = 4, RingMask = 8, RingEntries = 12, Overflow = 16, Flags = 20, Cqes = 64 });

    /// <summary>Lost completions, as a kernel without IORING_FEAT_NODROP counts them.</summary>
    public uint LostCompletions { set => Completion(16) = value; }

    /// <inheritdoc/>
    public int Enter(uint submit, uint complete, uint flags)
    {
        EnterFlags.Add(flags);
        while (_overflow.Count > 0 && Room > 0) Post(_overflow.Dequeue());
        if (_overflow.Count == 0) Submission(16) &= ~IoUringAbi.IORING_SQ_CQ_OVERFLOW;
        return OnEnter(this, submit, complete);
    }

    /// <summary>Accepts at most <paramref name="count"/> of the submitted requests. Returns how many.</summary>
    public int Take(uint count)
    {
        int taken = 0;
        while (taken < count && Submission(0) != Submission(4))
        {
            uint slot = _memory.Span<uint>(64, (int)_entries)[(int)(Submission(0) & (_entries - 1))];
            InFlight.Add(_memory.Span<IoUringSqe>(EntryOffset + ((nint)slot * _entrySize), 1)[0]);
            Submission(0)++;
            taken++;
        }
        return taken;
    }

    /// <summary>Completes a request that is in flight.</summary>
    public void Complete(IoUringSqe request, int result)
    {
        int index = InFlight.FindIndex(r => r.UserData == request.UserData);
        if (index < 0) throw new InvalidOperationException("that request is not in flight");
        InFlight.RemoveAt(index);
        IoUringCqe completion = new() { UserData = request.UserData, Res = result };
        if (Room > 0) Post(completion);
        else
        {
            _overflow.Enqueue(completion);
            Submission(16) |= IoUringAbi.IORING_SQ_CQ_OVERFLOW;
        }
    }

    /// <summary>The bytes of a submission entry.</summary>
    public ReadOnlySpan<byte> EntryBytes(int slot) => _memory.Span<byte>(EntryOffset + ((nint)slot * _entrySize), _entrySize);

    /// <inheritdoc/>
    public void Dispose() => _memory.Dispose();

    private uint Room => _completions - (Completion(4) - Completion(0));

    private ref uint Submission(int offset) => ref _memory.Span<uint>(offset, 1)[0];

    private ref uint Completion(int offset) => ref _memory.Span<uint>(CompletionOffset + offset, 1)[0];

    private void Post(IoUringCqe completion)
    {
        _memory.Span<IoUringCqe>(CompletionOffset + 64, (int)_completions)[(int)(Completion(4) & (_completions - 1))] = completion;
        Completion(4)++;
    }
}
