using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>The writer's part of AOSP's test_v2.cpp (test-catalog §1), and cases that it does not cover.</summary>
public sealed class WriterV2Tests
{
    private static readonly byte[] s_t = AndroidFiles.T;
    private static readonly byte[] s_m = AndroidFiles.M;
    private static readonly CowWriterOptions s_plain = new() { Version = 2, ClusterOps = 0 };

    /// <summary>A record of the file.</summary>
    private readonly record struct Record(CowOpType Type, int DataLength, ulong NewBlock, ulong Source);

    /// <summary>The records of a v2 file from the first op to the footer, read by the rules of the format.</summary>
    private static List<Record> Records(byte[] file)
    {
        var records = new List<Record>();
        bool clustered = BinaryPrimitives.ReadUInt32LittleEndian(file.AsSpan(22)) != 0;
        for (int at = 38 + BinaryPrimitives.ReadInt32LittleEndian(file.AsSpan(34)); ;)
        {
            var record = new Record(
                (CowOpType)file[at],
                BinaryPrimitives.ReadUInt16LittleEndian(file.AsSpan(at + 2)),
                BinaryPrimitives.ReadUInt64LittleEndian(file.AsSpan(at + 4)),
                BinaryPrimitives.ReadUInt64LittleEndian(file.AsSpan(at + 12)));
            records.Add(record);
            if (record.Type == CowOpType.Footer) return records;
            at += 20;
            if (record.Type == CowOpType.Cluster) at += (int)record.Source;
            else if (!clustered && record.Type is CowOpType.Replace or CowOpType.Xor) at += record.DataLength;
        }
    }

    /// <summary>One letter per record without the footer: C is a Cluster op, P a Copy.</summary>
    private static string Types(byte[] file) => string.Concat(Records(file).SkipLast(1).Select(record => record.Type switch
    {
        CowOpType.Copy => 'P',
        CowOpType.Replace => 'R',
        CowOpType.Zero => 'Z',
        CowOpType.Label => 'L',
        CowOpType.Cluster => 'C',
        CowOpType.Xor => 'X',
        _ => 'S',
    }));

    private static byte[] Noise(int blocks, int seed)
    {
        byte[] bytes = new byte[blocks * 4096];
        new Random(seed).NextBytes(bytes);
        return bytes;
    }

    private static byte[] Filled(int value) => Enumerable.Repeat((byte)value, 4096).ToArray();

    private static CowFile Read(MemoryOutput output) => CowFile.Read(new MemorySource(output.Bytes));

    private static byte[] Write(CowWriterOptions options, Action<CowWriter> calls)
    {
        var output = new MemoryOutput();
        using var writer = CowWriter.Create(output, options);
        calls(writer);
        writer.Finish();
        Assert.Equal(output.Length, writer.Size);
        return output.Bytes;
    }

    [Fact]
    public void Hundred_copies_of_one_call_are_a_hundred_ops()
    {
        byte[] file = Write(s_plain, writer => writer.Copy(10, 1000, 100));
        List<Record> records = Records(file);
        Assert.Equal(101, records.Count);
        for (int i = 0; i < 100; i++) Assert.Equal(new Record(CowOpType.Copy, 0, 10 + (ulong)i, 1000 + (ulong)i), records[i]);
        Assert.Equal(new Record(CowOpType.Footer, 64, 2000, 100), records[100]);
    }

    [Fact]
    public void Copy_replace_and_zeros_lie_in_the_order_of_the_calls()
    {
        byte[] file = Write(s_plain, writer =>
        {
            writer.Copy(10, 20);
            writer.Replace(50, s_t);
            writer.Zero(51, 2);
        });
        Assert.Equal("PRZZ", Types(file));
        Assert.Equal(4096, Records(file)[1].DataLength);
        Assert.Equal(new Record(CowOpType.Zero, 0, 52, 0), Records(file)[3]);
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal(s_t, AndroidFiles.Unit(cow, file, 1));
    }

    [Fact]
    public void Xor_keeps_its_byte_offset_and_payload()
    {
        byte[] file = Write(s_plain, writer => writer.Xor(50, (24 * 4096) + 10, s_m.Concat(s_t).ToArray()));
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal([98314L, 98314 + 4096], new[] { cow[0].Source, cow[1].Source });
        Assert.Equal(51u, cow[1].NewBlock);
        Assert.Equal(s_m, AndroidFiles.Unit(cow, file, 0));
        Assert.Equal(s_t, AndroidFiles.Unit(cow, file, 1));
    }

    [Fact]
    public void Text_block_is_56_bytes_of_gz_and_the_second_block_of_a_call_is_an_op_of_its_own()
    {
        byte[] file = Write(s_plain with { Compression = CowCompression.Gz }, writer => writer.Replace(50, s_t.Concat(s_m).ToArray()));
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal([56, 41], new[] { cow[0].DataLength, cow[1].DataLength });
        Assert.Equal(51u, cow[1].NewBlock);
        Assert.Equal(s_m, AndroidFiles.Unit(cow, file, 1));
    }

    [Theory]
    [InlineData("none", 2, 1024)]
    [InlineData("gz", 2, 1024)]
    [InlineData("brotli,4", 2, 1024)]
    [InlineData("lz4", 2, 1024)]
    [InlineData("none", 1, 0)]
    [InlineData("gz", 1, 0)]
    [InlineData("brotli,4", 1, 0)]
    [InlineData("lz4", 1, 0)]
    public void Long_runs_are_read_back_with_any_threads_and_clusters(string compression, int threads, int cluster)
    {
        // AOSP's ThreadedBatchWrites and NoBatchWrites. This test compares all blocks, not only the first of each run.
        (CowCompression algorithm, int? level) = CowWriterOptions.ParseCompression(compression);
        byte[] first = Noise(2048, 1), second = Noise(259, 2), xor = Noise(1, 3);
        for (int i = 0; i < first.Length; i += 3) first[i] = 0;
        byte[] file = Write(
            s_plain with { Compression = algorithm, Level = level, Threads = threads, ClusterOps = cluster, BatchBytes = 1 }, writer =>
            {
                writer.Xor(50, 98314, xor);
                writer.Replace(100, first);
                writer.Replace(5000, second);
                writer.Replace(9000, s_t);
            });
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal(2309, cow.OpCount);
        Assert.Equal(xor, AndroidFiles.Unit(cow, file, 0));
        for (int i = 0; i < 2048; i++)
            Assert.True(first.AsSpan(i * 4096, 4096).SequenceEqual(AndroidFiles.Unit(cow, file, 1 + i)), $"block {i}");
        for (int i = 0; i < 259; i++)
            Assert.True(second.AsSpan(i * 4096, 4096).SequenceEqual(AndroidFiles.Unit(cow, file, 2049 + i)),
                $"block {i} of the second run");
        Assert.Equal(s_t, AndroidFiles.Unit(cow, file, 2308));
    }

    [Fact]
    public void Clusters_of_two_hold_one_op_each()
    {
        byte[] file = Write(s_plain with { Compression = CowCompression.Gz, ClusterOps = 2 }, writer =>
        {
            writer.Replace(50, s_t);
            writer.Replace(51, s_m);
        });
        Assert.Equal("RCRC", Types(file));
        Assert.Equal([56, 0, 41, 0], Records(file).SkipLast(1).Select(record => record.DataLength));
    }

    [Fact]
    public void Size_is_the_length_of_the_file_before_and_after_the_finish()
    {
        foreach (int cluster in new[] { 0, 2, 3, 4, 1024 })
        {
            foreach (Action<CowWriter> last in new Action<CowWriter>[]
            {
                writer => writer.Zero(51, 2), writer => writer.Replace(60, s_t), writer => writer.Label(3),
            })
            {
                var output = new MemoryOutput();
                using var writer = CowWriter.Create(output, s_plain with { ClusterOps = cluster });
                writer.Copy(10, 20);
                writer.Replace(50, s_t);
                last(writer);
                long before = writer.Size;
                writer.Finish();
                Assert.Equal(before, writer.Size);
                Assert.Equal(before, output.Length);
            }
        }
    }

    [Theory]
    [InlineData(0, false)]
    [InlineData(0, true)]
    [InlineData(4, false)]
    [InlineData(4, true)]
    [InlineData(8, true)]
    public void Ops_after_a_label_are_durably_dropped_before_new_ones_are_written(int cluster, bool device)
    {
        CowWriterOptions options = s_plain with { ClusterOps = cluster };
        long? capacity = device ? 4 << 20 : null;
        MemoryOutput output = new(null, capacity);
        using (var writer = CowWriter.Create(output, options))
        {
            for (ulong label = 1; label <= 3; label++)
            {
                writer.Replace((uint)label, s_t);
                writer.Label(label);
            }
            writer.Finish();
        }
        MemoryOutput again = new(output.Bytes, capacity);
        using (var writer = CowWriter.OpenAt(again, 1, options)) Assert.Equal(1, writer.OpCount);
        // Only writes up to the last flush are certain to survive a power cut.
        MemoryOutput kept = new(output.Bytes, capacity);
        int flushes = again.Steps.Count(step => step.IsFlush);
        Assert.True(flushes > 0);
        foreach (MemoryOutput.Step step in again.Steps)
        {
            if (flushes == 0) break;
            kept.Do(step);
            if (step.IsFlush) flushes--;
        }
        foreach (ulong label in new ulong[] { 2, 3 })
            Assert.Equal(ExitCode.CowCorrupt,
                Assert.ThrowsAny<SnapuserdException>(() => CowWriter.OpenAt(new MemoryOutput(kept.Bytes, capacity), label, options)).Code);
        using (var writer = CowWriter.OpenAt(kept, 1, options)) Assert.Equal(1, writer.OpCount);
    }

    [Fact]
    public void Writer_continues_at_a_label_of_a_finished_file()
    {
        // AOSP's AppendLabelSmall.
        var output = new MemoryOutput();
        using (var writer = CowWriter.Create(output, s_plain))
        {
            writer.Replace(50, s_t);
            writer.Label(3);
            writer.Finish();
        }
        using (var writer = CowWriter.OpenAt(output, 3, s_plain))
        {
            Assert.Equal(1, writer.OpCount);
            writer.Replace(51, s_m);
            writer.Finish();
            Assert.Equal(output.Length, writer.Size);
            Assert.Equal(2, writer.OpCount);
        }
        Assert.Equal("RLR", Types(output.Bytes));
        using CowFile cow = Read(output);
        Assert.Equal(3ul, cow.LastLabel);
        Assert.Equal(s_t, AndroidFiles.Unit(cow, output.Bytes, 0));
        Assert.Equal(s_m, AndroidFiles.Unit(cow, output.Bytes, 1));
    }

    [Fact]
    public void Truncated_label_is_refused_and_the_previous_one_works()
    {
        // AOSP's AppendLabelMissing.
        var output = new MemoryOutput();
        using (var writer = CowWriter.Create(output, s_plain))
        {
            writer.Label(0);
            writer.Replace(50, s_t);
            writer.Label(1);
        }
        output.Truncate(output.Length - 3);
        byte[] before = output.Bytes;
        Refusal.With(ExitCode.CowCorrupt, "cannot continue at label 1", () => CowWriter.OpenAt(output, 1, s_plain));
        Assert.Equal(before, output.Bytes);
        using (var writer = CowWriter.OpenAt(output, 0, s_plain))
        {
            writer.Zero(51);
            writer.Finish();
        }
        Assert.Equal("LZ", Types(output.Bytes));
    }

    [Fact]
    public void Ops_after_the_label_are_dropped()
    {
        // AOSP's AppendExtendedCorrupted.
        var output = new MemoryOutput();
        using (var writer = CowWriter.Create(output, s_plain))
        {
            writer.Label(5);
            writer.Replace(50, s_t);
            writer.Replace(51, s_m);
            writer.Label(6);
        }
        using (var writer = CowWriter.OpenAt(output, 5, s_plain)) writer.Finish();
        Assert.Equal("L", Types(output.Bytes));
        using CowFile cow = Read(output);
        Assert.Equal(5ul, cow.LastLabel);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    [InlineData(5)]
    [InlineData(1024)]
    public void Labels_are_found_in_clusters_of_any_size_and_earlier_ops_are_kept(int cluster)
    {
        // AOSP's AppendbyLabel and ClusterTest.
        CowWriterOptions options = s_plain with { ClusterOps = cluster };
        var output = new MemoryOutput();
        using (var writer = CowWriter.Create(output, options))
        {
            writer.Replace(50, s_t.Concat(s_m).ToArray());
            writer.Label(4);
            writer.Zero(50, 2);
            writer.Label(5);
            writer.Copy(5, 6);
            writer.Label(6);
        }
        byte[] unfinished = output.Bytes;
        Refusal.With(ExitCode.CowCorrupt, "label 12", () => CowWriter.OpenAt(output, 12, options));
        Assert.Equal(unfinished, output.Bytes);
        using (var writer = CowWriter.OpenAt(output, 5, options))
        {
            Assert.Equal(4, writer.OpCount);
            writer.Finish();
            Assert.Equal(output.Length, writer.Size);
        }
        Assert.Equal("RRLZZL", Types(output.Bytes).Replace("C", "", StringComparison.Ordinal));
        using CowFile cow = Read(output);
        Assert.Equal(5ul, cow.LastLabel);
        Assert.Equal(s_t, AndroidFiles.Unit(cow, output.Bytes, 0));
        Assert.Equal(s_m, AndroidFiles.Unit(cow, output.Bytes, 1));

        // The bytes after the label equal those of an uninterrupted writer.
        using (var writer = CowWriter.OpenAt(output, 4, options))
        {
            writer.Replace(60, s_m);
            writer.Zero(61);
            writer.Finish();
        }
        Assert.Equal(
            Write(options, writer =>
            {
                writer.Replace(50, s_t.Concat(s_m).ToArray());
                writer.Label(4);
                writer.Replace(60, s_m);
                writer.Zero(61);
            }),
            output.Bytes);
    }

    [Fact]
    public void Clusters_of_four_close_after_three_ops_and_the_last_without_data_stays_open()
    {
        byte[] file = Write(s_plain with { ClusterOps = 4 }, writer =>
        {
            writer.Replace(50, s_t);
            writer.Label(4);
            writer.Zero(51, 2);
            writer.Label(5);
            writer.Copy(5, 6);
            writer.Label(6);
        });
        Assert.Equal("RLZCZLPCL", Types(file));
    }

    [Fact]
    public void Cluster_continues_after_a_label()
    {
        // AOSP's ClusterAppendTest.
        CowWriterOptions options = s_plain with { ClusterOps = 3 };
        var output = new MemoryOutput();
        using (var writer = CowWriter.Create(output, options))
        {
            writer.Label(50);
            writer.Finish();
        }
        using (var writer = CowWriter.OpenAt(output, 50, options))
        {
            writer.Replace(51, s_t);
            writer.Finish();
            Assert.Equal(output.Length, writer.Size);
        }
        Assert.Equal("LRC", Types(output.Bytes));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(7)]
    [InlineData(1024)]
    public void After_a_finish_the_same_writer_or_another_can_add_ops(int cluster)
    {
        CowWriterOptions options = s_plain with { ClusterOps = cluster, Compression = CowCompression.Gz };
        Action<CowWriter>[] steps =
        [
            writer => writer.Replace(1, s_t),
            writer => writer.Zero(2, 3),
            writer => writer.Label(1),
            writer => writer.Xor(9, 5, s_m),
            writer => writer.Replace(20, Noise(3, 1)),
            writer => writer.Copy(30, 40),
        ];
        byte[] once = Write(options, writer =>
        {
            foreach (Action<CowWriter> step in steps) step(writer);
        });
        byte[] again = Write(options, writer =>
        {
            foreach (Action<CowWriter> step in steps)
            {
                writer.Finish();
                step(writer);
            }
        });
        Assert.Equal(once, again);

        var output = new MemoryOutput();
        CowWriter.Create(output, options).Dispose();
        Refusal.With(ExitCode.CowCorrupt, "footer", () => CowWriter.Reopen(output, options));
        using (var writer = CowWriter.Create(output, options)) writer.Finish();
        foreach (Action<CowWriter> step in steps)
        {
            using var writer = CowWriter.Reopen(output, options);
            step(writer);
            writer.Finish();
            Read(output).Dispose();
        }
        Assert.Equal(once, output.Bytes);
    }

    [Theory]
    [InlineData(7, 1, 2, "RRRLRRCRRRLC")]
    [InlineData(5, 5, 3, "RRRLCRRRRCRLC")]
    public void Resumed_clusters_are_those_of_an_uninterrupted_file(int cluster, int strays, int clusters, string types)
    {
        // AOSP's ResumeMidCluster and ResumeEndCluster, with leftover blocks after the label, once without a footer and once with one.
        CowWriterOptions options = s_plain with { ClusterOps = cluster };
        foreach (bool finished in new[] { false, true })
        {
            var output = new MemoryOutput();
            using (var writer = CowWriter.Create(output, options))
            {
                for (int i = 1; i <= 3; i++) writer.Replace((uint)i, Filled(i));
                writer.Label(1);
                writer.Finish();
                for (int i = 0; i < strays; i++) writer.Replace((uint)(4 + i), Filled(99));
                if (finished) writer.Finish();
                else writer.Label(77);
            }
            using (var writer = CowWriter.OpenAt(output, 1, options))
            {
                for (int i = 4; i <= 8; i++) writer.Replace((uint)i, Filled(i));
                writer.Label(2);
                writer.Finish();
                Assert.Equal(output.Length, writer.Size);
            }
            Assert.Equal(types, Types(output.Bytes));
            using CowFile cow = Read(output);
            Assert.Equal(clusters, cow.ClusterCount);
            Assert.Equal(8, cow.OpCount);
            for (int i = 0; i < 8; i++) Assert.Equal(Filled(i + 1), AndroidFiles.Unit(cow, output.Bytes, i));
        }
    }

    [Fact]
    public void Ops_dropped_in_the_middle_of_a_cluster_become_zeros()
    {
        // AOSP's DeleteMidCluster.
        CowWriterOptions options = s_plain with { ClusterOps = 7 };
        var output = new MemoryOutput();
        using (var writer = CowWriter.Create(output, options))
        {
            for (int i = 1; i <= 3; i++) writer.Replace((uint)i, Filled(i));
            writer.Label(1);
            writer.Finish();
            for (int i = 4; i <= 6; i++) writer.Replace((uint)i, Filled(i));
            writer.Label(2);
        }
        using (var writer = CowWriter.OpenAt(output, 1, options)) writer.Finish();
        Assert.Equal("RRRLC", Types(output.Bytes));
        Assert.True(output.Bytes.AsSpan(38 + (2 * 1024 * 1024) + 100, 40).IndexOfAnyExcept((byte)0) < 0);
    }

    [Fact]
    public void Long_sequence_takes_several_ops_and_orders_the_merge()
    {
        // AOSP's BigSeqOp.
        uint[] list = Enumerable.Range(1, 16384).Select(i => (uint)i).ToArray();
        byte[] file = Write(s_plain with { ClusterOps = 200 }, writer =>
        {
            writer.Sequence(list);
            writer.Zero(1, list.Length);
        });
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal(8, cow.SequenceOpCount);
        Assert.Equal(list, Enumerable.Range(0, cow.Order.Count).Select(i => cow[cow.Order.OpIndex(i)].NewBlock));
        byte[] parts = Write(s_plain with { ClusterOps = 200 }, writer =>
        {
            writer.Sequence(list.AsSpan(0, 2048));
            _ = writer.Size;
            writer.Sequence(list.AsSpan(2048));
            writer.Zero(1, list.Length);
        });
        Assert.Equal(file, parts);
    }

    [Fact]
    public void Sequence_that_names_a_block_without_an_op_can_be_completed_later()
    {
        // AOSP's MissingSeqOp and ResumeSeqOp.
        CowWriterOptions options = s_plain with { ClusterOps = 200 };
        uint[] list = Enumerable.Range(1, 10).Select(i => (uint)i).ToArray();
        Assert.Contains("sequence", Refusal.Of(Write(options, writer =>
        {
            writer.Sequence(list);
            writer.Zero(1, 9);
        })), StringComparison.Ordinal);

        var output = new MemoryOutput();
        using (var writer = CowWriter.Create(output, options))
        {
            writer.Sequence(list);
            writer.Zero(1, 5);
            writer.Label(1);
            writer.Zero(6);
            writer.Label(2);
        }
        using (var writer = CowWriter.OpenAt(output, 1, options))
        {
            Refusal.With(ExitCode.Usage, "before the first op", () => writer.Sequence(list));
            writer.Zero(6, 5);
            writer.Finish();
        }
        using CowFile cow = Read(output);
        Assert.Equal(list, Enumerable.Range(0, cow.Order.Count).Select(i => cow[cow.Order.OpIndex(i)].NewBlock));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Merge_order_is_androids_with_and_without_a_sequence(bool listed)
    {
        // AOSP's RevMergeOpItrTest and LegacyRevMergeOpItrTest. Android counts from the end of the merge, this program from the beginning.
        byte[] file = Write(s_plain with { ClusterOps = 5 }, writer =>
        {
            if (listed) writer.Sequence([2, 10, 6, 7, 3, 5]);
            if (listed) writer.Zero(1);
            foreach (uint block in new uint[] { 2, 10, 6, 7, 3, 5 }) writer.Copy(block, block + 1000);
            writer.Zero(12);
            writer.Zero(8);
            writer.Zero(11);
            writer.Zero(4);
            writer.Zero(9);
            if (!listed) writer.Zero(1);
        });
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal([2u, 10, 6, 7, 3, 5, 1, 4, 8, 9, 11, 12],
            Enumerable.Range(0, cow.Order.Count).Select(i => cow[cow.Order.OpIndex(i)].NewBlock));
    }

    [Fact]
    public void Writer_accepts_an_inconsistent_order_and_the_reader_refuses_it()
    {
        // AOSP's InvalidMergeOrderTest: the reader checks the order, the writer does not.
        var output = new MemoryOutput();
        using var writer = CowWriter.Create(output, s_plain);
        writer.Copy(3, 2);
        writer.Copy(2, 1);
        writer.Finish();
        using (CowFile valid = Read(output)) valid.Order.Check(true, new int[2]);
        writer.Copy(4, 2);
        writer.Finish();
        using (CowFile invalid = Read(output)) Assert.ThrowsAny<SnapuserdException>(() => invalid.Order.Check(true, new int[3]));

        using var second = CowWriter.Create(output, s_plain);
        second.Copy(2, 1);
        second.Xor(3, 4097, s_t);
        second.Finish();
        using CowFile unaligned = Read(output);
        Assert.ThrowsAny<SnapuserdException>(() => unaligned.Order.Check(true, new int[2]));
    }

    [Fact]
    public void Gz_stream_of_exactly_one_block_is_not_marked_as_raw()
    {
        byte[] block = ReaderV2Tests.Incompressible(4096);
        byte[] file = Write(s_plain with { Compression = CowCompression.Gz }, writer => writer.Replace(1, block));
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal(4096, cow[0].DataLength);
        Assert.False(cow.IsRaw(cow[0]));
        Assert.Equal(block, AndroidFiles.Unit(cow, file, 0));
    }

    [Theory]
    [InlineData(CowCompression.Gz, false)]
    [InlineData(CowCompression.Brotli, false)]
    [InlineData(CowCompression.Lz4, true)]
    [InlineData(CowCompression.Zstd, true)]
    public void Only_lz4_and_zstd_store_a_block_raw(CowCompression compression, bool raw)
    {
        byte[] noise = Noise(1, 8);
        byte[] file = Write(s_plain with { Compression = compression }, writer => writer.Replace(1, noise));
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal(raw, cow.IsRaw(cow[0]));
        Assert.Equal(raw, cow[0].DataLength == 4096);
        Assert.Equal((byte)compression, file[38 + CowWriterOptions.DefaultScratchBytes + 1]);
        Assert.Equal(noise, AndroidFiles.Unit(cow, file, 0));
    }

    [Fact]
    public void Sequence_without_clusters_is_refused_and_the_writer_continues()
    {
        byte[] file = Write(s_plain, writer =>
        {
            Refusal.With(ExitCode.Usage, "without clusters", () => writer.Sequence([1]));
            writer.Zero(1);
        });
        Assert.Equal("Z", Types(file));
    }

    [Fact]
    public void File_that_cannot_be_appended_to_is_unchanged()
    {
        byte[] v1 = new CowBuilder { Version = 1 }.Zero(1).Label(2).Build();
        Refusal.With(ExitCode.CowCorrupt, "version 1", () => CowWriter.Reopen(new MemoryOutput(v1), s_plain));
        byte[] begun = new CowBuilder { Version = 2, NumMergeOps = 1 }.Zero(1).Label(2).Build();
        Refusal.With(ExitCode.CowCorrupt, "merge has begun", () => CowWriter.OpenAt(new MemoryOutput(begun), 2, s_plain));
        Refusal.With(ExitCode.CowCorrupt, "not a COW", () => CowWriter.Reopen(new MemoryOutput(), s_plain));
        byte[] gz = new CowBuilder { Version = 2, Compression = CowCompression.Gz }.Replace(1, s_t).Label(2).Build();
        var output = new MemoryOutput(gz);
        Refusal.With(ExitCode.Usage, "its payloads are gz", () => CowWriter.OpenAt(output, 2, s_plain));
        Refusal.With(ExitCode.CowCorrupt, "there is no such label before the footer",
            () => CowWriter.OpenAt(output, 3, s_plain with { Compression = CowCompression.Gz }));
        Assert.Equal(gz, output.Bytes);
        Refusal.With(ExitCode.Usage, "estimate", () => CowWriter.Reopen(new NullCowOutput(), s_plain));
        // The Cluster op points to another offset than the lengths of the ops give.
        var builder = new CowBuilder { Version = 2, ClusterOps = 3, ScratchBytes = 0, Compression = CowCompression.Gz }.Replace(1, s_t)
            .Zero(2).Zero(3).Label(4);
        byte[] skewed = builder.Build();
        Refusal.Put(skewed, builder.OpOffsets[1] + 2, 2, 5);
        Refusal.With(ExitCode.CowCorrupt, "does not fit the clusters",
            () => CowWriter.OpenAt(new MemoryOutput(skewed), 4, s_plain with { Compression = CowCompression.Gz }));
    }

    [Fact]
    public void New_file_on_a_device_shows_nothing_of_the_old_one()
    {
        byte[] old = new CowBuilder { Version = 2, ClusterOps = 4 }.Replace(1, s_t).Zero(2).Label(1).Build();
        var device = new MemoryOutput(old, capacity: 4 << 20);
        using var writer = CowWriter.Create(device, s_plain with { ClusterOps = 4 });
        Assert.Contains("type is 0", Refusal.Of(() => CowFile.Read(new MemorySource(device.Bytes, Refusal.Name)).Dispose()),
            StringComparison.Ordinal);
        writer.Finish();
        using CowFile cow = Read(device);
        Assert.Equal(0, cow.OpCount);
    }

    [Fact]
    public void Sequence_can_be_continued_in_a_reopened_file_without_ops()
    {
        CowWriterOptions clustered = new() { Version = 2, ClusterOps = 200 };
        var output = new MemoryOutput(Write(clustered, writer => writer.Sequence([1])));
        using (var writer = CowWriter.Reopen(output, clustered))
        {
            writer.Sequence([3, 2]);
            writer.Copy(1, 5, 3);
            writer.Finish();
        }
        using CowFile cow = Read(output);
        Assert.Equal((3, 3), (cow.SequenceCount, cow.OpCount));
        using var late = CowWriter.Reopen(new MemoryOutput(output.Bytes), clustered);
        Refusal.With(ExitCode.Usage, "before the first op", () => late.Sequence([4]));
    }

    /// <summary>One byte is not a valid stream of any library, but a writer that continues after it must skip it.</summary>
    [Fact]
    public void Cluster_with_a_single_byte_of_data_is_closed()
    {
        CowBuilder builder = new CowBuilder { Version = 2, ScratchBytes = 0, ClusterOps = 4, Compression = CowCompression.Gz }.Replace(5,
            AndroidFiles.M);
        byte[] file = builder.Build();
        int op = (int)builder.OpOffsets[0], data = (int)builder.DataOffsets[0], footer = (int)builder.OpOffsets[2];
        Refusal.Put(file, op + 2, 2, 1);
        Refusal.Put(file, op + 20 + 12, 8, 40 + 1);
        byte[] one = [.. file[..(data + 1)], .. file[footer..]];
        MemoryOutput output = new(one);
        using CowWriter writer = CowWriter.Reopen(output, new CowWriterOptions { Version = 2, Compression = CowCompression.Gz });
        Assert.Equal(one.Length, writer.Size);
        writer.Finish();
        Assert.Equal(one, output.Bytes);
    }
}
