using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Cow;

/// <summary>
/// Random calls: merging the writer's file gives the image of the plain model, and its bytes are those of the test builder.
/// </summary>
public sealed class WriterRoundTripTests(ITestOutputHelper output)
{
    private const int SourceBlocks = 64;
    private const int TargetBlocks = 700;

    public static IEnumerable<object[]> Cases =>
        from version in new[] { 2, 3 }
        from compression in new[] { "none", "gz,1", "brotli,1", "lz4", "zstd" }
        from unit in version == 2 ? new[] { 4096 } : new[] { 4096, 16384, 65536, 262144 }
        from threads in new[] { 1, 3 }
        select new object[] { version, compression, unit, threads };

    [Theory]
    [MemberData(nameof(Cases))]
    public void Random_calls_give_the_image_of_the_plain_model_and_the_bytes_of_the_builder(int version, string compression, int unit,
        int threads)
    {
        int seed = HashCode(version, compression, unit);
        output.WriteLine($"seed {seed}");
        var random = new Random(seed);
        (CowCompression algorithm, int? level) = CowWriterOptions.ParseCompression(compression);
        for (int round = 0; round < 4; round++)
        {
            int cluster = version == 2 ? new[] { 0, 2, 3, 5, 20, 1024 }[random.Next(6)] : new[] { 0, 1, 3, 20, 64, 1024 }[random.Next(6)];
            var options = new CowWriterOptions
            {
                Version = version,
                Compression = algorithm,
                Level = level,
                MaxUnitBytes = unit,
                ClusterOps = cluster,
                Threads = threads,
                ScratchBytes = random.Next(2) == 0 ? 0 : CowWriterOptions.DefaultScratchBytes,
                MaxBlocks = SourceBlocks + TargetBlocks,
                BatchBytes = 1 << random.Next(0, 22),
            };
            byte[] old = new byte[(SourceBlocks + TargetBlocks) * 4096];
            random.NextBytes(old);
            var builder = new CowBuilder
            {
                Version = version,
                Compression = algorithm,
                Level = level,
                MaxUnitBytes = unit,
                ClusterOps = version == 2 ? cluster : 0,
                ScratchBytes = (int)options.ScratchBytes,
                OpCountMaxSlack = 0,
            };
            var file = new MemoryOutput();
            List<Action<CowWriter>> calls = Program(random, options, builder);
            using (var estimate = CowWriter.Create(new NullCowOutput(), options))
            {
                foreach (Action<CowWriter> call in calls) call(estimate);
                using var writer =
                    CowWriter.Create(file, options with { OpCountMax = version == 3 ? Math.Max(1, (ulong)estimate.OpSlots) : null });
                foreach (Action<CowWriter> call in calls) call(writer);
                Assert.Equal(estimate.Size, writer.Size);
                writer.Finish();
                Assert.Equal(estimate.OpCount, writer.OpCount);
                Assert.Equal(file.Length, writer.Size);
            }

            // .NET's brotli may have another version than the system's.
            if (algorithm != CowCompression.Brotli)
                Assert.True(builder.Build().AsSpan().SequenceEqual(file.Bytes),
                    $"round {round}: first difference at {builder.Build().AsSpan().CommonPrefixLength(file.Bytes)}");
            byte[] image = (byte[])old.Clone();
            using CowFile cow = CowFile.Read(new MemorySource(file.Bytes));
            cow.Order.Check(true, new int[cow.Order.Count]);
            PlainReplay.Run(cow, file.Bytes, image, 0);
            Assert.True(NaiveMerger.Merge(builder, old).AsSpan().SequenceEqual(image), $"round {round}");
        }
    }

    /// <summary>
    /// Calls in random order, which read only the first blocks and write each of the others at most once. The builder gets the same calls.
    /// </summary>
    private static List<Action<CowWriter>> Program(Random random, CowWriterOptions options, CowBuilder builder)
    {
        var calls = new List<Action<CowWriter>>();
        var replaces = new List<(uint Block, int Count)>();
        var ordered = new List<(CowOpType Type, uint Block, int Count)>();
        for (uint block = SourceBlocks; block < SourceBlocks + TargetBlocks;)
        {
            int count = Math.Min(random.Next(1, random.Next(2) == 0 ? 4 : 100), (int)(SourceBlocks + TargetBlocks - block));
            switch (random.Next(5))
            {
                case 0: break;
                case 1: ordered.Add((CowOpType.Copy, block, count = Math.Min(count, SourceBlocks))); break;
                case 2: ordered.Add((CowOpType.Xor, block, count = Math.Min(count, 9))); break;
                case 3: ordered.Add((CowOpType.Zero, block, count)); break;
                default: replaces.Add((block, count)); break;
            }
            block += (uint)count;
        }
        bool listed = (options.Version == 3 || options.ClusterOps != 0) && random.Next(2) == 0;
        if (listed)
        {
            uint[] list = ordered.Where(op => op.Type != CowOpType.Zero).SelectMany(op => Enumerable.Range((int)op.Block, op.Count))
                .Select(block => (uint)block).ToArray();
            random.Shuffle(list);
            if (list.Length > 0)
            {
                builder.Sequence(list);
                calls.Add(writer => writer.Sequence(list));
            }
        }
        (CowOpType Type, uint Block, int Count)[] all =
            ordered.Concat(replaces.Select(r => (CowOpType.Replace, r.Block, r.Count))).ToArray();
        random.Shuffle(all);
        ulong label = 0;
        foreach ((CowOpType type, uint block, int count) in all)
        {
            int from = random.Next(0, SourceBlocks - Math.Min(count, SourceBlocks) + 1);
            byte[] plain = new byte[type is CowOpType.Replace or CowOpType.Xor ? count * 4096 : 0];
            if (random.Next(4) != 0)
                for (int i = 0; i < plain.Length; i++) plain[i] = (byte)random.Next(random.Next(2) == 0 ? 2 : 20);
            else random.NextBytes(plain);
            switch (type)
            {
                case CowOpType.Copy:
                    calls.Add(writer => writer.Copy(block, (ulong)from, count));
                    for (int i = 0; i < count; i++) builder.Copy(block + (uint)i, (ulong)(from + i));
                    break;
                case CowOpType.Zero:
                    calls.Add(writer => writer.Zero(block, count));
                    for (int i = 0; i < count; i++) builder.Zero(block + (uint)i);
                    break;
                case CowOpType.Xor:
                    ulong at = (ulong)(from * 4096) - (from > 0 ? (ulong)random.Next(4096) : 0);
                    calls.Add(writer => writer.Xor(block, at, plain));
                    for (int i = 0; i < count; i++) builder.Xor(block + (uint)i, at + (4096 * (ulong)i), plain.AsSpan(i * 4096, 4096));
                    break;
                default:
                    calls.Add(writer => writer.Replace(block, plain));
                    foreach ((int first, int blocks) in WriterV3Tests.Cut(count, options.MaxUnitBytes / 4096,
                        options.Version == 3 ? options.ClusterOps : 1))
                        builder.Replace(block + (uint)first, plain.AsSpan(first * 4096, blocks * 4096));
                    break;
            }
            // Android's count of resume points, which the builder imitates, is correct only for up to four labels.
            if (random.Next(8) == 0 && (options.Version == 2 || label < 4))
            {
                ulong now = ++label;
                calls.Add(writer => writer.Label(now));
                builder.Label(now);
            }
        }
        // The last op has a payload, so that a v3 file has its full length.
        byte[] last = new byte[4096];
        random.NextBytes(last);
        calls.Add(writer => writer.Replace(1, last));
        builder.Replace(1, last);
        return calls;
    }

    private static int HashCode(int version, string compression, int unit) => (version * 1000003) + compression.Sum(c => c * 31) + unit;
}
