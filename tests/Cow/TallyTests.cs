using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>Totals of a file (counts, ends, lengths), compared with the calls that made the file.</summary>
public sealed class TallyTests
{
    private static CowBuilder Any(Random random)
    {
        int version = random.Next(1, 4);
        CowBuilder cow = new()
        {
            Version = version,
            Compression = new[] { CowCompression.None, CowCompression.Lz4, CowCompression.Gz, CowCompression.Zstd }[random.Next(4)],
            ClusterOps = version == 3 ? 0 : random.Next(2, 7),
            ScratchBytes = 4096 * random.Next(3),
            MaxUnitBytes = 32768,
            OpCountMaxSlack = random.Next(4),
        };
        uint block = (uint)random.Next(50);
        List<uint> listed = [];
        for (int i = random.Next(1, 25); i > 0; i--)
        {
            byte[] unit = new byte[4096 << (version == 3 ? random.Next(4) : 0)];
            random.NextBytes(unit.AsSpan(0, random.Next(unit.Length + 1)));
            listed.Add(block);
            switch (random.Next(5))
            {
                case 0: cow.Copy(block, (ulong)random.Next(1000)); break;
                case 1: cow.Xor(block, (ulong)random.Next(4096 * 1000), unit.AsSpan(0, 4096)); break;
                case 2: cow.Zero(block); break;
                case 3: cow.Label((ulong)(100 - i)); listed.RemoveAt(listed.Count - 1); break;
                default: cow.Replace(block, unit); block += (uint)(unit.Length / 4096) - 1; break;
            }
            block += (uint)random.Next(1, 9);
        }
        if (random.Next(3) > 0 || listed.Count == 0) return cow;
        CowBuilder ordered = new()
        {
            Version = version,
            Compression = cow.Compression,
            ClusterOps = cow.ClusterOps,
            ScratchBytes = cow.ScratchBytes,
            MaxUnitBytes = cow.MaxUnitBytes,
            OpCountMaxSlack = cow.OpCountMaxSlack,
        };
        ordered.Sequence([.. listed.Take(random.Next(1, listed.Count + 1))]);
        foreach (BuiltOp op in cow.Ops) ordered.Add(op);
        return ordered;
    }

    [Fact]
    public void Totals_of_a_random_file_match_the_calls_that_made_it()
    {
        for (int seed = 0; seed < 400; seed++)
        {
            CowBuilder builder = Any(new Random(seed));
            byte[] file = builder.Build();
            using CowFile cow = CowFile.Read(new MemorySource(file, Refusal.Name));
            BuiltOp[] ops = [.. builder.Ops.Where(op => op.Type is not (CowOpType.Label or CowOpType.Sequence))];
            ulong[] labels = [.. builder.Ops.Where(op => op.Type == CowOpType.Label).Select(op => op.Source)];
            int Count(CowOpType type) => ops.Count(op => op.Type == type);
            int Blocks(BuiltOp op) => op.Type == CowOpType.Replace ? op.Plain!.Length / 4096 : 1;
            long WriteEnd(BuiltOp op) => (op.NewBlock + (long)Blocks(op)) * 4096;
            long ReadEnd(BuiltOp op) => op.Type == CowOpType.Copy ? ((long)op.Source + 1) * 4096
                : op.Type == CowOpType.Xor ? (long)op.Source + 4096 : 0;
            bool version3 = builder.Version == 3;
            (int, int, int, int, int) expected = (ops.Length, Count(CowOpType.Copy), Count(CowOpType.Replace), Count(CowOpType.Zero),
                Count(CowOpType.Xor));
            Assert.Equal((seed, expected), (seed, (cow.OpCount, cow.CopyCount, cow.ReplaceCount, cow.ZeroCount, cow.XorCount)));
            Assert.Equal((seed, ops.Where(op => op.Type == CowOpType.Replace).Sum(Blocks)), (seed, (int)cow.ReplaceBlocks));
            Assert.Equal((seed, ops.Select(Blocks).Append(1).Max() * 4096), (seed, cow.MaxUnitBytes));
            Assert.Equal((seed, ops.Select(WriteEnd).Append(0).Max(), ops.Select(ReadEnd).Append(0).Max()),
                (seed, cow.BaseBytes, cow.SourceBytes));
            Assert.Equal((seed, version3 ? Math.Min(4, labels.Length) : labels.Length, labels.Length == 0 ? null : (ulong?)labels[^1]),
                (seed, cow.LabelCount, cow.LastLabel));
            uint[] list = [.. builder.Ops.Where(op => op.Type == CowOpType.Sequence).SelectMany(op => op.Blocks!)];
            Assert.Equal((seed, list.Length, !version3 && list.Length > 0 ? 1 : 0), (seed, cow.SequenceCount, cow.SequenceOpCount));
            bool payloads = ops.Any(op => op.Plain != null);
            Assert.Equal((seed, version3 || payloads ? builder.Compression : CowCompression.None), (seed, cow.Compression));
            Assert.Equal(file.Length, cow.Length);
            for (int i = 0; i < ops.Length; i++)
                if (cow[i].HasData) Assert.Equal(ops[i].Plain, AndroidFiles.Unit(cow, file, i));
            Assert.Equal(Enumerable.Range(0, ops.Length).Select(i => cow[i].DataLength).Append(0).Max(), cow.MaxStoredBytes);

            // The required device sizes are exact. If a device is one byte smaller, the message names the first op that needs the byte.
            cow.CheckDevices(cow.BaseBytes, cow.SourceBytes);
            if (ops.Length > 0)
            {
                int furthest = Array.FindIndex(ops, op => WriteEnd(op) == cow.BaseBytes);
                Assert.Contains(
                    $"base too small: op {furthest} ({ops[furthest].Type} of block {ops[furthest].NewBlock}) ends at byte {cow.BaseBytes}, "
                    + $"but the base has only {cow.BaseBytes - 1}",
                    Refusal.Of(() => cow.CheckDevices(cow.BaseBytes - 1, cow.SourceBytes)), StringComparison.Ordinal);
            }
            if (cow.SourceBytes > 0)
            {
                int furthest = Array.FindIndex(ops, op => ReadEnd(op) == cow.SourceBytes);
                Assert.Contains(
                    $"source too small: op {furthest} ({ops[furthest].Type} of block {ops[furthest].NewBlock}) reads up to byte "
                    + $"{cow.SourceBytes}, but the source has only {cow.SourceBytes - 1}",
                    Refusal.Of(() => cow.CheckDevices(cow.BaseBytes, cow.SourceBytes - 1)), StringComparison.Ordinal);
            }

            List<CowRecord> records = [];
            CowFile.WalkRecords(new MemorySource(file), cow.Header, records.Add);
            if (version3)
            {
                Assert.Empty(records);
                continue;
            }
            Assert.Equal(builder.OpOffsets, records.Select(record => record.Position));
            Assert.Equal(cow.ClusterCount, records.Count(record => record.Type == CowOpType.Cluster));
            for (int i = 0; i < records.Count; i++)
            {
                ReadOnlySpan<byte> at = file.AsSpan((int)records[i].Position, 20);
                Assert.Equal(
                    new CowRecord(
                        records[i].Position, (CowOpType)at[0], at[1], BinaryPrimitives.ReadUInt16LittleEndian(at[2..]),
                        BinaryPrimitives.ReadUInt64LittleEndian(at[4..]),
                        BinaryPrimitives.ReadUInt64LittleEndian(at[12..]), builder.DataOffsets[i]),
                    records[i]);
            }
        }
    }

    /// <summary>A file of any length that is zero except for some bytes.</summary>
    private sealed class Sparse(long length) : IByteSource
    {
        private readonly List<(long Offset, byte[] Bytes)> _parts = [];

        public string Name => Refusal.Name;

        public long Length => length;

        public void Put(long offset, byte[] bytes) => _parts.Add((offset, bytes));

        public void Read(long offset, Span<byte> destination)
        {
            destination.Clear();
            foreach ((long start, byte[] bytes) in _parts)
            {
                long from = Math.Max(start, offset), to = Math.Min(start + bytes.Length, offset + destination.Length);
                if (from < to) bytes.AsSpan((int)(from - start), (int)(to - from)).CopyTo(destination[(int)(from - offset)..]);
            }
        }
    }

    [Theory]
    [InlineData(1L << 48, (1L << 48) - 1, true)]
    [InlineData((1L << 48) + 10_000, (1L << 48) - 1, true)]
    [InlineData((1L << 48) + 10_000, 1L << 48, false)]
    [InlineData((1L << 48) + 10_000, (1L << 48) + 10_000 - 40, false)]
    [InlineData(1_000_000, 1_000_000 - 41, true)]
    [InlineData(1_000_000, 1_000_000 - 40, false)]
    public void Payload_must_lie_inside_the_file_and_begin_below_2_to_the_48(long length, long offset, bool taken)
    {
        // A gz payload of 41 bytes. This test does not decode it.
        CowBuilder builder = new CowBuilder { Version = 2, ScratchBytes = 0, ClusterOps = 8, Compression = CowCompression.Gz }.Replace(5,
            AndroidFiles.M);
        byte[] file = builder.Build();
        Refusal.Put(file, builder.OpOffsets[0] + 12, 8, (ulong)offset);
        // 41 bytes at the last offset that 48 bits can hold reach beyond 2^48.
        long room = offset == (1L << 48) - 1 && length == 1L << 48 ? length + 40 : length;
        Sparse source = new(room);
        source.Put(0, file);
        if (!taken)
        {
            Assert.Contains($"op 0 (Replace of block 5): source is {offset}, so 41 bytes of data reach beyond the file of {room}",
                Refusal.Of(() => CowFile.Read(source).Dispose()), StringComparison.Ordinal);
            return;
        }
        using CowFile cow = CowFile.Read(source);
        Assert.Equal(offset, cow[0].DataOffset);
    }

    [Theory]
    [InlineData(0, true)]
    [InlineData(1, false)]
    public void Data_of_version_3_must_begin_below_2_to_the_48(uint beyond, bool taken)
    {
        // The length fields of ops without data count towards the offset of the next payload.
        const int Copies = 65536;
        CowBuilder builder = new() { ScratchBytes = 0, Compression = CowCompression.Gz };
        for (uint i = 0; i <= Copies; i++) builder.Copy(i, i + 1_000_000);
        builder.Replace(Copies + 10, AndroidFiles.M);
        byte[] file = builder.Build();
        long place = builder.DataOffsets[Copies + 1];
        for (int i = 0; i <= Copies && place < (1L << 48) - 1 + beyond; i++)
        {
            uint length = (uint)Math.Min(uint.MaxValue, (1L << 48) - 1 + beyond - place);
            Refusal.Put(file, builder.OpOffsets[i], 4, length);
            place += length;
        }
        Refusal.Put(file, builder.OpOffsets[Copies + 1] + 8, 6, (ulong)place);
        Sparse source = new((1L << 48) + 1000);
        source.Put(0, file);
        if (taken)
        {
            using CowFile cow = CowFile.Read(source);
            Assert.Equal((1L << 48) - 1, cow[Copies + 1].DataOffset);
            return;
        }
        string why = Refusal.Of(() => CowFile.Read(source).Dispose());
        Assert.Contains($"op {Copies + 1} (Replace of block {Copies + 10}): source is 0, but its data must follow", why,
            StringComparison.Ordinal);
    }

    /// <summary>A v2 file with the given records, in clusters of 4, without scratch.</summary>
    private static byte[] Records(params (CowOpType Type, uint Block, ulong Source)[] records)
    {
        byte[] file = new byte[38 + (records.Length * 20) + 400];
        new CowBuilder { Version = 2, ScratchBytes = 0, ClusterOps = 4 }.Build().AsSpan(0, 38).CopyTo(file);
        int at = 38, count = 0;
        foreach ((CowOpType type, uint block, ulong source) in records)
        {
            file[at] = (byte)type;
            Refusal.Put(file, at + 4, 8, block);
            Refusal.Put(file, at + 12, 8, source);
            count++;
            at += 20 + (type == CowOpType.Cluster ? (int)source : 0);
        }
        file[at] = (byte)CowOpType.Footer;
        Refusal.Put(file, at + 2, 2, 64);
        Refusal.Put(file, at + 4, 8, (ulong)count * 20);
        Refusal.Put(file, at + 12, 8, (ulong)count);
        return file[..(at + 84)];
    }

    [Fact]
    public void Writer_reopens_only_a_cluster_that_was_closed_early_for_the_footer()
    {
        CowWriterOptions options = new() { Version = 2, ClusterOps = 4 };
        (CowOpType, uint, ulong)[] closed = [(CowOpType.Zero, 1, 0), (CowOpType.Cluster, 0, 40)];
        (CowOpType, uint, ulong)[][] files =
        [
            closed,
            [.. closed, (CowOpType.Zero, 2, 0)],
            [.. closed, (CowOpType.Label, 0, 7)],
            [.. closed, (CowOpType.Zero, 2, 0), (CowOpType.Zero, 3, 0), (CowOpType.Zero, 4, 0), (CowOpType.Cluster, 0, 0)],
        ];
        foreach ((CowOpType Type, uint Block, ulong)[] records in files)
        {
            MemoryOutput output = new(Records(records));
            using (CowWriter writer = CowWriter.Reopen(output, options))
            {
                writer.Zero(10, 5);
                writer.Finish();
            }
            using CowFile cow = CowFile.Read(new MemorySource(output.Bytes));
            uint[] before = [.. records.Where(record => record.Type == CowOpType.Zero).Select(record => record.Block)];
            Assert.Equal([.. before, 10u, 11u, 12u, 13u, 14u], Enumerable.Range(0, cow.OpCount).Select(i => cow[i].NewBlock));
            Assert.Equal(records.Any(record => record.Type == CowOpType.Label) ? 7ul : null, cow.LastLabel);
        }
    }

    [Fact]
    public void Truncated_label_is_reported_as_missing()
    {
        foreach (int cluster in new[] { 0, 4 })
        {
            CowBuilder builder = new CowBuilder { Version = 2, ScratchBytes = 0, ClusterOps = cluster, Footer = false }.Zero(1).Label(3);
            byte[] file = builder.Build();
            int label = (int)builder.OpOffsets[1];
            for (int length = label; length < label + 20; length++)
            {
                string name = new MemoryOutput().Name;
                Refusal.With(
                    ExitCode.CowCorrupt,
                    $"{name}: cannot continue at label 3: the ops end at byte {label} of {length}, and none of them is this label",
                    () => CowWriter.OpenAt(new MemoryOutput(file[..length]), 3, new CowWriterOptions { Version = 2 }));
                Assert.Contains($"the footer is missing: the ops end at byte {label} of {length}", Refusal.Of(file[..length]),
                    StringComparison.Ordinal);
            }
            using CowWriter writer = CowWriter.OpenAt(new MemoryOutput(file), 3, new CowWriterOptions { Version = 2 });
            Assert.Equal(1, writer.OpCount);
        }
    }

    [Fact]
    public void Stale_resume_slot_stays_invalid_after_a_new_label()
    {
        // Slots of labels 5, 3 and 20, and a count of three. The second label does not ascend, so only the first slot is valid.
        CowBuilder builder = new CowBuilder { ScratchBytes = 0, MaxUnitBytes = 4096, OpCountMaxSlack = 9 }.Zero(1).Label(5).Zero(2).Label(8)
            .Zero(3).Label(20);
        byte[] file = builder.Build();
        Refusal.Put(file, 78 + 16, 8, 3);
        CowWriterOptions options = new() { ScratchBytes = 0 };
        MemoryOutput output = new(file);
        using (CowWriter writer = CowWriter.Reopen(output, options)) writer.Label(9);
        MemoryOutput state = new(file);
        HashSet<string> seen = [];
        foreach (MemoryOutput.Step step in output.Steps.Prepend(default))
        {
            state.Do(step);
            using CowFile cow = CowFile.Read(new MemorySource(state.Bytes));
            seen.Add(string.Join(' ', cow.ResumePoints.Select(point => $"{point.Label}:{point.OpIndex}")));
        }
        Assert.Equal(["5:1", "5:1 9:3"], seen);
    }
}
