using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>Valid options and arguments, and the error messages for invalid ones.</summary>
public sealed class WriterOptionsTests
{
    private static readonly CowWriterOptions s_v3 = new() { OpCountMax = 100, ScratchBytes = 0 };

    [Theory]
    [InlineData("", CowCompression.None, null)]
    [InlineData("none", CowCompression.None, null)]
    [InlineData("gz", CowCompression.Gz, null)]
    [InlineData("gz,4", CowCompression.Gz, 4)]
    [InlineData("brotli", CowCompression.Brotli, null)]
    [InlineData("brotli,0", CowCompression.Brotli, 0)]
    [InlineData("lz4", CowCompression.Lz4, null)]
    [InlineData("lz4,7", CowCompression.Lz4, 7)]
    [InlineData("zstd,19", CowCompression.Zstd, 19)]
    [InlineData("zstd,-7", CowCompression.Zstd, -7)]
    public void Compression_is_an_algorithm_with_an_optional_level(string text, CowCompression algorithm, int? level) =>
        Assert.Equal((algorithm, level), CowWriterOptions.ParseCompression(text));

    [Theory]
    [InlineData("gz,4,4", "3 parts")]
    [InlineData("zstd,x", "\"x\" is not a number")]
    [InlineData("zstd,", "\"\" is not a number")]
    [InlineData("zstd, 3", "\" 3\" is not a number")]
    [InlineData("zs,4", "\"zs\" is unknown")]
    [InlineData("zstd.4", "\"zstd.4\" is unknown")]
    [InlineData("GZ", "\"GZ\" is unknown")]
    [InlineData("gz,10", "gz has no level 10, only 0 to 9")]
    [InlineData("gz,-1", "gz has no level -1")]
    [InlineData("brotli,12", "brotli has no level 12, only 0 to 11")]
    [InlineData("zstd,23", "zstd has no level 23")]
    public void Invalid_compression_is_refused(string text, string part)
    {
        SnapuserdException refusal = Assert.ThrowsAny<SnapuserdException>(() => CowWriterOptions.ParseCompression(text));
        Assert.Equal(ExitCode.Usage, refusal.Code);
        Assert.Contains(part, refusal.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(CowCompression.None, 0)]
    [InlineData(CowCompression.Gz, 9)]
    [InlineData(CowCompression.Brotli, 11)]
    [InlineData(CowCompression.Lz4, 0)]
    [InlineData(CowCompression.Zstd, 3)]
    public void Default_level_is_androids(CowCompression algorithm, int level)
    {
        Assert.Equal(level, CowWriterOptions.LevelOf(algorithm, null));
        Assert.Equal(1, CowWriterOptions.LevelOf(algorithm, 1));
    }

    public static IEnumerable<object[]> Nonsense =>
    [
        [s_v3 with { Version = 1 }, "version 1"],
        [s_v3 with { Version = 4 }, "version 4"],
        [s_v3 with { Compression = (CowCompression)5 }, "algorithm 5"],
        [s_v3 with { Compression = CowCompression.Gz, Level = 12 }, "no level 12"],
        [s_v3 with { MaxUnitBytes = 0 }, "units of 0"],
        [s_v3 with { MaxUnitBytes = 2048 }, "units of 2048"],
        [s_v3 with { MaxUnitBytes = 12288 }, "units of 12288"],
        [s_v3 with { MaxUnitBytes = 512 * 1024 }, "units of 524288"],
        [s_v3 with { Version = 2, MaxUnitBytes = 8192 }, "need version 3"],
        [s_v3 with { Version = 2, ClusterOps = 1 }, "clusters of 1"],
        [s_v3 with { ClusterOps = -1 }, "clusters of -1"],
        [s_v3 with { ScratchBytes = 4096 }, "scratch of 4096"],
        [s_v3 with { Threads = 0 }, "0 threads"],
        [s_v3 with { Threads = 257 }, "257 threads"],
        [s_v3 with { OpCountMax = 1UL << 32 }, "4294967296 ops"],
        [s_v3 with { OpCountMax = null }, "needs the number of ops"],
        [s_v3 with { BatchBytes = 0 }, "0 bytes of buffers"],
    ];

    [Theory]
    [MemberData(nameof(Nonsense))]
    public void Invalid_options_are_refused_before_anything_is_written(CowWriterOptions options, string part)
    {
        var output = new MemoryOutput([1, 2, 3]);
        SnapuserdException refusal = Assert.ThrowsAny<SnapuserdException>(() => CowWriter.Create(output, options));
        Assert.Equal(ExitCode.Usage, refusal.Code);
        Assert.Contains(part, refusal.Message, StringComparison.Ordinal);
        Assert.Empty(output.Steps);
    }

    [Fact]
    public void Invalid_calls_are_refused_and_change_nothing()
    {
        byte[] block = new byte[4096];
        foreach (int version in new[] { 2, 3 })
        {
            var output = new MemoryOutput();
            using var writer = CowWriter.Create(output, s_v3 with { Version = version, MaxBlocks = 10 });
            void Refused(string part, Action<CowWriter> call)
            {
                SnapuserdException refusal = Assert.ThrowsAny<SnapuserdException>(() => call(writer));
                Assert.Equal(ExitCode.Usage, refusal.Code);
                Assert.Contains(part, refusal.Message, StringComparison.Ordinal);
            }
            Refused("beyond the limit of 10 blocks", w => w.Zero(10));
            Refused("beyond the limit of 10 blocks", w => w.Copy(9, 0, 2));
            Refused("beyond the limit of 10 blocks", w => w.Replace(uint.MaxValue, block));
            Refused("beyond the limit of 10 blocks", w => w.Xor(8, 0, new byte[3 * 4096]));
            Refused("not whole blocks", w => w.Replace(1, block.AsSpan(1)));
            Refused("not whole blocks", w => w.Xor(1, 0, block.AsSpan(0, 1)));
            Refused("is -1, must be 0 or more", w => w.Zero(1, -1));
            Refused("must be 0 or more", w => w.Copy(1, 1, int.MinValue));
            Refused("48 bits", w => w.Copy(1, 1UL << 48));
            Refused("48 bits", w => w.Xor(1, (1UL << 48) - 1, block));
            Refused("48 bits", w => w.Xor(1, ulong.MaxValue, block));
            writer.Sequence([]);
            writer.Zero(1, 0);
            writer.Copy(1, 1, 0);
            writer.Replace(1, []);
            writer.Xor(1, 1, []);
            Assert.Equal(0, writer.OpCount);
            writer.Zero(9);
            writer.Finish();
            using CowFile cow = CowFile.Read(new MemorySource(output.Bytes));
            Assert.Equal(1, cow.OpCount);
        }
    }

    [Fact]
    public void Highest_block_number_is_written()
    {
        var output = new MemoryOutput();
        using var writer = CowWriter.Create(output, s_v3 with { MaxUnitBytes = 8192 });
        writer.Replace(uint.MaxValue - 1, new byte[8192]);
        Assert.ThrowsAny<SnapuserdException>(() => writer.Zero(uint.MaxValue, 2));
        writer.Finish();
        using CowFile cow = CowFile.Read(new MemorySource(output.Bytes));
        Assert.Equal((uint.MaxValue - 1, 2), (cow[0].NewBlock, cow[0].Blocks));
    }

    [Fact]
    public void Writer_refuses_every_further_call_after_its_output_failed()
    {
        var output = new MemoryOutput { FailFrom = 5000 };
        using var writer = CowWriter.Create(output, s_v3);
        writer.Zero(1);
        writer.Replace(2, new byte[4096]);
        Assert.Equal(ExitCode.InputOutput, Assert.ThrowsAny<SnapuserdException>(writer.Finish).Code);
        output.FailFrom = long.MaxValue;
        int steps = output.Steps.Count;
        foreach (Action call in new Action[] { writer.Finish, () => writer.Zero(3), () => writer.Label(1), () => _ = writer.Size,
            () => writer.Sequence([1]), () => writer.Replace(3, new byte[4096]) })
            Assert.Contains("an earlier write failed", Assert.ThrowsAny<SnapuserdException>(call).Message, StringComparison.Ordinal);
        Assert.Equal(steps, output.Steps.Count);
        writer.Dispose();
        Assert.Throws<ObjectDisposedException>(writer.Finish);
        writer.Dispose();
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void Steady_state_allocates_nothing(int threads)
    {
        byte[] noise = new byte[64 * 4096];
        new Random(1).NextBytes(noise);
        foreach (int version in new[] { 2, 3 })
        {
            using var writer = CowWriter.Create(new NullCowOutput(),
                new CowWriterOptions { Version = version, Compression = CowCompression.Lz4, Threads = threads, BatchBytes = 1 << 20 });
            int round = 0;
            void Rounds()
            {
                for (int i = round, end = round += 100; i < end; i++)
                {
                    writer.Replace((uint)i * 100, noise);
                    writer.Xor(((uint)i * 100) + 70, 5, noise.AsSpan(0, 8192));
                    writer.Zero(((uint)i * 100) + 80, 5);
                    writer.Copy(((uint)i * 100) + 90, 7);
                }
            }
            long allocated = Allocations.Least(Rounds);
            // 100 rounds are 7200 ops: one byte per op would exceed the limit.
            Assert.True(allocated < 4096, $"version {version}: {allocated} bytes for 7200 ops");
        }
    }
}
