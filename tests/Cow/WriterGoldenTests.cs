using System;
using System.Collections.Generic;
using System.Linq;
using System.Reflection;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>The same calls give the same bytes as Android's writer.</summary>
public sealed class WriterGoldenTests
{
    private static readonly byte[] s_t = AndroidFiles.T;
    private static readonly byte[] s_m = AndroidFiles.M;

    public static IEnumerable<object[]> Names => Golden.CowNames;

    public static IEnumerable<object[]> NamesAndThreads =>
        Golden.Cows.SelectMany(cow => new[] { 1, 2, 5 }.Select(threads => new object[] { cow.Name, threads }));

    [GoldenFact(CowCompression.Gz)]
    public void Version_2_file_has_androids_golden_bytes() =>
        Assert.Equal(Convert.ToHexString(AndroidFiles.V2), Convert.ToHexString(Version2()));

    [Fact]
    public void Version_2_file_has_the_ops_and_contents_of_androids() => SameMeaning(AndroidFiles.V2, Version2());

    [GoldenFact(CowCompression.Gz)]
    public void Version_3_file_has_androids_golden_bytes() =>
        Assert.Equal(Convert.ToHexString(AndroidFiles.V3), Convert.ToHexString(Version3()));

    [Fact]
    public void Version_3_file_has_the_ops_and_contents_of_androids() => SameMeaning(AndroidFiles.V3, Version3());

    private static byte[] Version2()
    {
        var output = new MemoryOutput();
        using var writer = CowWriter.Create(output,
            new CowWriterOptions { Version = 2, Compression = CowCompression.Gz, ClusterOps = 3, ScratchBytes = 0 });
        writer.Copy(10, 20);
        writer.Replace(50, s_t);
        writer.Xor(51, (24 * 4096) + 10, s_m);
        writer.Zero(7);
        writer.Label(9);
        writer.Finish();
        Assert.Equal(output.Length, writer.Size);
        return output.Bytes.ToArray();
    }

    private static byte[] Version3()
    {
        var output = new MemoryOutput();
        using var writer = CowWriter.Create(output,
            new CowWriterOptions { Compression = CowCompression.Gz, MaxUnitBytes = 8192, ScratchBytes = 0, OpCountMax = 5 });
        writer.Sequence([51, 10]);
        writer.Copy(10, 20);
        writer.Replace(48, s_t.Concat(s_t).ToArray());
        writer.Xor(51, (24 * 4096) + 10, s_m);
        writer.Label(9);
        writer.Zero(7);
        writer.Finish();
        Assert.Equal(output.Length, writer.Size);
        return output.Bytes.ToArray();
    }

    /// <summary>Checks for the same ops in the same order, whose units decode to the same bytes. The stored bytes may differ.</summary>
    private static void SameMeaning(byte[] golden, byte[] written)
    {
        using CowFile first = CowFile.Read(new MemorySource(golden, "golden")), second = CowFile.Read(new MemorySource(written, "written"));
        Assert.Equal(first.Header with { }, second.Header with { });
        Call[] wanted = [.. Call.All(golden, first)], found = [.. Call.All(written, second)];
        Assert.Equal(wanted.Length, found.Length);
        for (int i = 0; i < wanted.Length; i++)
        {
            Assert.Equal(wanted[i] with { Plain = null, Blocks = null }, found[i] with { Plain = null, Blocks = null });
            Assert.Equal(wanted[i].Plain, found[i].Plain);
            Assert.Equal(wanted[i].Blocks, found[i].Blocks);
        }
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
        var builder = new CowBuilder { Version = 2, ClusterOps = 5 }.Copy(0, 5).Replace(2, new byte[4096]).Label(1)
            .Xor(50, (24 * 4096) + 10, new byte[4096]);
        for (uint block = 5; block < 15; block++) builder.Zero(block);
        Assert.Equal(2105826, output.Length);
        Assert.Equal(builder.Label(2).Build(), output.Bytes);
    }

    [Theory]
    [GoldenData(CowCompression.Gz, 4096,
        "78daedc2510900200c4041a32c80712c3071e040f163627ecd21efb8d23de48d354d9a6ecd526db81d13df090000000000fce002f8ca0a48")]
    [GoldenData(CowCompression.Lz4, 4096,
        "ff0f5468697320697320736f6d6520646174612c2062656c69657665206974000100ffffffffffffffffffffffffffffffd9500000000000")]
    [GoldenData(CowCompression.Zstd, 4096,
        "28b52ffd60000f2d0100f05468697320697320736f6d6520646174612c2062656c696576652069740001007edf074e")]
    [GoldenData(CowCompression.Zstd, 65536,
        "28b52ffd6000ff350100f05468697320697320736f6d6520646174612c2062656c696576652069740001007eff75e004")]
    [GoldenData(CowCompression.Brotli, 4096, "1bff0fe817a1d213208d2e0529e4b31a514a04abae728b3f7424cd7900d000")]
    [GoldenData(CowCompression.Brotli, 65536, "1bffffe817a1d213208d2e0529e4b31a514a04abae728b3f7424cd790fd000")]
    public void Text_block_is_encoded_to_androids_golden_bytes_before_and_after_noise(CowCompression algorithm, int unit, string hex)
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
    [InlineData(CowCompression.Gz, 4096)]
    [InlineData(CowCompression.Lz4, 4096)]
    [InlineData(CowCompression.Zstd, 4096)]
    [InlineData(CowCompression.Zstd, 65536)]
    [InlineData(CowCompression.Brotli, 4096)]
    [InlineData(CowCompression.Brotli, 65536)]
    public void Text_block_is_encoded_to_the_same_bytes_before_and_after_noise(CowCompression algorithm, int unit)
    {
        byte[] plain = new byte[unit], noise = new byte[unit], room = new byte[UnitEncoder.Bound(unit)];
        s_t.CopyTo(plain, 0);
        new Random(5).NextBytes(noise);
        using var encoder = new UnitEncoder(algorithm, null, unit);
        using var decoder = new UnitDecoder(algorithm);
        byte[] first = room.AsSpan(0, encoder.Encode(plain, room)).ToArray(), back = new byte[unit];
        Assert.Equal(0, decoder.Decode(algorithm, first, back));
        Assert.Equal(plain, back);
        for (int i = 0; i < 3; i++)
        {
            Assert.Equal(first, room.AsSpan(0, encoder.Encode(plain, room)).ToArray());
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
    [GoldenCows(CowCompression.None, 1, 2, 5)]
    [GoldenCows(CowCompression.Gz, 1, 2, 5)]
    [GoldenCows(CowCompression.Brotli, 1, 2, 5)]
    [GoldenCows(CowCompression.Lz4, 1, 2, 5)]
    [GoldenCows(CowCompression.Zstd, 1, 2, 5)]
    public void Androids_file_written_again_from_its_ops_has_its_golden_bytes(string name, int threads)
    {
        byte[] golden = Golden.Cow(name), written = Again(name, threads);
        Assert.Equal(golden.Length, written.Length);
        Assert.True(golden.AsSpan().SequenceEqual(written), $"first difference at {golden.AsSpan().CommonPrefixLength(written)}");
    }

    [Theory]
    [MemberData(nameof(NamesAndThreads))]
    public void Androids_file_written_again_has_the_same_ops_and_contents(string name, int threads) =>
        SameMeaning(Golden.Cow(name), Again(name, threads));

    private static byte[] Again(string name, int threads)
    {
        byte[] golden = Golden.Cow(name);
        using CowFile cow = CowFile.Read(new MemorySource(golden, name));
        CowWriterOptions options = Options(name) with
        {
            OpCountMax = cow.Header.Major == 3 ? cow.Header.OpCountMax : null,
            Threads = threads,
            BatchBytes = 1024 * 1024,
        };
        var output = new MemoryOutput();
        using var writer = CowWriter.Create(output, options);
        foreach (Call call in Call.All(golden, cow)) call.On(writer);
        writer.Finish();
        Assert.Equal(output.Length, writer.Size);
        Assert.Equal(cow.OpCount, writer.OpCount);
        return output.Bytes.ToArray();
    }

    [Theory]
    [GoldenCows(CowCompression.None)]
    [GoldenCows(CowCompression.Gz)]
    [GoldenCows(CowCompression.Brotli)]
    [GoldenCows(CowCompression.Lz4)]
    [GoldenCows(CowCompression.Zstd)]
    public void Estimate_is_the_size_of_androids_golden_bytes(string name) => Assert.Equal(Golden.Cow(name).Length, Estimate(name));

    [Theory]
    [MemberData(nameof(Names))]
    public void Estimate_is_the_size_of_the_file(string name) => Assert.Equal(Again(name, 1).Length, Estimate(name));

    /// <summary>The size that a writer without an output file predicts, with as many spare op slots as Android's file has.</summary>
    private static long Estimate(string name)
    {
        byte[] golden = Golden.Cow(name);
        using CowFile cow = CowFile.Read(new MemorySource(golden, name));
        using var writer = CowWriter.Create(new NullCowOutput(), Options(name));
        foreach (Call call in Call.All(golden, cow)) call.On(writer);
        if (cow.Header.Major == 3) Assert.Equal(cow.OpCount, writer.OpSlots);
        return writer.Size + (cow.Header.Major == 3 ? 16 * ((long)cow.Header.OpCountMax - writer.OpSlots) : 0);
    }

    private static CowWriterOptions Options(string name)
    {
        GoldenCow row = Golden.Row(name);
        (CowCompression compression, int? level) = CowWriterOptions.ParseCompression(row.Compression);
        return new CowWriterOptions
        {
            Version = row.Version,
            Compression = compression,
            Level = level,
            MaxUnitBytes = row.Factor,
            ClusterOps = row.ClusterOps,
            ScratchBytes = row.Scratch ? CowWriterOptions.DefaultScratchBytes : 0,
        };
    }

    [Theory]
    [InlineData(CowCompression.Gz, "1.3.1", false, "zlib has version 1.3.1; the golden bytes are those of 1.2.13")]
    [InlineData(CowCompression.Zstd, "1.5.7", false, "libzstd has version 1.5.7; the golden bytes are those of 1.5.4")]
    [InlineData(CowCompression.Zstd, "1.5.7", true, null)]
    [InlineData(CowCompression.Zstd, "1.5.4", false, null)]
    [InlineData(CowCompression.Lz4, "1.9.4", false, null)]
    [InlineData(CowCompression.Brotli, "1.0.9", false, null)]
    [InlineData(CowCompression.None, "", false, null)]
    public void Golden_bytes_are_skipped_only_if_the_codec_has_another_version(CowCompression algorithm, string found, bool required,
        string? reason) =>
            Assert.Equal(reason, GoldenCodecs.WhyNot(algorithm, found, required));

    [Theory]
    [InlineData(CowCompression.Gz)]
    [InlineData(CowCompression.Brotli)]
    [InlineData(CowCompression.Lz4)]
    [InlineData(CowCompression.Zstd)]
    public void Version_of_every_library_is_found(CowCompression algorithm) =>
        Assert.Matches(@"^[1-9]\.[0-9]+\.[0-9]+", GoldenCodecs.Version(algorithm));

    /// <summary>Checks that the attributes of each test cover the codecs of all golden files, so that no file is left out.</summary>
    [Theory]
    [InlineData(nameof(Androids_file_written_again_from_its_ops_has_its_golden_bytes), 3)]
    [InlineData(nameof(Estimate_is_the_size_of_androids_golden_bytes), 1)]
    public void Every_golden_file_has_its_bytes_compared(string test, int times)
    {
        MethodInfo method = typeof(WriterGoldenTests).GetMethod(test)!;
        IEnumerable<string> names =
            method.GetCustomAttributes<GoldenCowsAttribute>().SelectMany(rows => rows.GetData(method)).Select(row => (string)row[0]);
        Assert.Equal(Golden.Cows.SelectMany(cow => Enumerable.Repeat(cow.Name, times)).Order(), names.Order());
    }
}

/// <summary>One call on a writer.</summary>
internal sealed record Call(CowOpType Type, uint NewBlock, ulong Source, byte[]? Plain = null, uint[]? Blocks = null)
{
    /// <summary>Makes the call.</summary>
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
            default: throw new ArgumentException($"{Type} is not a call");
        }
    }

    /// <summary>
    /// The calls that made <paramref name="file"/>. For v2 they are read from its records by the rules of the format, because
    /// <paramref name="cow"/> does not have v2's labels and lists.
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
                yield return new Call(CowOpType.Sequence, 0, 0, Blocks: Enumerable.Range(0, cow.SequenceCount)
                    .Select(i => BitConverter.ToUInt32(file, (int)cow.Header.SequenceOffset + (4 * i))).ToArray());
            for (int i = 0; i < cow.OpCount; i++)
            {
                foreach (ResumePoint point in cow.ResumePoints.Where(point => point.OpIndex == (ulong)i))
                    yield return new Call(CowOpType.Label, 0, point.Label);
                yield return Of(cow[i]);
            }
            foreach (ResumePoint point in cow.ResumePoints.Where(point => point.OpIndex == (ulong)cow.OpCount))
                yield return new Call(CowOpType.Label, 0, point.Label);
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
                    yield return new Call(type, 0, 0,
                        Blocks: Enumerable.Range(0, length / 4).Select(i => BitConverter.ToUInt32(file, (int)source + (4 * i))).ToArray());
                    break;
                default:
                    yield return Of(cow[index++]);
                    if (cow.Header.ClusterOps == 0) position += length;
                    break;
            }
        }
    }
}
