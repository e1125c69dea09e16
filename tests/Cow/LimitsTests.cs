using System;
using System.Diagnostics;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Cow;

/// <summary>Large and hostile files: memory and time are bounded, and every invalid file is refused with exit code 65.</summary>
public sealed class LimitsTests(ITestOutputHelper output)
{
    private const int Million = 1_000_000;

    private static CowBuilder Big(int version)
    {
        var random = new Random(1);
        uint[] blocks = Enumerable.Range(0, Million / 2).Select(i => (uint)i).ToArray();
        random.Shuffle(blocks);
        var builder = new CowBuilder { Version = version, ScratchBytes = 0, ClusterOps = version == 3 ? 0 : 1024 };
        builder.Sequence(blocks);
        foreach (uint block in blocks) builder.Copy(block, block + 5_000_000ul);
        for (uint i = 0; i < Million / 2; i++) builder.Zero(2_000_000 + (i * 3));
        return builder;
    }

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public void Million_ops_take_at_most_32_bytes_each_and_no_managed_memory(int version)
    {
        var source = new MemorySource(Big(version).Build());
        CowFile.Read(source).Dispose();
        long before = GC.GetAllocatedBytesForCurrentThread();
        var watch = Stopwatch.StartNew();
        using CowFile cow = CowFile.Read(source);
        long managed = GC.GetAllocatedBytesForCurrentThread() - before;
        TimeSpan read = watch.Elapsed;
        int[] limits = new int[cow.Order.Count];
        watch.Restart();
        cow.Order.Check(true, limits);
        output.WriteLine(
            $"read {read.TotalMilliseconds:f0} ms, check {watch.ElapsedMilliseconds} ms, {managed} managed bytes, {source.Reads} reads");
        Assert.Equal(Million, cow.OpCount);
        Assert.True(CowFile.BytesPerOp <= 32);
        Assert.InRange(managed, 0, 256 * 1024);
        Assert.InRange(source.Reads, 1, 20_000);
    }

    /// <summary>The memory for this many ops is 60 GiB. Either the system refuses it, or reading the first op fails.</summary>
    [Theory]
    [InlineData(int.MaxValue, false)]
    [InlineData(int.MaxValue + 1L, true)]
    public void File_with_more_ops_than_an_int_can_count_is_refused(long ops, bool refused)
    {
        byte[] header = new CowBuilder { ScratchBytes = 0, ResumeMax = 0 }.Build();
        Refusal.Put(header, 54, 8, (ulong)ops);
        Refusal.Put(header, 62, 8, (ulong)ops);
        SnapuserdException exception = Assert.ThrowsAny<SnapuserdException>(() => CowFile.Read(new HeaderSource(header)).Dispose());
        if (refused)
        {
            Assert.Equal(ExitCode.CowCorrupt, exception.Code);
            Assert.Contains("a count is 2147483648, more than the 2147483647 this program takes", exception.Message,
                StringComparison.Ordinal);
        }
        else Assert.True(exception.Code is ExitCode.OutOfResources or ExitCode.InputOutput, exception.Message);
    }

    /// <summary>A long file in which only the header can be read.</summary>
    private sealed class HeaderSource(byte[] header) : IByteSource
    {
        public string Name => "long.cow";

        public long Length => 1L << 40;

        public void Read(long offset, Span<byte> destination)
        {
            if (offset + destination.Length > header.Length) throw new SnapuserdException(ExitCode.InputOutput, "not the header");
            header.AsSpan((int)offset, destination.Length).CopyTo(destination);
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void File_with_random_wrong_bytes_is_refused_with_exit_code_65_or_can_be_used(int version)
    {
        int refused = 0;
        byte[] good = new CowBuilder
        {
            Version = version,
            Compression = version == 1 ? CowCompression.Gz : CowCompression.Lz4,
            ScratchBytes = 0,
            ClusterOps = version == 3 ? 0 : 4,
            MaxUnitBytes = 16384,
        }
            .Sequence(10, 51).Copy(10, 20).Replace(16, AndroidFiles.T).Xor(51, 98314, AndroidFiles.M).Label(3).Zero(7)
            .Replace(30, AndroidFiles.M).Build();
        for (int seed = 0; seed < 20_000; seed++)
        {
            var random = new Random(seed);
            byte[] file = (byte[])good.Clone();
            int flips = random.Next(1, 5);
            for (int i = 0; i < flips; i++)
            {
                int at = random.Next(file.Length);
                file[at] =
                    random.Next(4) switch { 0 => 0xff, 1 => 0, 2 => (byte)(file[at] ^ (1 << random.Next(8))), _ => (byte)random.Next(256) };
            }
            if (random.Next(5) == 0) file = file[..random.Next(file.Length)];
            try
            {
                using CowFile cow = CowFile.Read(new MemorySource(file, $"seed {seed}"));
                using var decoder = new UnitDecoder();
                cow.Order.AndroidCanMerge(out _);
                for (int p = 0; p < cow.Order.Count; p++)
                {
                    CowOp op = cow[cow.Order.OpIndex(p)];
                    if (op.HasData)
                        decoder.Decode(cow.AlgorithmOf(op), file.AsSpan((int)op.DataOffset, op.DataLength), new byte[op.UnitBytes]);
                    Assert.True(cow.Order.PositionWriting(op.NewBlock) >= 0);
                }
                cow.Order.Check(true, new int[cow.Order.Count]);
                cow.CheckDevices(1L << 40, 1L << 40);
            }
            catch (SnapuserdException refusal)
            {
                Assert.Equal(ExitCode.CowCorrupt, refusal.Code);
                Assert.Contains($"seed {seed}", refusal.Message, StringComparison.Ordinal);
                refused++;
            }
            catch (Exception)
            {
                output.WriteLine($"seed {seed}");
                throw;
            }
        }
        output.WriteLine($"{refused} of 20000 refused");
        Assert.InRange(refused, 2000, 19_999);
    }

    [Fact]
    public void Failing_read_of_a_file_ends_with_exit_code_74()
    {
        SnapuserdException failure =
            Assert.ThrowsAny<SnapuserdException>(() => CowFile.Read(new Failing(new CowBuilder().Zero(1).Build())));
        Assert.Equal(ExitCode.InputOutput, failure.Code);
    }

    private sealed class Failing(byte[] bytes) : IByteSource
    {
        public string Name => "failing";

        public long Length => bytes.Length;

        public void Read(long offset, Span<byte> destination)
        {
            if (offset > 78) throw new SnapuserdException(ExitCode.InputOutput, "failing: read failed");
            bytes.AsSpan((int)offset, destination.Length).CopyTo(destination);
        }
    }
}
