using System;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>A failed transfer: the request, the negative errno, and the number of its bytes that were moved before the failure.</summary>
public readonly record struct TransferFailure(BlockRequest Request, int Errno, int Done = 0);

/// <summary>A set of transfers that the caller waits for as one.</summary>
public sealed class IoGroup : IPending
{
    private TransferFailure? _failure;

    /// <summary>Transfers of the group that have not ended yet.</summary>
    public int InFlight { get; private set; }

    /// <summary>No transfer of the group is in flight.</summary>
    public bool IsDone => InFlight == 0;

    /// <summary>The first failure since the last call, or null if every transfer was complete.</summary>
    public TransferFailure? TakeFailure()
    {
        TransferFailure? failure = _failure;
        _failure = null;
        return failure;
    }

    internal void Begin() => InFlight++;

    internal void End(TransferFailure? failure)
    {
        InFlight--;
        _failure ??= failure;
    }
}

/// <summary>
/// Complete transfers over an <see cref="IBlockQueue"/>, whose single attempts may come back short, interrupted or with EAGAIN.
/// <para>
/// <list type="bullet">
/// <item>A short transfer continues after its last whole granule, because direct I/O accepts nothing else. It fails with EIO if it
/// repeatedly completes no granule.</item>
/// <item>A result of 0 fails with EIO, because the kernel reports neither progress nor a reason.</item>
/// <item>After EINTR or EAGAIN the request is repeated <see cref="Retry.AttemptsBeforeSync"/> times, then once by the synchronous call,
/// whose result is final.</item>
/// <item>ECANCELED hides the errno that caused it, so the synchronous call follows at once. Its result is final too.</item>
/// <item>A flush is never repeated: the kernel reports lost data once, under the errno that the device gave, and a second flush would
/// succeed.</item>
/// </list>
/// </para>
/// </summary>
public sealed class IoScheduler
{
    private readonly IBlockQueue _queue;
    private readonly int[] _granules;
    private readonly Attempt[] _attempts;
    private readonly int[] _free;
    private readonly BlockCompletion[] _completions;
    private readonly IoGroup _alone = new();
    private int _freeCount;

    private struct Attempt
    {
        public BlockRequest Whole;
        public IoGroup Group;
        public int Done;
        public int Tries;
    }

    /// <summary>
    /// <paramref name="granules"/> is indexed by device number. Each value is the multiple, in bytes, of all offsets and lengths: the
    /// direct I/O alignment, or 1 for a buffered file.
    /// </summary>
    public IoScheduler(IBlockQueue queue, ReadOnlySpan<int> granules)
    {
        _queue = queue;
        _granules = granules.ToArray();
        _attempts = new Attempt[queue.Depth];
        _free = new int[queue.Depth];
        _completions = new BlockCompletion[queue.Depth];
        for (int slot = queue.Depth - 1; slot >= 0; slot--) _free[_freeCount++] = slot;
    }

    /// <summary>Transfers that have not ended yet.</summary>
    public int InFlight => _attempts.Length - _freeCount;

    /// <summary>
    /// The queue broke with requests in flight: the kernel may use their buffers at any time, so nothing may be unmapped.
    /// </summary>
    public bool Broken { get; private set; }

    /// <summary>A transfer can start now without waiting for another one to end.</summary>
    public bool HasRoom => _freeCount > 0;

    /// <summary>Starts a read of <paramref name="buffer"/>.Length bytes; waits for a free slot first if the queue is full.</summary>
    public void Read(int device, long offset, Slice buffer, IoGroup? group = null) =>
        Start(new BlockRequest(BlockVerb.Read, device, offset, buffer, 0), group);

    /// <summary>Starts a write of <paramref name="buffer"/>.Length bytes; waits for a free slot first if the queue is full.</summary>
    public void Write(int device, long offset, Slice buffer, IoGroup? group = null) =>
        Start(new BlockRequest(BlockVerb.Write, device, offset, buffer, 0), group);

    /// <summary>Starts a flush. It covers the writes whose completion was reaped before: those whose group is done.</summary>
    public void Flush(int device, IoGroup? group = null) => Start(new BlockRequest(BlockVerb.Flush, device, 0, default, 0), group);

    /// <summary>
    /// Starts background write-back on the device, which shortens the next flush. A hint: it guarantees nothing, is never repeated, and
    /// its result is discarded. Does nothing for a direct device, which bypasses the page cache.
    /// </summary>
    public void WriteBack(int device, IoGroup group)
    {
        if (_granules[device] == 1) Start(new BlockRequest(BlockVerb.WriteBack, device, 0, default, 0), group);
    }

    /// <summary>Blocks until a transfer makes progress or the queue is woken up. At least one transfer must be in flight.</summary>
    public void Wait() => Reap();

    /// <summary>
    /// Waits until every transfer without a group has ended. Returns the first failure since the last call, or null if all were complete.
    /// </summary>
    public TransferFailure? Drain()
    {
        while (!_alone.IsDone) Reap();
        return _alone.TakeFailure();
    }

    /// <summary>
    /// After an error that ends the run: waits until no buffer is in use. Errors during the wait are discarded, so they do not hide that
    /// error.
    /// </summary>
    public void Abandon()
    {
        try
        {
            while (InFlight > 0) Reap();
            _ = _alone.TakeFailure();
        }
        catch (Exception)
        {
            Broken = true;
        }
    }

    private void Start(in BlockRequest request, IoGroup? group)
    {
        if (request.Verb is BlockVerb.Read or BlockVerb.Write && request.Buffer.Length == 0) return;
        while (_freeCount == 0) Reap();
        int slot = _free[_freeCount - 1];
        group ??= _alone;
        _attempts[slot] = new Attempt { Whole = request, Group = group };
        Ask(slot);
        // After Ask, because a request that the queue rejects with an exception is not in flight, and no wait may count it.
        _freeCount--;
        group.Begin();
    }

    private void Ask(int slot)
    {
        BlockRequest rest = Rest(slot);
        if (!_queue.TryQueue(rest)) throw new InvalidOperationException("the queue is full although a slot was free");
    }

    private BlockRequest Rest(int slot)
    {
        ref Attempt attempt = ref _attempts[slot];
        BlockRequest whole = attempt.Whole;
        return whole.Verb is BlockVerb.Flush or BlockVerb.WriteBack
            ? whole with { Tag = (uint)slot }
            : whole with
            {
                Offset = whole.Offset + attempt.Done,
                Buffer = whole.Buffer.Part(attempt.Done, whole.Buffer.Length - attempt.Done),
                Tag = (uint)slot,
            };
    }

    private void Reap()
    {
        int count = _queue.Wait(_completions);
        if (count < 0)
        {
            Broken = true;
            throw new SnapuserdException(ExitCode.InputOutput,
                $"the I/O queue failed while {InFlight} requests were in flight: {ErrnoText.Of(count)}");
        }
        foreach (BlockCompletion completion in _completions.AsSpan(0, count)) Progress((int)completion.Tag, completion.Result);
    }

    private void Progress(int slot, int result)
    {
        ref Attempt attempt = ref _attempts[slot];
        if (attempt.Whole.Verb == BlockVerb.Flush)
        {
            End(slot, result < 0 ? result : 0);
            return;
        }
        if (attempt.Whole.Verb == BlockVerb.WriteBack)
        {
            End(slot, 0);
            return;
        }
        if (result is -Errno.EINTR or -Errno.EAGAIN && ++attempt.Tries <= Retry.AttemptsBeforeSync) { Ask(slot); return; }
        if (result is -Errno.EINTR or -Errno.EAGAIN or -Errno.ECANCELED) result = PerformPlainly(slot);

        int remaining = attempt.Whole.Buffer.Length - attempt.Done;
        if (result == remaining) { End(slot, 0); return; }
        if (result < 0) { End(slot, result); return; }
        if (result == 0 || result > remaining) { End(slot, -Errno.EIO); return; }
        int whole = result - (result % _granules[attempt.Whole.Device]);
        if (whole > 0) attempt.Tries = 0;
        else if (++attempt.Tries > Retry.AttemptsBeforeSync) { End(slot, -Errno.EIO); return; }
        attempt.Done += whole;
        Ask(slot);
    }

    private int PerformPlainly(int slot)
    {
        BlockRequest rest = Rest(slot);
        for (int tries = 0; ; tries++)
        {
            // The garbage collector stops threads by signal, so a blocking call may be interrupted a few times, but not forever.
            int result = _queue.Perform(rest);
            if (!Retry.Interrupted(result) || tries == Retry.AttemptsBeforeSync) return result;
        }
    }

    private void End(int slot, int errno)
    {
        ref readonly Attempt attempt = ref _attempts[slot];
        attempt.Group.End(errno < 0 ? new TransferFailure(attempt.Whole, errno, attempt.Done) : null);
        _free[_freeCount++] = slot;
    }
}
