using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;

namespace Snapuserd.Merge;

/// <summary>
/// The I/O to Base that does not belong to a batch: flushes, background write-back, and windows that are written from the metadata image.
/// Requests begin here; the caller waits for <see cref="Pending"/> and then checks the result.
/// </summary>
internal sealed class BaseWriter(MergeSetup setup, MergePlan plan, MetadataImage metadata, Watermarks marks)
{
    private readonly IoGroup _writeBack = new();

    // Watermarks.BytesWritten at the last request for write-back.
    private long _writeBackAt = marks.BytesWritten;

    /// <summary>The flush or the writes that were begun last.</summary>
    public IoGroup Pending { get; } = new();

    /// <summary>Flushes so far.</summary>
    public int Flushes { get; private set; }

    /// <summary>No request for write-back is in flight.</summary>
    public bool IsWriteBackDone => _writeBack.IsDone;

    /// <summary>Flushes Base. Exit code 74 if the flush fails.</summary>
    public IEnumerable<IoGroup> Flush()
    {
        BeginFlush();
        yield return Pending;
        CheckFlush();
    }

    /// <summary>Begins a flush. It covers the writes whose completions were reaped before.</summary>
    public void BeginFlush()
    {
        Flushes++;
        setup.Io.Flush(setup.Base.Number, Pending);
    }

    /// <summary>Throws exit code 74 if the flush has ended and failed.</summary>
    public void CheckFlush()
    {
        if (Pending.TakeFailure() is { } failure)
            throw new SnapuserdException(ExitCode.InputOutput,
                $"{setup.Base.Name}: flushing failed: {ErrnoText.Of(failure.Errno)}; "
                + $"nothing after op {marks.Durable} of {marks.End} is counted");
    }

    /// <summary>
    /// Begins to write the first <paramref name="window"/> slots of the metadata image. Blocks that are contiguous both there and on Base
    /// share a request.
    /// </summary>
    public void BeginSlots(int window)
    {
        int first = marks.Written, mostBlocks = Math.Max(1, setup.Options.RequestBytes / CowOp.BlockSize);
        for (int i = 0; i < window;)
        {
            uint block = plan[first + i].NewBlock;
            int run = 1;
            while (i + run < window && run < mostBlocks && plan[first + i + run].NewBlock == block + run) run++;
            Slice contents = metadata.Slot(i) with { Length = run * CowOp.BlockSize };
            setup.Io.Write(setup.Base.Number, (long)block * CowOp.BlockSize, contents, Pending);
            i += run;
        }
    }

    /// <summary>Throws exit code 74 if a write of <see cref="BeginSlots"/> failed. Names the first op concerned.</summary>
    public void CheckSlots()
    {
        if (Pending.TakeFailure() is not { } failure) return;
        int slot = (failure.Request.Buffer.Offset + failure.Done - metadata.Slot(0).Offset) / CowOp.BlockSize;
        int left = failure.Request.Buffer.Length - failure.Done;
        string where = $"{left} bytes at {failure.Request.Offset + failure.Done} for {plan.Describe(marks.Durable + slot)}";
        throw new SnapuserdException(ExitCode.InputOutput, $"{setup.Base.Name}: writing {where} failed: {ErrnoText.Of(failure.Errno)}");
    }

    /// <summary>
    /// Starts background write-back after <see cref="MergeOptions.WriteBackBytes"/>. At most one request in flight, and never when the
    /// queue is full.
    /// </summary>
    public void AskForWriteBack()
    {
        long every = setup.Options.WriteBackBytes;
        if (every == 0 || marks.BytesWritten - _writeBackAt < every || !_writeBack.IsDone || !setup.Io.HasRoom) return;
        _writeBackAt = marks.BytesWritten;
        setup.Io.WriteBack(setup.Base.Number, _writeBack);
    }
}
