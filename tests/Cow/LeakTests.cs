using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>Memory outside the managed heap is returned to the system, whether a call succeeds or fails.</summary>
[Collection(nameof(LeakTests))]
[CollectionDefinition(nameof(LeakTests), DisableParallelization = true)]
public sealed class LeakTests
{
    private const long Most = 24 << 20;

    private static readonly byte[] s_noise = Noise(64 << 10);

    private static byte[] Noise(int length)
    {
        byte[] noise = new byte[length];
        new Random(length).NextBytes(noise);
        return noise;
    }

    private static byte[] Zeros(uint ops, ulong merged = 0)
    {
        CowBuilder cow = new() { ScratchBytes = 0, NumMergeOps = merged };
        for (uint i = 0; i < ops; i++) cow.Zero(i);
        return cow.Build();
    }

    [Fact]
    public void Disposed_file_frees_the_memory_of_its_ops()
    {
        MemorySource good = new(Zeros(100_000));
        Assert.InRange(ProcessMemory.Growth(() => ProcessMemory.Used, 20, () => CowFile.Read(good).Dispose()), long.MinValue, Most);
        MemorySource bad = new(Zeros(100_000, 100_001));
        Assert.InRange(ProcessMemory.Growth(() => ProcessMemory.Used, 20,
            () => Assert.ThrowsAny<SnapuserdException>(() => CowFile.Read(bad))), long.MinValue, Most);
    }

    [Theory]
    [InlineData(CowCompression.Gz, 300)]
    [InlineData(CowCompression.Zstd, 100)]
    public void Disposed_encoder_frees_its_context(CowCompression compression, int times)
    {
        byte[] room = new byte[UnitEncoder.Bound(s_noise.Length)];
        Assert.InRange(ProcessMemory.Growth(() => ProcessMemory.Used, times, () =>
        {
            using UnitEncoder encoder = new(compression, null, s_noise.Length);
            Assert.InRange(encoder.Encode(s_noise, room), 1, room.Length);
        }), long.MinValue, Most);
    }

    [Theory]
    [InlineData(CowCompression.Gz, 8000)]
    [InlineData(CowCompression.Zstd, 800)]
    public void Disposed_decoder_frees_its_context(CowCompression compression, int times)
    {
        byte[] stored = Compressors.Compress(compression, s_noise.AsSpan(0, 4096), 4096), unit = new byte[4096];
        Assert.InRange(ProcessMemory.Growth(() => ProcessMemory.Used, times, () =>
        {
            using UnitDecoder decoder = new();
            Assert.Equal(0, decoder.Decode(compression, stored, unit));
        }), long.MinValue, Most);
    }

    [Theory]
    // The first row measures the buffers, the second the encoder's context, the third the buffers of two threads.
    [InlineData(8 << 20, 1, 20)]
    [InlineData(1, 1, 300)]
    [InlineData(8 << 20, 2, 20)]
    public void Disposed_writer_frees_its_buffers_and_encoders(int bytes, int threads, int times)
    {
        // The buffers are mapped but not touched.
        Func<long> measure = bytes == 1 ? () => ProcessMemory.Used : () => ProcessMemory.Writable;
        long most = bytes == 1 ? Most : 80 << 20;
        CowWriterOptions options = new() { Compression = CowCompression.Gz, BatchBytes = bytes, Threads = threads, OpCountMax = 10 };
        Assert.InRange(ProcessMemory.Growth(measure, times, () =>
        {
            using CowWriter writer = CowWriter.Create(new NullCowOutput(), options);
            writer.Replace(1, s_noise.AsSpan(0, 4096));
        }), long.MinValue, most);
        // The file is refused, so the writer is never created.
        MemoryOutput bad = new(Zeros(2));
        Assert.InRange(ProcessMemory.Growth(measure, times,
            () => Assert.ThrowsAny<SnapuserdException>(() => CowWriter.OpenAt(bad, 7, options with { Compression = CowCompression.None }))),
            long.MinValue, most);
    }
}
