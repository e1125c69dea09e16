using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Cow;

/// <summary>
/// A COW file, completely read and checked: header, data ops in file order, merge order. It holds 32 bytes per op outside the managed
/// heap and no payload. Immutable until it is disposed, so any thread may read it.
/// </summary>
public sealed class CowFile : IDisposable
{
    /// <summary>Bytes kept per data op: the packed op, its entry in the block index, its position in the merge order.</summary>
    public const int BytesPerOp = PackedOp.Bytes + sizeof(ulong) + sizeof(int);

    private readonly MappedMemory _memory;
    private readonly CowTally _tally;

    private CowFile(IByteSource source, CowHeader header, MappedMemory memory, CowTally tally)
    {
        Name = source.Name;
        Length = source.Length;
        Header = header;
        _memory = memory;
        _tally = tally;
        Order = MergeOrder.Build(this);
    }

    /// <summary>
    /// Reads <paramref name="source"/> and checks header, every op, every offset, the counts and the sequence list. It does not check how
    /// ops affect one another (<see cref="MergeOrder.Check"/>) or whether the devices are long enough (<see cref="CheckDevices"/>). Exit
    /// code 65 for an invalid file, with a message that names file, op, field and value; 71 without memory; 74 if the file cannot be read.
    /// </summary>
    public static CowFile Read(IByteSource source)
    {
        CowHeader header = CowHeader.Parse(source);
        MappedMemory? memory = null;
        try
        {
            CowTally tally;
            if (header.Major == 3)
            {
                // Both counts were checked against the file size, so a hostile file cannot request more memory than twice its own size.
                int count = FitInt(source, header.OpCount), listed = FitInt(source, header.SequenceCount);
                memory = Allocate(source, count);
                tally = new OpReaderV3(source, header).Walk(OpsIn(memory, count), OrderIn(memory, count)[..listed]);
            }
            else
            {
                var reader = new OpReaderV2(source, header);
                CowTally counted = reader.Walk(default, default);
                if (counted.Sequence > counted.Ops)
                    throw new SnapuserdException(ExitCode.CowCorrupt,
                        $"{source.Name}: the sequence list has {counted.Sequence} entries, but there are only {counted.Ops} data ops");
                memory = Allocate(source, counted.Ops);
                tally =
                    counted.Ops == 0 ? counted : reader.Walk(OpsIn(memory, counted.Ops), OrderIn(memory, counted.Ops)[..counted.Sequence]);
                if (tally.Ops != counted.Ops || tally.Sequence != counted.Sequence)
                    throw new SnapuserdException(ExitCode.CowCorrupt, $"{source.Name}: the file changed while it was read");
            }
            var file = new CowFile(source, header, memory, tally);
            if (header.NumMergeOps > (ulong)file.Order.Count)
                throw new SnapuserdException(ExitCode.CowCorrupt,
                    $"{source.Name}: header: num_merge_ops is {header.NumMergeOps}, but the merge order has only {file.Order.Count} ops");
            return file;
        }
        catch
        {
            memory?.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Passes every record of a v1 or v2 file to <paramref name="seen"/>, in file order, including Label, Cluster, Sequence and Footer.
    /// Exit code 65 at the first invalid record. Does nothing for v3, which has an array of ops instead of records.
    /// </summary>
    public static void WalkRecords(IByteSource source, CowHeader header, Action<CowRecord> seen)
    {
        if (header.Major < 3) _ = new OpReaderV2(source, header) { Seen = seen }.Walk(default, default);
    }

    /// <summary>
    /// True if the first op of the merge order is a Copy or Xor. This also works for a file that is damaged after this op; false then means
    /// no or unknown. Exit code 74 if the device fails.
    /// </summary>
    public static bool StartsOrdered(IByteSource source, CowHeader header)
    {
        bool listed = false, ordered = false;
        CowRecord? last = null;
        try
        {
            if (header.Major == 3) return new OpReaderV3(source, header).StartsOrdered();
            // Without a sequence list all Copy and Xor ops come first. A record counts once the next one is read, because it is checked in
            // between.
            WalkRecords(source, header, record =>
            {
                ordered |= last is { Type: CowOpType.Copy or CowOpType.Xor };
                listed |= record.Type == CowOpType.Sequence;
                last = record;
            });
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.CowCorrupt)
        {
        }
        return ordered && !listed;
    }

    /// <summary>The header as read from disk.</summary>
    public CowHeader Header { get; }
    /// <summary>Name of the file in messages.</summary>
    public string Name { get; }
    /// <summary>Length of the file or device in bytes; a device is longer than its content.</summary>
    public long Length { get; }
    /// <summary>The algorithm of all payloads that are not raw.</summary>
    public CowCompression Compression => _tally.Compression;
    /// <summary>Bytes of the largest unit in the file; at least one block, at most 256 KiB.</summary>
    public int MaxUnitBytes => _tally.MaxBlocks * CowOp.BlockSize;
    /// <summary>
    /// Bytes of the longest stored payload in the file. In v2 it may be longer than its unit, up to 65535 bytes; never in v3.
    /// </summary>
    public int MaxStoredBytes => _tally.MaxStored;
    /// <summary>Data ops: Copy, Replace, Zero and Xor.</summary>
    public int OpCount => _tally.Ops;
    /// <summary>Copy ops.</summary>
    public int CopyCount => _tally.Copy;
    /// <summary>Replace ops.</summary>
    public int ReplaceCount => _tally.Replace;
    /// <summary>Blocks of all Replace ops.</summary>
    public long ReplaceBlocks => _tally.ReplaceBlocks;
    /// <summary>Zero ops.</summary>
    public int ZeroCount => _tally.Zero;
    /// <summary>Xor ops.</summary>
    public int XorCount => _tally.Xor;
    /// <summary>Label ops, or in v3 the valid resume points.</summary>
    public int LabelCount => _tally.Labels;
    /// <summary>The last label, null if there is none.</summary>
    public ulong? LastLabel => _tally.LastLabel;
    /// <summary>Cluster ops.</summary>
    public int ClusterCount => _tally.Clusters;
    /// <summary>Sequence ops; 0 in v3.</summary>
    public int SequenceOpCount => _tally.SequenceOps;
    /// <summary>Entries of the sequence list.</summary>
    public int SequenceCount => _tally.Sequence;
    /// <summary>v3: the valid resume points (cow-format §8.2).</summary>
    public IReadOnlyList<ResumePoint> ResumePoints => _tally.ResumePoints;
    /// <summary>Minimum length of the base in bytes: the end of the last block written.</summary>
    public long BaseBytes => _tally.WriteEnd;
    /// <summary>Minimum length of the source in bytes: the end of the last byte that an ordered op reads.</summary>
    public long SourceBytes => _tally.ReadEnd;
    /// <summary>The order in which the ops are merged.</summary>
    public MergeOrder Order { get; }

    /// <summary>Data op <paramref name="index"/> in file order.</summary>
    public CowOp this[int index]
    {
        get
        {
            CowOp op = Ops[index].Unpack();
            // A span does not keep its memory mapped; the finalizer must not run before the read.
            GC.KeepAlive(_memory);
            return op;
        }
    }

    /// <summary>True if the payload of <paramref name="op"/> is stored raw (cow-format §7.1).</summary>
    public bool IsRaw(in CowOp op) => Compression switch
    {
        CowCompression.None => true,
        // In v2, even a payload of exactly one block is compressed.
        CowCompression.Gz or CowCompression.Brotli => Header.Major == 3 && op.DataLength == op.UnitBytes,
        _ => op.DataLength == op.UnitBytes,
    };

    /// <summary>The algorithm for <see cref="UnitDecoder.Decode"/>: None for a raw payload.</summary>
    public CowCompression AlgorithmOf(in CowOp op) => IsRaw(op) ? CowCompression.None : Compression;

    /// <summary>
    /// Checks that every block written lies inside a base of <paramref name="baseBytes"/> and every byte read inside a source of
    /// <paramref name="sourceBytes"/>; exit code 65 if not.
    /// </summary>
    public void CheckDevices(long baseBytes, long sourceBytes)
    {
        if (_tally.WriteEnd > baseBytes)
        {
            throw new SnapuserdException(
                ExitCode.CowCorrupt,
                $"{Name}: base too small: {Describe(_tally.FurthestWrite)} ends at byte {_tally.WriteEnd}, but the base has only "
                + $"{baseBytes}; is it the right partition?");
        }
        if (_tally.ReadEnd > sourceBytes)
        {
            throw new SnapuserdException(
                ExitCode.CowCorrupt,
                $"{Name}: source too small: {Describe(_tally.FurthestRead)} reads up to byte {_tally.ReadEnd}, but the source has only "
                + $"{sourceBytes}; is it the right partition?");
        }
    }

    /// <summary>The name of an op in messages: "op 12 (Copy of block 50)".</summary>
    public string Describe(int index)
    {
        CowOp op = this[index];
        return $"op {index} ({op.Type} of block {op.NewBlock})";
    }

    /// <summary>Frees the memory.</summary>
    public void Dispose() => _memory.Dispose();

    internal Span<PackedOp> Ops => OpsIn(_memory, OpCount);
    internal Span<ulong> BlockIndex => IndexIn(_memory, OpCount);
    internal Span<int> OrderSlots => OrderIn(_memory, OpCount);
    internal OrderRule Rule => _tally.Rule;

    // The index comes first because its entries must be aligned to 8 bytes. Ops and order follow; both need an alignment of 4.
    private static Span<ulong> IndexIn(MappedMemory memory, int count) => memory.Span<ulong>(0, count);
    private static Span<PackedOp> OpsIn(MappedMemory memory, int count) => memory.Span<PackedOp>(8 * (nint)count, count);
    private static Span<int> OrderIn(MappedMemory memory, int count) => memory.Span<int>((8 + PackedOp.Bytes) * (nint)count, count);

    private static int FitInt(IByteSource source, ulong count) => count <= int.MaxValue
        ? (int)count
        : throw new SnapuserdException(ExitCode.CowCorrupt,
            $"{source.Name}: header: a count is {count}, more than the {int.MaxValue} this program takes");

    private static MappedMemory Allocate(IByteSource source, int count)
    {
        int result = MappedMemory.Map(Math.Max(1, BytesPerOp * (nint)count), out MappedMemory? memory);
        return result == 0
            ? memory!
            : throw new SnapuserdException(ExitCode.OutOfResources,
                $"{source.Name}: cannot get {BytesPerOp * (long)count} bytes for {count} ops: {ErrnoText.Of(result)}");
    }
}
