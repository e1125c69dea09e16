using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>A writer after a failed call, and its memory, threads and descriptors after disposal.</summary>
[Collection(nameof(WriterFailureTests))]
[CollectionDefinition(nameof(WriterFailureTests), DisableParallelization = true)]
public sealed class WriterFailureTests
{
    private static readonly byte[] s_noise = Noise(1000);

    private static byte[] Noise(int blocks)
    {
        byte[] noise = new byte[blocks * 4096];
        new Random(blocks).NextBytes(noise);
        return noise;
    }

    /// <summary>Calls that write immediately or buffer their data. Each fails when the output fails.</summary>
    private static Dictionary<string, Action<CowWriter>> Calls => new()
    {
        ["zero"] = writer => writer.Zero(0, 60),
        ["copy"] = writer => writer.Copy(0, 200_000, 60),
        ["replace"] = writer => writer.Replace(0, s_noise),
        ["xor"] = writer => writer.Xor(0, 5, s_noise),
        ["label"] = writer => writer.Label(9),
        ["finish"] = writer => writer.Finish(),
        ["sequence"] = writer => writer.Sequence([.. Enumerable.Range(0, 400_000).Select(i => (uint)i)]),
        ["size"] = writer => _ = writer.Size,
        ["slots"] = writer => _ = writer.OpSlots,
    };

    public static TheoryData<int, string> Cases
    {
        get
        {
            TheoryData<int, string> cases = [];
            foreach (int version in new[] { 2, 3 })
                foreach (string call in Calls.Keys) cases.Add(version, call);
            return cases;
        }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Writer_refuses_all_calls_after_any_call_has_failed(int version, string name)
    {
        CowWriterOptions options = new()
        {
            Version = version,
            ScratchBytes = 0,
            OpCountMax = 500_000,
            Compression = CowCompression.Lz4,
            BatchBytes = name is "size" or "slots" ? 16 << 20 : 1 << 20,
        };
        MemoryOutput output = new();
        using CowWriter writer = CowWriter.Create(output, options);
        // Reading the size drains the batch, so half a batch of payloads must be pending.
        if (name is "size" or "slots") writer.Replace(300_000, s_noise.AsSpan(0, 500 * 4096));
        output.FailFrom = 0;
        // Runs of ops are written when a batch is full.
        bool runs = name is "zero" or "copy";
        SnapuserdException failed = Assert.ThrowsAny<SnapuserdException>(() =>
        {
            for (int i = 0; i < (runs ? 6000 : 1); i++) Calls[name](writer);
        });
        Assert.Equal(ExitCode.InputOutput, failed.Code);
        Assert.Contains("no space is left", failed.Message, StringComparison.Ordinal);
        output.FailFrom = long.MaxValue;
        int steps = output.Steps.Count;
        foreach (Action<CowWriter> call in Calls.Values)
            Assert.Contains("output.cow: an earlier write failed", Assert.ThrowsAny<SnapuserdException>(() => call(writer)).Message,
                StringComparison.Ordinal);
        Assert.Equal(steps, output.Steps.Count);
    }

    [Fact]
    public void Refused_call_leaves_the_writer_unchanged()
    {
        foreach (int version in new[] { 2, 3 })
        {
            MemoryOutput output = new();
            using CowWriter writer = CowWriter.Create(output,
                new CowWriterOptions { Version = version, ScratchBytes = 0, OpCountMax = 10, ClusterOps = version == 2 ? 0 : 1 });
            if (version == 2)
            {
                Refusal.With(ExitCode.Usage, "output.cow: version 2 without clusters cannot hold a sequence list",
                    () => writer.Sequence([1]));
            }
            else
            {
                writer.Label(5);
                Refusal.With(ExitCode.Usage, "output.cow: label 5 must be larger than the last label, 5", () => writer.Label(5));
                Refusal.With(ExitCode.Usage, "label 4 must be larger than the last label", () => writer.Label(4));
            }
            writer.Copy(1, 2);
            Refusal.With(ExitCode.Usage, "output.cow: the sequence list must come before the first op and the first label",
                () => writer.Sequence([1]));
            writer.Finish();
            using CowFile cow = CowFile.Read(new MemorySource(output.Bytes));
            Assert.Equal(1, cow.OpCount);
        }
    }

    [Fact]
    public void Threads_end_with_the_writer()
    {
        static int Workers() => Directory.GetDirectories("/proc/self/task").Count(task =>
        {
            try
            {
                return File.ReadAllText(Path.Combine(task, "comm")).StartsWith("worker ", StringComparison.Ordinal);
            }
            catch (IOException)
            {
                return false;
            }
        });
        int before = Workers();
        using (CowWriter writer =
            CowWriter.Create(new NullCowOutput(), new CowWriterOptions { Compression = CowCompression.Lz4, Threads = 4 }))
        {
            writer.Replace(0, Noise(100));
            Assert.Equal((4, 4), (writer.Threads, Workers() - before));
        }
        // The kernel removes an ended thread with a short delay.
        Assert.True(SpinWait.SpinUntil(() => Workers() == before, TimeSpan.FromSeconds(20)));
    }

    private sealed class NoWriter : IOpWriter
    {
        public long Size => 0;

        public ulong OpCountMax => ulong.MaxValue;

        public void Add(in PendingOp op, ReadOnlySpan<byte> stored) { }

        public void Sequence(ReadOnlySpan<uint> blocks) { }

        public void Label(ulong label) { }

        public void Finish() { }
    }

    [Fact]
    public void Exception_in_an_encoding_thread_ends_the_writer_with_exit_code_70()
    {
        CowWriterOptions options = new() { Compression = CowCompression.Lz4, Threads = 2 };
        Arena arena = new((int)OpPipeline.MemoryFor(options));
        using OpPipeline pipeline = new(new NoWriter(), arena, options);
        pipeline.Add(CowOpType.Replace, 0, 0, s_noise.AsSpan(0, 4096));
        // The arena is already freed when the pipeline encodes.
        arena.Dispose();
        SnapuserdException e = Assert.ThrowsAny<SnapuserdException>(pipeline.Drain);
        Assert.Equal(ExitCode.Internal, e.Code);
        Assert.StartsWith("an encoding thread failed: System.", e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(CowCompression.Gz)]
    [InlineData(CowCompression.Brotli)]
    [InlineData(CowCompression.Lz4)]
    [InlineData(CowCompression.Zstd)]
    public void Encoder_that_fails_ends_its_job(CowCompression compression)
    {
        using Arena arena = new(1 << 20);
        OpBatch batch = new(arena.Take(64 << 10)!.Value, 4);
        int room = UnitEncoder.Bound(4096);
        foreach (int stored in new[] { 0, room, 50, room })
        {
            Slice plain = stored == 0 ? default : batch.Take(4096);
            if (stored > 0) s_noise.AsSpan(0, 4096).CopyTo(arena[plain]);
            batch.Add(new PendingOp(CowOpType.Replace, 0, 1, 0, plain, stored == 0 ? default : batch.Take(stored)));
        }
        using EncodeWorker worker = new(arena, new UnitEncoder(compression, 1, 4096), rawIfNotSmaller: true);
        Assert.InRange(worker.Do(new EncodeJob(batch, 0, 4)), int.MinValue, -2);
        // Noise is stored uncompressed.
        Assert.Equal([true, true, false, false], batch.Ops.Select(op => op.Stored == op.Plain));
        Assert.Equal(0, worker.Do(new EncodeJob(batch, 3, 1)));
        Assert.Equal([true, true, false, true], batch.Ops.Select(op => op.Stored == op.Plain));
    }

    private static int WakeUps() =>
        Directory.GetFiles("/proc/self/fd").Count(name => new FileInfo(name).LinkTarget == "anon_inode:[eventfd]");

    [Fact]
    public void Descriptors_are_closed_with_the_writer()
    {
        int before = WakeUps();
        for (int i = 0; i < 40; i++)
        {
            using CowWriter writer =
                CowWriter.Create(new NullCowOutput(), new CowWriterOptions { Compression = CowCompression.Lz4, Threads = 2 });
            writer.Zero(1);
        }
        // The runtime may have opened some eventfds of its own.
        Assert.InRange(WakeUps(), 0, before + 20);
    }

    [Theory]
    [InlineData(CowCompression.Lz4, null, 4096)]
    [InlineData(CowCompression.Gz, 9, 65536)]
    [InlineData(CowCompression.Zstd, 3, 65536)]
    [InlineData(CowCompression.Zstd, 6, 4096)]
    [InlineData(CowCompression.Brotli, 4, 4096)]
    public void Second_thread_runs_if_its_memory_fits_exactly(CowCompression compression, int? level, int unit)
    {
        int Threads(long bytes)
        {
            using CowWriter writer = CowWriter.Create(new NullCowOutput(), new CowWriterOptions
            {
                Compression = compression,
                Level = level,
                MaxUnitBytes = unit,
                Threads = 2,
                BatchBytes = (int)bytes,
            });
            return writer.Threads;
        }
        // Two threads run if 2 · max(BatchBytes / 2, area) + 2 · context ≤ 2 · BatchBytes.
        long context = UnitEncoder.ContextBytes(compression, level, unit), area = 2 * (unit + (long)UnitEncoder.Bound(unit));
        long least = context >= area ? 2 * context : area + context;
        least += least % 2;
        Assert.Equal((1, 2), (Threads(least - 2), Threads(least)));
    }

    [Theory]
    [InlineData(CowCompression.None, null, 4096, 0)]
    [InlineData(CowCompression.Gz, 1, 65536, 268 << 10)]
    [InlineData(CowCompression.Lz4, null, 65536, 16 << 10)]
    [InlineData(CowCompression.Brotli, 0, 4096, (1 << 20) + 8192)]
    [InlineData(CowCompression.Brotli, 4, 4096, (1 << 20) + 8192)]
    [InlineData(CowCompression.Brotli, 5, 4096, 2 << 20)]
    [InlineData(CowCompression.Brotli, 6, 4096, 3 << 20)]
    [InlineData(CowCompression.Brotli, 7, 4096, 9 << 20)]
    [InlineData(CowCompression.Brotli, 8, 4096, 17 << 20)]
    [InlineData(CowCompression.Brotli, 9, 4096, 33 << 20)]
    [InlineData(CowCompression.Brotli, 10, 4096, (3 << 20) + (44 * 4096))]
    [InlineData(CowCompression.Brotli, null, 65536, (3 << 20) + (44 * 65536))]
    [InlineData(CowCompression.Zstd, 5, 65536, (128 << 10) + (16 * 65536))]
    [InlineData(CowCompression.Zstd, 6, 65536, (300 << 10) + (24 * 65536))]
    [InlineData(CowCompression.Zstd, 19, 262144, (300 << 10) + (20 * 262144) + (512 << 10))]
    public void Context_size_is_estimated_from_algorithm_level_and_unit(CowCompression compression, int? level, int unit, long bytes) =>
        Assert.Equal(bytes, UnitEncoder.ContextBytes(compression, level, unit));
}
