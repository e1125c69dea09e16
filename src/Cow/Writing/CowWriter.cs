using System;
using System.Numerics;
using Snapuserd.Block;

namespace Snapuserd.Cow;

/// <summary>
/// Writes a COW file of version 2 or 3 (cow-format §6–9, §11), with the bytes that Android's writer produces for the same calls. Ops lie
/// in the file in the order of the calls; the caller is responsible for an order that can be merged (cow-format §9). One thread at a
/// time.
/// <para>
/// An invalid call fails with exit code 64 and changes nothing. After the output fails (74), or a codec fails or memory is short (71),
/// every further call fails. The file then is as it was at the last <see cref="Label"/> or <see cref="Finish"/>. Compression runs later
/// than the calls, so a later call may report a full output. After <see cref="CowWriterOptions.Stop"/> every call fails with 75, and the
/// file is as after a failure.
/// </para>
/// </summary>
public sealed class CowWriter : IDisposable
{
    /// <summary>Bytes per write of payloads. Larger writes than 1 MiB are not faster, neither on disks nor in the page cache.</summary>
    private const int DataRunBytes = 1024 * 1024;

    /// <summary>Bytes per write of ops: 4096 ops in v3, and three clusters of Android's default size in v2.</summary>
    private const int OpRunBytes = 64 * 1024;

    private readonly ICowOutput _output;
    private readonly StopFlag? _stop;
    private readonly uint? _maxBlocks;
    private readonly int _unitBlocks;
    private readonly int _chunkBlocks;
    private readonly Arena _arena;
    private readonly IOpWriter _writer;
    private readonly OpPipeline _pipeline;
    private ulong _opCount;
    private bool _sequenceAllowed = true;
    private bool _failed;
    private bool _disposed;

    private CowWriter(ICowOutput output, CowWriterOptions options,
        Func<CowWriterOptions, WriteRun, WriteRun, (IOpWriter Writer, CowTally? Tally)> open)
    {
        _output = output;
        _stop = options.Stop;
        _maxBlocks = options.MaxBlocks;
        _unitBlocks = options.MaxUnitBytes / CowOp.BlockSize;
        _chunkBlocks = options.Version == 3 ? Math.Max(options.ClusterOps, 1) : int.MaxValue;
        long memory = DataRunBytes + OpRunBytes + OpPipeline.MemoryFor(options);
        _arena = new Arena((int)memory);
        try
        {
            WriteRun data = new(output, _arena, _arena.Take(DataRunBytes)!.Value),
                ops = new(output, _arena, _arena.Take(OpRunBytes)!.Value);
            (_writer, CowTally? tally) = open(options, ops, data);
            if (tally != null)
            {
                _opCount = (ulong)tally.Ops;
                _sequenceAllowed = tally.Ops == 0 && tally.Labels == 0;
            }
            _pipeline = new OpPipeline(_writer, _arena, options);
        }
        catch
        {
            _arena.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Starts a new file: the previous contents of <paramref name="output"/> are lost; header and empty scratch are durable on return. With
    /// a <see cref="NullCowOutput"/> it only estimates the size. Exit code 64 for invalid options, 71 without memory, 74 if the output
    /// fails.
    /// </summary>
    public static CowWriter Create(ICowOutput output, CowWriterOptions options)
    {
        options.Check();
        return new CowWriter(output, options, (o, ops, data) =>
            (o.Version == 3 ? OpWriterV3.Create(output, o, ops, data) : OpWriterV2.Create(output, o, ops, data), null));
    }

    /// <summary>
    /// Continues after <paramref name="label"/>: the first Label op of that number in v2, a resume point in v3. Everything after the label
    /// is dropped, durably. The file's own version, unit size, clusters and op slots apply. Exit code 65 for an invalid file, a file
    /// without that label, or a file whose merge has begun; 64 for a compression other than the file's.
    /// </summary>
    public static CowWriter OpenAt(ICowOutput output, ulong label, CowWriterOptions options) => Append(output, label, options);

    /// <summary>
    /// Continues after the last op of a finished file; it stays finished until the next op is written. Otherwise as <see cref="OpenAt"/>.
    /// </summary>
    public static CowWriter Reopen(ICowOutput output, CowWriterOptions options) => Append(output, null, options);

    /// <summary>
    /// Size in bytes if the file were finished now, as Android reports it: exactly the file's length, except in a v3 file without any
    /// payload, which ends after its last op.
    /// </summary>
    public long Size
    {
        get
        {
            CheckUsable();
            _failed = true;
            _pipeline.Drain();
            End();
            return _writer.Size;
        }
    }

    /// <summary>
    /// Compression threads: the number in the options, or fewer if their memory does not suffice; 1 is the caller's own thread.
    /// </summary>
    public int Threads => _pipeline.Threads;

    /// <summary>Copy, Xor, Replace and Zero ops so far; a Replace op is a unit.</summary>
    public long OpCount => (long)_opCount;

    /// <summary>
    /// v3: slots of the op array. In an estimate: the slots needed so far, which are the <see cref="CowWriterOptions.OpCountMax"/> for the
    /// real file. 0 in v2.
    /// </summary>
    public long OpSlots
    {
        get
        {
            _ = Size;
            return _writer is OpWriterV3 writer ? (long)writer.Slots : 0;
        }
    }

    /// <summary>
    /// Adds the sequence list: the blocks of the ordered ops in merge order. This must precede every other call. v2 accepts the list in
    /// parts, v3 only in one call.
    /// </summary>
    public void Sequence(ReadOnlySpan<uint> blocks)
    {
        CheckUsable();
        if (!_sequenceAllowed)
            throw CowWriterOptions.Misuse($"{_output.Name}: the sequence list must come before the first op and the first label");
        if (blocks.Length == 0) return;
        // A call that is rejected (exit code 64) leaves the writer unchanged. Any other failure is permanent.
        try
        {
            _writer.Sequence(blocks);
        }
        catch (SnapuserdException e) when (e.Code != ExitCode.Usage)
        {
            _failed = true;
            throw;
        }
    }

    /// <summary>
    /// <paramref name="count"/> blocks from <paramref name="newBlock"/> on become copies of the source's blocks from
    /// <paramref name="sourceBlock"/> on.
    /// </summary>
    public void Copy(uint newBlock, ulong sourceBlock, int count = 1)
    {
        CheckBlocks("Copy", newBlock, count, (ulong)count);
        if (sourceBlock > PackedOp.Max48 - (ulong)count)
            throw CowWriterOptions.Misuse($"{_output.Name}: Copy of block {newBlock}: source {sourceBlock} does not fit 48 bits");
        AddRun(CowOpType.Copy, newBlock, count, sourceBlock);
    }

    /// <summary>
    /// The block at <paramref name="newBlock"/> + i becomes the 4096 source bytes at <paramref name="sourceByte"/> + 4096 i XOR block i of
    /// <paramref name="payload"/>.
    /// </summary>
    public void Xor(uint newBlock, ulong sourceByte, ReadOnlySpan<byte> payload)
    {
        int count = Blocks("Xor", newBlock, payload);
        CheckBlocks("Xor", newBlock, count, (ulong)count);
        if (sourceByte > PackedOp.Max48 - (CowOp.BlockSize * (ulong)count))
            throw CowWriterOptions.Misuse($"{_output.Name}: Xor of block {newBlock}: source {sourceByte} does not fit 48 bits");
        if (count == 0) return;
        Begin();
        for (int i = 0; i < count; i++)
            _pipeline.Add(CowOpType.Xor, newBlock + (uint)i, sourceByte + (CowOp.BlockSize * (ulong)i),
                payload.Slice(CowOp.BlockSize * i, CowOp.BlockSize));
        _opCount += (ulong)count;
        End();
    }

    /// <summary>
    /// The blocks from <paramref name="newBlock"/> on become <paramref name="blocks"/>, cut into units as Android cuts them (cow-format
    /// §7.3).
    /// </summary>
    public void Replace(uint newBlock, ReadOnlySpan<byte> blocks)
    {
        int count = Blocks("Replace", newBlock, blocks);
        ulong units = Units(count);
        CheckBlocks("Replace", newBlock, count, units);
        if (count == 0) return;
        Begin();
        for (int done = 0; done < count;)
        {
            int left = Math.Min(_chunkBlocks - (done % _chunkBlocks), count - done);
            int unit = left >= _unitBlocks ? _unitBlocks : 1 << BitOperations.Log2((uint)left);
            _pipeline.Add(CowOpType.Replace, newBlock + (uint)done, 0, blocks.Slice(done * CowOp.BlockSize, unit * CowOp.BlockSize));
            done += unit;
        }
        _opCount += units;
        End();
    }

    /// <summary><paramref name="count"/> blocks from <paramref name="newBlock"/> on become zeros.</summary>
    public void Zero(uint newBlock, int count = 1)
    {
        CheckBlocks("Zero", newBlock, count, (ulong)count);
        AddRun(CowOpType.Zero, newBlock, count, 0);
    }

    /// <summary>
    /// Makes everything added so far durable, then adds a label, durably, at which <see cref="OpenAt"/> can continue. v3 keeps only the
    /// newest labels, at most four. It rejects a label that is not larger than the last one, with exit code 64.
    /// </summary>
    public void Label(ulong label)
    {
        Begin();
        _pipeline.Drain();
        try
        {
            _writer.Label(label);
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.Usage)
        {
            End();
            throw;
        }
        End();
    }

    /// <summary>
    /// Makes everything added so far durable, then writes the parts that complete the file, durably. More ops and another finish may
    /// follow; until that finish the file must not be read.
    /// </summary>
    public void Finish()
    {
        Begin();
        _pipeline.Drain();
        _writer.Finish();
        End();
    }

    /// <summary>
    /// Ends threads and frees memory. Drops payloads that no thread has begun to compress, writes nothing, and leaves the output open.
    /// </summary>
    public void Dispose()
    {
        if (_disposed) return;
        _disposed = true;
        _pipeline.Dispose();
        _arena.Dispose();
    }

    private static CowWriter Append(ICowOutput output, ulong? label, CowWriterOptions options)
    {
        options.Check();
        if (output is NullCowOutput) throw CowWriterOptions.Misuse($"{output.Name}: there is nothing to append to in an estimate");
        CowHeader header = CowHeader.Parse(output, unfinished: true);
        if (header.NumMergeOps > 0)
            throw new SnapuserdException(ExitCode.CowCorrupt,
                $"{output.Name}: its merge has begun ({header.NumMergeOps} ops), so nothing can be appended");
        if (header.Major == 3 && header.Compression != options.Compression)
            throw CowWriterOptions.Misuse($"{output.Name}: its payloads are {header.Compression.ToString().ToLowerInvariant()}, so "
                + $"{options.Compression.ToString().ToLowerInvariant()} cannot be appended");
        if (header.Major == 3 && !uint.IsPow2(header.MaxUnitBytes))
            throw new SnapuserdException(ExitCode.CowCorrupt,
                $"{output.Name}: header: max_compression_size is {header.MaxUnitBytes}, not a power of two, so nothing can be appended");
        CowWriterOptions own = options with { Version = header.Major, MaxUnitBytes = (int)header.MaxUnitBytes };
        return new CowWriter(output, own, (o, ops, data) =>
        {
            IOpWriter writer = header.Major == 3
                ? OpWriterV3.Append(output, header, label, ops, data, out CowTally tally)
                : OpWriterV2.Append(output, header, o.Compression, label, ops, data, out tally);
            return (writer, tally);
        });
    }

    private void AddRun(CowOpType type, uint newBlock, int count, ulong source)
    {
        if (count == 0) return;
        Begin();
        _pipeline.Add(type, newBlock, count, source);
        _opCount += (ulong)count;
        End();
    }

    private int Blocks(string op, uint newBlock, ReadOnlySpan<byte> payload) => payload.Length % CowOp.BlockSize == 0
        ? payload.Length / CowOp.BlockSize
        : throw CowWriterOptions.Misuse(
            $"{_output.Name}: {op} of block {newBlock}: {payload.Length} bytes are not whole blocks of {CowOp.BlockSize}");

    /// <summary>
    /// Number of ops for a Replace of <paramref name="blocks"/> blocks: units of the largest size, and for the rest of each chunk one unit
    /// per power of two in it.
    /// </summary>
    private ulong Units(int blocks)
    {
        ulong In(int run) => (ulong)((run / _unitBlocks) + BitOperations.PopCount((uint)(run % _unitBlocks)));
        return ((ulong)(blocks / _chunkBlocks) * In(_chunkBlocks)) + In(blocks % _chunkBlocks);
    }

    private void CheckBlocks(string op, uint newBlock, int count, ulong ops)
    {
        CheckUsable();
        if (count < 0)
            throw CowWriterOptions.Misuse(
                $"{_output.Name}: {op} of block {newBlock}: the number of blocks is {count}, must be 0 or more");
        // The end may be 2^32, which does not fit 32 bits.
        ulong end = newBlock + (ulong)count, limit = _maxBlocks ?? (1UL << 32);
        if (count > 0 && end > limit)
            throw CowWriterOptions.Misuse(
                $"{_output.Name}: {op} of block {newBlock}: {count} blocks reach beyond the limit of {limit} blocks");
        if (ops > _writer.OpCountMax - _opCount)
            throw CowWriterOptions.Misuse(
                $"{_output.Name}: {op} of block {newBlock}: {ops} more ops do not fit: {_opCount} of {_writer.OpCountMax} are taken");
    }

    private void CheckUsable()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (_stop is { Requested: true }) throw new SnapuserdException(ExitCode.Interrupted, OpPipeline.StoppedSentence);
        if (_failed)
            throw new SnapuserdException(ExitCode.InputOutput,
                $"{_output.Name}: an earlier write failed, so the file cannot be continued");
    }

    /// <summary>Marks the writer as failed until <see cref="End"/>, so that a failure in between is permanent.</summary>
    private void Begin()
    {
        CheckUsable();
        _sequenceAllowed = false;
        _failed = true;
    }

    private void End() => _failed = false;
}
