using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>The same calls give the bytes that Android's writer gave.</summary>
public sealed class WriterGoldenTests
{
    private static readonly byte[] s_t = AndroidFiles.T;
    private static readonly byte[] s_m = AndroidFiles.M;

    public static IEnumerable<object[]> Names => Golden.CowNames;

    public static IEnumerable<object[]> NamesAndThreads => Golden.Cows.SelectMany(cow => new[] { 1, 2, 5 }.Select(threads => new object[] { cow.Name, threads }));

    [Fact]
    public void Version_2_file_is_androids_byte_for_byte()
    {
        var output = new MemoryOutput();
        using var writer = CowWriter.Create(output, new CowWriterOptions { Version = 2, Compression = CowCompression.Gz, ClusterOps = 3, ScratchBytes = 0 });
        writer.Copy(10, 20);
        writer.Replace(50, s_t);
        writer.Xor(51, (24 * 4096) + 10, s_m);
        writer.Zero(7);
        writer.Label(9);
        writer.Finish();
        Assert.Equal(Convert.ToHexString(AndroidFiles.V2), Convert.ToHexString(output.Bytes));
        Assert.Equal(output.Length, writer.Size);
    }

    [Fact]
    public void Version_3_file_is_androids_byte_for_byte()
    {
        var output = new MemoryOutput();
        using var writer = CowWriter.Create(output, new CowWriterOptions { Compression = CowCompression.Gz, MaxUnitBytes = 8192, ScratchBytes = 0, OpCountMax = 5 });
        writer.Sequence([51, 10]);
        writer.Copy(10, 20);
        writer.Replace(48, s_t.Concat(s_t).ToArray());
        writer.Xor(51, (24 * 4096) + 10, s_m);
        writer.Label(9);
        writer.Zero(7);
        writer.Finish();
        Assert.Equal(Convert.ToHexString(AndroidFiles.V3), Convert.ToHexString(output.Bytes));
        Assert.Equal(output.Length, writer.Size);
    }

    [Fact]
    public void Clusters_lie_where_androids_test_file_has_them()
    {
        var output = new MemoryOutput();
        using var writer = CowWriter.Create(output, new CowWriterOptions { Version = 2, ClusterOps = 5 });
        writer.Copy(0, 5);
        writer.Replace(2, new byte[4096]);
        writer.Label(1);
        writer.Xor(50, (24 * 4096) + 10, new byte[4096]);
        writer.Zero(5, 10);
        writer.Label(2);
        writer.Finish();
        var builder = new CowBuilder { Version = 2, ClusterOps = 5 }.Copy(0, 5).Replace(2, new byte[4096]).Label(1).Xor(50, (24 * 4096) + 10, new byte[4096]);
        for (uint block = 5; block < 15; block++) builder.Zero(block);
        Assert.Equal(2105826, output.Length);
        Assert.Equal(builder.Label(2).Build(), output.Bytes);
    }

    [Theory]
    [InlineData(CowCompression.Gz, 4096, "78daedc2510900200c4041a32c80712c3071e040f163627ecd21efb8d23de48d354d9a6ecd526db81d13df090000000000fce002f8ca0a48")]
    [InlineData(CowCompression.Lz4, 4096, "ff0f5468697320697320736f6d6520646174612c2062656c69657665206974000100ffffffffffffffffffffffffffffffd9500000000000")]
    [InlineData(CowCompression.Zstd, 4096, "28b52ffd60000f2d0100f05468697320697320736f6d6520646174612c2062656c696576652069740001007edf074e")]
    [InlineData(CowCompression.Zstd, 65536, "28b52ffd6000ff350100f05468697320697320736f6d6520646174612c2062656c696576652069740001007eff75e004")]
    [InlineData(CowCompression.Brotli, 4096, "1bff0fe817a1d213208d2e0529e4b31a514a04abae728b3f7424cd7900d000")]
    [InlineData(CowCompression.Brotli, 65536, "1bffffe817a1d213208d2e0529e4b31a514a04abae728b3f7424cd790fd000")]
    public void Text_block_is_encoded_as_android_does_whatever_came_before(CowCompression algorithm, int unit, string hex)
    {
        byte[] plain = new byte[unit], noise = new byte[unit], room = new byte[UnitEncoder.Bound(unit)];
        s_t.CopyTo(plain, 0);
        new Random(5).NextBytes(noise);
        using var encoder = new UnitEncoder(algorithm, null, unit);
        for (int i = 0; i < 3; i++)
        {
            Assert.Equal(hex, Convert.ToHexString(room.AsSpan(0, encoder.Encode(plain, room))).ToLowerInvariant());
            Assert.True(encoder.Encode(noise, room) > 0);
        }
    }

    [Theory]
    [InlineData(CowCompression.None, null)]
    [InlineData(CowCompression.Gz, 0)]
    [InlineData(CowCompression.Gz, 1)]
    [InlineData(CowCompression.Gz, null)]
    [InlineData(CowCompression.Brotli, 0)]
    [InlineData(CowCompression.Brotli, 5)]
    [InlineData(CowCompression.Brotli, 10)]
    [InlineData(CowCompression.Brotli, null)]
    [InlineData(CowCompression.Lz4, null)]
    [InlineData(CowCompression.Zstd, -5)]
    [InlineData(CowCompression.Zstd, null)]
    [InlineData(CowCompression.Zstd, 22)]
    public void Incompressible_units_of_every_size_fit_the_bound(CowCompression algorithm, int? level)
    {
        for (int unit = 4096; unit <= 256 * 1024; unit *= 2)
        {
            byte[] noise = new byte[unit], room = new byte[UnitEncoder.Bound(unit)], back = new byte[unit];
            new Random(unit).NextBytes(noise);
            using var encoder = new UnitEncoder(algorithm, level, unit);
            using var decoder = new UnitDecoder(algorithm);
            int length = encoder.Encode(noise, room);
            Assert.InRange(length, unit, room.Length);
            Assert.Equal(0, decoder.Decode(algorithm, room.AsSpan(0, length), back));
            Assert.Equal(noise, back);
        }
    }

    [Theory]
    [MemberData(nameof(NamesAndThreads))]
    public void Androids_file_written_again_from_its_ops_is_the_same(string name, int threads)
    {
        GoldenCow row = Golden.Row(name);
        byte[] golden = Golden.Cow(name);
        (CowCompression compression, int? level) = CowWriterOptions.ParseCompression(row.Compression);
        using CowFile cow = CowFile.Read(new MemorySource(golden, name));
        var options = new CowWriterOptions
        {
            Version = row.Version,
            Compression = compression,
            Level = level,
            MaxUnitBytes = row.Factor,
            ClusterOps = row.ClusterOps,
            ScratchBytes = row.Scratch ? CowWriterOptions.DefaultScratchBytes : 0,
            OpCountMax = row.Version == 3 ? cow.Header.OpCountMax : null,
            Threads = threads,
            BatchBytes = 1024 * 1024,
        };
        var output = new MemoryOutput();
        using var writer = CowWriter.Create(output, options);
        foreach (Call call in Call.All(golden, cow)) call.On(writer);
        writer.Finish();
        Assert.Equal(golden.Length, output.Length);
        Assert.True(golden.AsSpan().SequenceEqual(output.Bytes), $"first difference at {golden.AsSpan().CommonPrefixLength(output.Bytes)}");
        Assert.Equal(golden.Length, writer.Size);
        Assert.Equal(cow.OpCount, writer.OpCount);
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Estimate_is_the_size_of_androids_file(string name)
    {
        GoldenCow row = Golden.Row(name);
        byte[] golden = Golden.Cow(name);
        (CowCompression compression, int? level) = CowWriterOptions.ParseCompression(row.Compression);
        using CowFile cow = CowFile.Read(new MemorySource(golden, name));
        var options = new CowWriterOptions
        {
            Version = row.Version,
            Compression = compression,
            Level = level,
            MaxUnitBytes = row.Factor,
            ClusterOps = row.ClusterOps,
            ScratchBytes = row.Scratch ? CowWriterOptions.DefaultScratchBytes : 0,
        };
        using var writer = CowWriter.Create(new NullCowOutput(), options);
        foreach (Call call in Call.All(golden, cow)) call.On(writer);
        long spare = row.Version == 3 ? 16 * ((long)cow.Header.OpCountMax - writer.OpSlots) : 0;
        Assert.Equal(golden.Length, writer.Size + spare);
        if (row.Version == 3) Assert.Equal(cow.OpCount, writer.OpSlots);
    }
}

/// <summary>One call on a writer.</summary>
internal sealed record Call(CowOpType Type, uint NewBlock, ulong Source, byte[]? Plain = null, uint[]? Blocks = null)
{
    /// <summary>Makes it.</summary>
    public void On(CowWriter writer)
    {
        switch (Type)
        {
            case CowOpType.Copy: writer.Copy(NewBlock, Source); break;
            case CowOpType.Replace: writer.Replace(NewBlock, Plain); break;
            case CowOpType.Zero: writer.Zero(NewBlock); break;
            case CowOpType.Xor: writer.Xor(NewBlock, Source, Plain); break;
            case CowOpType.Label: writer.Label(Source); break;
            case CowOpType.Sequence: writer.Sequence(Blocks); break;
            default: throw new ArgumentException($"{Type} is no call");
        }
    }

    /// <summary>
    /// The calls that made <paramref name="file"/>, read off its records by the rules of the format and, but for the decoder, without
    /// src/Cow: v2's labels and lists are not in <paramref name="cow"/>.
    /// </summary>
    public static IEnumerable<Call> All(byte[] file, CowFile cow)
    {
        using var decoder = new UnitDecoder();
        byte[] Plain(in CowOp op)
        {
            byte[] unit = new byte[op.UnitBytes];
            Assert.Equal(0, decoder.Decode(cow.AlgorithmOf(op), file.AsSpan((int)op.DataOffset, op.DataLength), unit));
            return unit;
        }
        Call Of(in CowOp op) => new(op.Type, op.NewBlock, (ulong)op.Source, op.HasData ? Plain(op) : null);

        if (cow.Header.Major == 3)
        {
            if (cow.SequenceCount > 0)
                yield return new Call(CowOpType.Sequence, 0, 0, Blocks: Enumerable.Range(0, cow.SequenceCount).Select(i => BitConverter.ToUInt32(file, (int)cow.Header.SequenceOffset + (4 * i))).ToArray());
            for (int i = 0; i < cow.OpCount; i++)
            {
                foreach (ResumePoint point in cow.ResumePoints.Where(point => point.OpIndex == (ulong)i)) yield return new Call(CowOpType.Label, 0, point.Label);
                yield return Of(cow[i]);
            }
            foreach (ResumePoint point in cow.ResumePoints.Where(point => point.OpIndex == (ulong)cow.OpCount)) yield return new Call(CowOpType.Label, 0, point.Label);
            yield break;
        }
        int index = 0;
        for (int position = (int)cow.Header.ScratchEnd; ;)
        {
            var type = (CowOpType)file[position];
            int length = BitConverter.ToUInt16(file, position + 2);
            ulong source = BitConverter.ToUInt64(file, position + 12);
            position += 20;
            switch (type)
            {
                case CowOpType.Footer: yield break;
                case CowOpType.Cluster: position += (int)source; break;
                case CowOpType.Label: yield return new Call(type, 0, source); break;
                case CowOpType.Sequence:
                    yield return new Call(type, 0, 0, Blocks: Enumerable.Range(0, length / 4).Select(i => BitConverter.ToUInt32(file, (int)source + (4 * i))).ToArray());
                    break;
                default:
                    yield return Of(cow[index++]);
                    if (cow.Header.ClusterOps == 0) position += length;
                    break;
            }
        }
    }
}
