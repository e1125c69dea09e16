using System;
using Snapuserd.Block;

namespace Snapuserd.Cow;

/// <summary>
/// Encodes <paramref name="Count"/> payloads of <paramref name="Batch"/> from op <paramref name="First"/> on. A job has several payloads,
/// because passing a single block to a worker takes longer than encoding it.
/// </summary>
internal readonly record struct EncodeJob(OpBatch Batch, int First, int Count);

/// <summary>A worker that runs <see cref="EncodeJob"/>s with its own encoder.</summary>
internal sealed class EncodeWorker(Arena arena, UnitEncoder encoder, bool rawIfNotSmaller) : IWorker<EncodeJob>
{
    /// <summary>Returns 0, or the encoder's negative error.</summary>
    public int Do(in EncodeJob job)
    {
        foreach (ref PendingOp op in job.Batch.Ops.AsSpan(job.First, job.Count))
        {
            if (op.Plain.Length == 0) continue;
            int length = encoder.Encode(arena[op.Plain], arena[op.Stored]);
            if (length < 0) return length;
            op.Stored = rawIfNotSmaller && length >= op.Plain.Length ? op.Plain : op.Stored.Part(0, length);
        }
        return 0;
    }

    /// <inheritdoc/>
    public void Dispose() => encoder.Dispose();
}

/// <summary>
/// Ops that pass through the pipeline together, and the memory of their payloads. Owned by one thread, except that workers set
/// <see cref="PendingOp.Stored"/>.
/// </summary>
internal sealed class OpBatch(Slice area, int capacity)
{
    private int _used;

    /// <summary>The ops; only the first <see cref="Count"/> are valid.</summary>
    public PendingOp[] Ops { get; } = new PendingOp[capacity];

    /// <summary>Ops in the batch.</summary>
    public int Count { get; private set; }

    /// <summary>Ops for which a job was posted.</summary>
    public int Posted { get; set; }

    /// <summary>Payload bytes of the ops after <see cref="Posted"/>.</summary>
    public int UnpostedBytes { get; set; }

    /// <summary>Jobs posted and not reaped.</summary>
    public int Jobs { get; set; }

    /// <summary>True if one more op with <paramref name="bytes"/> of buffers fits.</summary>
    public bool HasRoom(int bytes) => Count < Ops.Length && bytes <= area.Length - _used;

    /// <summary>Adds an op. The caller must have checked with <see cref="HasRoom"/> that it fits.</summary>
    public void Add(in PendingOp op) => Ops[Count++] = op;

    /// <summary>Takes memory for a payload. The caller must have checked with <see cref="HasRoom"/> that there is enough.</summary>
    public Slice Take(int bytes)
    {
        Slice slice = area.Part(_used, bytes);
        _used += bytes;
        return slice;
    }

    /// <summary>Empties the batch. All of its jobs must have ended.</summary>
    public void Clear() => (Count, Posted, UnpostedBytes, _used) = (0, 0, 0, 0);
}
