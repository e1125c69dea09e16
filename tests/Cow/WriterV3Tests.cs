using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>The writer's part of AOSP's test_v3.cpp (test-catalog §2), and cases that it does not cover.</summary>
public sealed class WriterV3Tests
{
    private static readonly byte[] s_t = AndroidFiles.T;
    private static readonly byte[] s_m = AndroidFiles.M;
    private static readonly CowWriterOptions s_plain = new() { ScratchBytes = 0, OpCountMax = 100 };

    private static byte[] Noise(int blocks, int seed)
    {
        byte[] bytes = new byte[blocks * 4096];
        new Random(seed).NextBytes(bytes);
        return bytes;
    }

    private static byte[] Write(CowWriterOptions options, Action<CowWriter> calls)
    {
        var output = new MemoryOutput();
        using var writer = CowWriter.Create(output, options);
        calls(writer);
        writer.Finish();
        // Without a payload the file ends after its last op, before the unused slots.
        Assert.InRange(output.Length, 0, writer.Size);
        return output.Bytes;
    }

    [Fact]
    public void Empty_file_has_androids_header()
    {
        byte[] file = Write(new CowWriterOptions { OpCountMax = 15 }, _ => { });
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal((3, 0, 78, 0, 16),
            (cow.Header.Major, cow.Header.Minor, cow.Header.HeaderBytes, cow.Header.FooterBytes, cow.Header.OpBytes));
        Assert.Equal((4096u, 0u, 15ul, 0ul), (cow.Header.BlockSize, cow.Header.ClusterOps, cow.Header.OpCountMax, cow.Header.OpCount));
        Assert.Equal((4u, 0u, 4096u), (cow.Header.ResumeMax, cow.Header.ResumeCount, cow.Header.MaxUnitBytes));
        Assert.Equal(new CowBuilder { MaxUnitBytes = 4096, OpCountMaxSlack = 15 }.Build()[..file.Length], file);
    }

    [Fact]
    public void Op_count_is_bounded_and_a_refused_call_changes_nothing()
    {
        // AOSP's MaxOp, CheckOpCount and MaxOp…Compression.
        foreach ((CowCompression compression, int unit, int threads) in new[]
        {
            (CowCompression.None, 4096, 1), (CowCompression.Lz4, 32768, 1), (CowCompression.Lz4, 32768, 2),
        })
        {
            byte[] file =
                Write(s_plain with { OpCountMax = 20, Compression = compression, MaxUnitBytes = unit, Threads = threads }, writer =>
                {
                    Refusal.With(ExitCode.Usage, "21 more ops do not fit: 0 of 20", () => writer.Zero(1, 21));
                    writer.Zero(1, 19);
                    Refusal.With(ExitCode.Usage, "19 of 20", () => writer.Zero(30, 19));
                    Refusal.With(ExitCode.Usage, "19 of 20", () => writer.Replace(30, Noise(3, 1)));
                    writer.Zero(20);
                    Refusal.With(ExitCode.Usage, "20 of 20", () => writer.Replace(30, s_t));
                    Refusal.With(ExitCode.Usage, "20 of 20", () => writer.Xor(30, 0, s_t));
                    Refusal.With(ExitCode.Usage, "20 of 20", () => writer.Copy(30, 0));
                    Assert.Equal(20, writer.OpCount);
                });
            using CowFile cow = CowFile.Read(new MemorySource(file));
            Assert.Equal(20, cow.OpCount);
            Assert.Equal(20, cow.ZeroCount);
        }
    }

    [Fact]
    public void Unit_counts_as_one_op_against_the_maximum()
    {
        byte[] file = Write(s_plain with { OpCountMax = 3, MaxUnitBytes = 16384 }, writer => writer.Replace(1, Noise(4 + 2 + 1, 2)));
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal([4, 2, 1], Enumerable.Range(0, 3).Select(i => cow[i].Blocks));
    }

    [Fact]
    public void Maximum_number_of_ops_is_by_default_the_number_of_blocks()
    {
        foreach (ulong? zero in new ulong?[] { null, 0 })
        {
            byte[] file = Write(new CowWriterOptions { MaxBlocks = 77, OpCountMax = zero }, writer => writer.Zero(76));
            using CowFile cow = CowFile.Read(new MemorySource(file));
            Assert.Equal(77ul, cow.Header.OpCountMax);
            Refusal.With(ExitCode.Usage, "needs the number of ops",
                () => CowWriter.Create(new MemoryOutput(), new CowWriterOptions { OpCountMax = zero }));
        }
    }

    [Fact]
    public void Every_kind_of_op_is_read_back()
    {
        // AOSP's ZeroOp, CopyOp, ConsecutiveReplaceOp, ConsecutiveXorOp and AllOpsWithCompression.
        byte[] raw = Noise(5, 3), xor = Noise(5, 4);
        foreach (CowCompression compression in Enum.GetValues<CowCompression>())
        {
            byte[] file = Write(new CowWriterOptions { OpCountMax = 100, Compression = compression }, writer =>
            {
                writer.Zero(50, 5);
                writer.Copy(60, 1000, 5);
                writer.Replace(70, raw);
                writer.Xor(80, (24 * 4096) + 10, xor);
            });
            using CowFile cow = CowFile.Read(new MemorySource(file));
            Assert.Equal(20, cow.OpCount);
            Assert.Equal(2u << 20, cow.Header.ScratchBytes);
            for (int i = 0; i < 5; i++)
            {
                Assert.Equal(new CowOp(CowOpType.Zero, 50 + (uint)i, 1, 0, 0, 0), cow[i]);
                Assert.Equal(new CowOp(CowOpType.Copy, 60 + (uint)i, 1, 1000 + i, 0, 0), cow[5 + i]);
                Assert.Equal((70 + (uint)i, 80 + (uint)i, 98314 + (4096L * i)),
                    (cow[10 + i].NewBlock, cow[15 + i].NewBlock, cow[15 + i].Source));
                Assert.Equal(raw[(4096 * i)..(4096 * (i + 1))], AndroidFiles.Unit(cow, file, 10 + i));
                Assert.Equal(xor[(4096 * i)..(4096 * (i + 1))], AndroidFiles.Unit(cow, file, 15 + i));
            }
        }
    }

    [Fact]
    public void Copies_of_one_call_and_of_two_are_the_same()
    {
        byte[] one = Write(s_plain, writer => writer.Copy(10, 1000, 100));
        byte[] two = Write(s_plain, writer =>
        {
            writer.Copy(10, 1000, 50);
            writer.Copy(60, 1050, 50);
        });
        Assert.Equal(one, two);
        using CowFile cow = CowFile.Read(new MemorySource(one));
        Assert.Equal(Enumerable.Range(0, 100).Select(i => new CowOp(CowOpType.Copy, 10 + (uint)i, 1, 1000 + i, 0, 0)),
            Enumerable.Range(0, 100).Select(i => cow[i]));
    }

    [Fact]
    public void Gz_text_block_is_56_bytes_and_the_header_says_gz()
    {
        byte[] file = Write(s_plain with { Compression = CowCompression.Gz }, writer => writer.Replace(50, s_t));
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal(CowCompression.Gz, cow.Header.Compression);
        Assert.Equal(56, cow[0].DataLength);
    }

    [Fact]
    public void Writer_continues_at_a_resume_point()
    {
        // AOSP's ResumePointTest.
        var output = new MemoryOutput();
        using (var writer = CowWriter.Create(output, s_plain))
        {
            writer.Zero(0, 15);
            writer.Label(0);
            writer.Zero(15, 15);
            writer.Finish();
        }
        using (CowFile cow = CowFile.Read(new MemorySource(output.Bytes))) Assert.Equal(30, cow.OpCount);
        using (var writer = CowWriter.OpenAt(output, 0, s_plain))
        {
            Assert.Equal(15, writer.OpCount);
            writer.Finish();
        }
        using (CowFile cow = CowFile.Read(new MemorySource(output.Bytes))) Assert.Equal(15, cow.OpCount);
    }

    [Fact]
    public void Label_is_in_the_header_when_the_call_returns()
    {
        // AOSP's BufferMetadataSyncTest.
        var output = new MemoryOutput();
        using var writer = CowWriter.Create(output, s_plain);
        CowHeader created = CowHeader.Parse(new MemorySource(Padded(output.Bytes)));
        Assert.Equal((0ul, 0u, 4u), (created.SequenceCount, created.ResumeCount, created.ResumeMax));
        writer.Label(0);
        Assert.Equal(1u, CowHeader.Parse(new MemorySource(Padded(output.Bytes))).ResumeCount);
    }

    private static byte[] Padded(byte[] file) => file.Concat(new byte[65536]).ToArray();

    [Fact]
    public void Count_of_resume_points_is_the_actual_number()
    {
        // Android's count grows with every label.
        var output = new MemoryOutput();
        using (var writer = CowWriter.Create(output, s_plain))
        {
            for (uint label = 1; label <= 6; label++)
            {
                writer.Zero(label);
                writer.Label(label * 10);
            }
            writer.Finish();
        }
        using (CowFile cow = CowFile.Read(new MemorySource(output.Bytes)))
        {
            Assert.Equal(4u, cow.Header.ResumeCount);
            Assert.Equal([new(30, 3), new(40, 4), new(50, 5), new(60, 6)], cow.ResumePoints);
        }
        Refusal.With(ExitCode.CowCorrupt, "its labels are 30, 40, 50, 60", () => CowWriter.OpenAt(output, 20, s_plain));
        using (var writer = CowWriter.OpenAt(output, 50, s_plain))
        {
            Refusal.With(ExitCode.Usage, "label 45 must be larger than the last label", () => writer.Label(45));
            writer.Zero(9);
            writer.Label(55);
            writer.Finish();
        }
        using (CowFile cow = CowFile.Read(new MemorySource(output.Bytes)))
        {
            Assert.Equal(4u, cow.Header.ResumeCount);
            Assert.Equal([new(30, 3), new(40, 4), new(50, 5), new(55, 6)], cow.ResumePoints);
        }
    }

    [Fact]
    public void File_of_androids_writer_with_too_many_labels_can_be_resumed()
    {
        var builder = new CowBuilder { MaxUnitBytes = 4096, ScratchBytes = 0, OpCountMaxSlack = 10 };
        for (uint label = 1; label <= 6; label++) builder.Zero(label).Label(label);
        var output = new MemoryOutput(builder.Build());
        using (var writer = CowWriter.OpenAt(output, 5, s_plain)) writer.Finish();
        using CowFile cow = CowFile.Read(new MemorySource(output.Bytes));
        Assert.Equal((5, 3u), (cow.OpCount, cow.Header.ResumeCount));
        Assert.Equal([new(3, 3), new(4, 4), new(5, 5)], cow.ResumePoints);
    }

    [Fact]
    public void Ops_and_data_are_written_after_a_long_sequence()
    {
        // AOSP's SequenceTest.
        uint[] list = Enumerable.Range(1, 16384).Select(i => (uint)i).ToArray();
        byte[] file = Write(s_plain with { OpCountMax = 20000 }, writer =>
        {
            writer.Sequence(list);
            writer.Zero(1, 16383);
            writer.Replace(16384, s_t);
        });
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal(list, Enumerable.Range(0, cow.Order.Count).Select(i => cow[cow.Order.OpIndex(i)].NewBlock));
        Assert.Equal(s_t, AndroidFiles.Unit(cow, file, 16383));
    }

    [Fact]
    public void Sequence_is_accepted_only_once_and_before_everything_else()
    {
        byte[] file = Write(s_plain, writer =>
        {
            writer.Sequence([1]);
            Refusal.With(ExitCode.Usage, "once", () => writer.Sequence([2]));
            writer.Copy(1, 2);
            Refusal.With(ExitCode.Usage, "before the first op", () => writer.Sequence([2]));
        });
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal(1, cow.SequenceCount);
        _ = Write(s_plain, writer =>
        {
            writer.Label(1);
            Refusal.With(ExitCode.Usage, "first label", () => writer.Sequence([2]));
        });
    }

    [Fact]
    public void Sequence_that_names_a_block_without_an_op_can_be_completed_later()
    {
        // AOSP's MissingSeqOp and ResumeSeqOp, with their capacity of 2^32 - 1 ops.
        CowWriterOptions options = s_plain with { OpCountMax = uint.MaxValue };
        uint[] list = Enumerable.Range(1, 10).Select(i => (uint)i).ToArray();
        Assert.Contains("sequence_data_count is 10", Refusal.Of(Write(options, writer =>
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
            writer.Zero(6, 5);
            writer.Finish();
        }
        using CowFile cow = CowFile.Read(new MemorySource(output.Bytes));
        Assert.Equal(list, Enumerable.Range(0, cow.Order.Count).Select(i => cow[cow.Order.OpIndex(i)].NewBlock));
    }

    [Fact]
    public void Largest_capacity_puts_the_data_after_a_hole_of_64_gigabytes()
    {
        using var folder = new TempFolder();
        using (FileCowOutput output = FileCowOutput.Create(folder["big.cow"]))
        {
            using var writer = CowWriter.Create(output, s_plain with { OpCountMax = uint.MaxValue });
            writer.Replace(1, s_t);
            writer.Finish();
            Assert.Equal(78 + 64 + (16L * uint.MaxValue) + 4096, output.Length);
            using CowFile cow = CowFile.Read(output);
            byte[] block = new byte[4096];
            output.Read(cow[0].DataOffset, block);
            Assert.Equal(s_t, block);
        }
    }

    [Fact]
    public void Estimate_of_a_million_zeros_is_the_real_size()
    {
        // AOSP's CowSizeEstimate.
        using var estimate = CowWriter.Create(new NullCowOutput(), new CowWriterOptions { Compression = CowCompression.Lz4 });
        estimate.Zero(0, 1 << 20);
        estimate.Finish();
        var output = new MemoryOutput();
        using var real =
            CowWriter.Create(output, new CowWriterOptions { Compression = CowCompression.Lz4, OpCountMax = (ulong)estimate.OpSlots });
        real.Zero(0, 1 << 20);
        real.Finish();
        Assert.Equal(estimate.Size, real.Size);
        Assert.Equal(output.Length, real.Size);
        Assert.Equal(1 << 20, estimate.OpSlots);
    }

    public static IEnumerable<object[]> VariableBlocks =>
        from unit in new[] { 4, 8, 16, 32, 64, 128, 256 }
        from compression in new[] { "none", "lz4", "zstd", "gz", "brotli,2" }
        from threads in new[] { 1, 2 }
        from cluster in new[] { 1, 256 }
        select new object[] { unit * 1024, compression, threads, cluster };

    [Theory]
    [MemberData(nameof(VariableBlocks))]
    public void Units_of_every_size_are_read_back(int unit, string compression, int threads, int cluster)
    {
        // AOSP's VariableBlockCompressionTest. This test compares all bytes, not only the first block of each op.
        (CowCompression algorithm, int? level) = CowWriterOptions.ParseCompression(compression);
        byte[] xor = Noise(1, 1), noise = Noise(16, 5);
        byte[][] runs = [Text(300), Text(259), Text(1), Text(2), [], noise];
        byte[] file = Write(new CowWriterOptions
        {
            OpCountMax = 5000,
            Compression = algorithm,
            Level = level,
            MaxUnitBytes = unit,
            Threads = threads,
            ClusterOps = cluster,
            BatchBytes = 1,
        }, writer =>
        {
            writer.Xor(3000, 98314, xor);
            for (int i = 0; i < runs.Length; i++) writer.Replace((uint)(i * 400), runs[i]);
        });
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal(1, cow[0].Blocks);
        Assert.Equal(xor, AndroidFiles.Unit(cow, file, 0));
        int op = 1;
        for (int run = 0; run < runs.Length; run++)
        {
            foreach ((int first, int blocks) in Cut(runs[run].Length / 4096, unit / 4096, cluster))
            {
                Assert.Equal(((uint)((run * 400) + first), blocks), (cow[op].NewBlock, cow[op].Blocks));
                Assert.True(runs[run].AsSpan(first * 4096, blocks * 4096).SequenceEqual(AndroidFiles.Unit(cow, file, op)),
                    $"block {first} of run {run}");
                op++;
            }
        }
        Assert.Equal(op, cow.OpCount);
        if (cluster == 1) Assert.Equal(4096, cow.MaxUnitBytes);
    }

    [Fact]
    public void Units_are_cut_as_in_androids_example()
    {
        // cow-format §7.3: 64 KiB, 259 blocks: 16 units of 16 blocks, then 2, then 1.
        byte[] file = Write(s_plain with { MaxUnitBytes = 65536 }, writer => writer.Replace(0, new byte[259 * 4096]));
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.Equal(Enumerable.Repeat(16, 16).Append(2).Append(1), Enumerable.Range(0, cow.OpCount).Select(i => cow[i].Blocks));
    }

    /// <summary>cow-format §7.3 as a plain model: cuts each chunk greedily.</summary>
    internal static IEnumerable<(int First, int Blocks)> Cut(int blocks, int largest, int cluster)
    {
        for (int chunk = 0; chunk < blocks; chunk += Math.Max(cluster, 1))
        {
            int end = Math.Min(blocks, chunk + Math.Max(cluster, 1));
            for (int at = chunk; at < end;)
            {
                int unit = largest;
                while (unit > end - at) unit /= 2;
                yield return (at, unit);
                at += unit;
            }
        }
    }

    /// <summary>Compressible blocks, all different.</summary>
    private static byte[] Text(int blocks)
    {
        byte[] bytes = new byte[blocks * 4096];
        for (int i = 0; i < bytes.Length; i++) bytes[i] = (byte)((i / 4096 * 7) + (i % 97));
        return bytes;
    }

    [Theory]
    [InlineData(CowCompression.Gz)]
    [InlineData(CowCompression.Brotli)]
    [InlineData(CowCompression.Lz4)]
    [InlineData(CowCompression.Zstd)]
    public void Unit_that_does_not_shrink_is_stored_raw(CowCompression compression)
    {
        byte[] noise = Noise(16, 6);
        byte[] file = Write(s_plain with
        {
            Compression = compression,
            Level = compression == CowCompression.Brotli ? 2 : null,
            MaxUnitBytes = 65536,
        }, writer => writer.Replace(0, noise));
        using CowFile cow = CowFile.Read(new MemorySource(file));
        Assert.True(cow.IsRaw(cow[0]));
        Assert.Equal(65536, cow[0].DataLength);
        Assert.Equal(noise, AndroidFiles.Unit(cow, file, 0));
    }

    [Fact]
    public void After_a_finish_the_same_writer_or_another_can_add_ops()
    {
        CowWriterOptions options = s_plain with { Compression = CowCompression.Lz4, MaxUnitBytes = 16384 };
        Action<CowWriter>[] steps =
        [
            writer => writer.Replace(1, s_t),
            writer => writer.Label(4),
            writer => writer.Zero(2, 3),
            writer => writer.Xor(9, 5, s_m),
            writer => writer.Label(7),
            writer => writer.Replace(20, Noise(7, 1)),
        ];
        byte[] once = Write(options, writer =>
        {
            foreach (Action<CowWriter> step in steps) step(writer);
        });
        var output = new MemoryOutput();
        using (var writer = CowWriter.Create(output, options))
        {
            foreach (Action<CowWriter> step in steps)
            {
                writer.Finish();
                step(writer);
            }
            writer.Finish();
        }
        Assert.Equal(once, output.Bytes);
        using (var writer = CowWriter.Create(output, options)) writer.Finish();
        foreach (Action<CowWriter> step in steps)
        {
            // The unit size comes from the file. The option has no effect here.
            using var writer = CowWriter.Reopen(output,
                options with { MaxUnitBytes = 4096, OpCountMax = 1, ScratchBytes = CowWriterOptions.DefaultScratchBytes });
            step(writer);
            writer.Finish();
        }
        Assert.Equal(once, output.Bytes);
    }

    [Fact]
    public void File_that_cannot_be_appended_to_is_unchanged()
    {
        byte[] file = new CowBuilder { Compression = CowCompression.Gz, ScratchBytes = 0 }.Zero(1).Label(2).Build();
        var output = new MemoryOutput(file);
        Refusal.With(ExitCode.Usage, "its payloads are gz", () => CowWriter.OpenAt(output, 2, s_plain));
        Refusal.With(ExitCode.CowCorrupt, "cannot continue at label 3: its labels are 2",
            () => CowWriter.OpenAt(output, 3, s_plain with { Compression = CowCompression.Gz }));
        Assert.Equal(file, output.Bytes);
        byte[] none = new CowBuilder { ScratchBytes = 0 }.Zero(1).Build();
        Refusal.With(ExitCode.CowCorrupt, "the file has no labels", () => CowWriter.OpenAt(new MemoryOutput(none), 3, s_plain));
        byte[] begun = new CowBuilder { NumMergeOps = 1 }.Zero(1).Label(2).Build();
        Refusal.With(ExitCode.CowCorrupt, "merge has begun", () => CowWriter.OpenAt(new MemoryOutput(begun), 2, s_plain));
        byte[] old = (byte[])none.Clone();
        Refusal.Put(old, 12, 2, 74);
        Refusal.With(ExitCode.CowCorrupt, "too old", () => CowWriter.Reopen(new MemoryOutput(Padded(old)), s_plain));
        byte[] odd = (byte[])none.Clone();
        Refusal.Put(odd, 74, 4, 12288);
        Refusal.With(ExitCode.CowCorrupt, "not a power of two", () => CowWriter.Reopen(new MemoryOutput(odd), s_plain));
        byte[] broken = new CowBuilder { ScratchBytes = 0 }.Zero(1).Label(2).Build();
        Refusal.Put(broken, 78 + 64 + 8, 8, 0xFUL << 60);
        Refusal.With(ExitCode.CowCorrupt, "type is 15", () => CowWriter.OpenAt(new MemoryOutput(broken), 2, s_plain));
    }

    [Fact]
    public void New_file_on_a_device_shows_nothing_of_the_old_one()
    {
        byte[] old = new CowBuilder { MaxUnitBytes = 4096, OpCountMaxSlack = 20 }.Zero(1).Label(3).Zero(2).Label(4).Build();
        var device = new MemoryOutput(old, capacity: 4 << 20);
        using var writer = CowWriter.Create(device, new CowWriterOptions { OpCountMax = 22 });
        using (CowFile cow = CowFile.Read(new MemorySource(device.Bytes))) Assert.Equal((0, 0), (cow.OpCount, cow.ResumePoints.Count));
        Assert.True(device.Bytes.AsSpan(78, (2 << 20) + 64).IndexOfAnyExcept((byte)0) < 0);
        writer.Sequence([7]);
        writer.Copy(7, 8);
        writer.Finish();
        byte[] file = Write(new CowWriterOptions { OpCountMax = 22 }, w =>
        {
            w.Sequence([7]);
            w.Copy(7, 8);
        });
        Assert.Equal(file, device.Bytes[..file.Length]);
    }

    [Fact]
    public void Long_sequence_on_a_device_leaves_nothing_of_the_old_file_after_it()
    {
        byte[] old = new byte[4 << 20];
        new Random(5).NextBytes(old);
        var device = new MemoryOutput(old, capacity: old.Length);
        uint[] blocks = [.. Enumerable.Range(1, 5000).Select(block => (uint)block)];
        void Calls(CowWriter writer)
        {
            writer.Sequence(blocks);
            writer.Copy(1, 10000, 5000);
            writer.Label(3);
            writer.Finish();
        }
        using var writer = CowWriter.Create(device, new CowWriterOptions { OpCountMax = 6000 });
        Calls(writer);
        byte[] file = Write(new CowWriterOptions { OpCountMax = 6000 }, Calls);
        Assert.Equal(file, device.Bytes[..file.Length]);
    }

    [Fact]
    public void Reopened_file_without_ops_accepts_a_sequence()
    {
        byte[] empty = Write(s_plain, _ => { });
        var output = new MemoryOutput(empty);
        using (var writer = CowWriter.Reopen(output, s_plain))
        {
            writer.Sequence([2, 1]);
            writer.Copy(1, 5);
            writer.Copy(2, 6);
            writer.Finish();
        }
        using CowFile cow = CowFile.Read(new MemorySource(output.Bytes));
        Assert.Equal((2, 2), (cow.SequenceCount, cow.OpCount));
        // After the first op the writer refuses a list.
        using var late = CowWriter.Reopen(new MemoryOutput(output.Bytes), s_plain);
        Refusal.With(ExitCode.Usage, "before the first op", () => late.Sequence([3]));
    }
}
