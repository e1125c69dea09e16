using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>Stopping a writer, and the number of threads it uses.</summary>
public sealed class WriterStopTests
{
    private static readonly CowWriterOptions s_options = new() { ScratchBytes = 0, OpCountMax = 10000, Compression = CowCompression.Lz4 };

    /// <summary>An output that requests a stop when the writer writes at or after offset <paramref name="from"/>.</summary>
    private sealed class StoppingOutput(MemoryOutput inner, StopFlag stop, long from) : ICowOutput
    {
        public string Name => inner.Name;

        public long Length => inner.Length;

        public long? Capacity => inner.Capacity;

        public void Write(long offset, ReadOnlySpan<byte> bytes)
        {
            if (offset >= from) stop.Request();
            inner.Write(offset, bytes);
        }

        public void Read(long offset, Span<byte> destination) => inner.Read(offset, destination);

        public void Flush() => inner.Flush();

        public void Truncate(long length) => inner.Truncate(length);
    }

    private static byte[] Noise(int blocks)
    {
        byte[] noise = new byte[blocks * 4096];
        new Random(7).NextBytes(noise);
        return noise;
    }

    private static void Stopped(Action call) => Assert.Equal(ExitCode.Interrupted, Assert.ThrowsAny<SnapuserdException>(call).Code);

    [Theory]
    [InlineData(2, 1)]
    [InlineData(2, 2)]
    [InlineData(3, 1)]
    [InlineData(3, 2)]
    public void Every_call_after_a_stop_fails_and_writes_nothing(int version, int threads)
    {
        var stop = new StopFlag();
        var output = new MemoryOutput();
        using var writer = CowWriter.Create(output, s_options with { Version = version, Threads = threads, Stop = stop });
        writer.Replace(0, Noise(100));
        writer.Label(1);
        writer.Replace(100, Noise(100));
        int steps = output.Steps.Count;
        stop.Request();
        foreach (Action call in new Action[]
                 {
                     writer.Finish, () => writer.Zero(300), () => writer.Copy(300, 1), () => writer.Label(2), () => _ = writer.Size,
                     () => writer.Replace(300, Noise(1)), () => writer.Xor(300, 0, Noise(1)), () => writer.Sequence([1]),
                 })
        {
            Stopped(call);
        }
        writer.Dispose();
        Assert.Equal(steps, output.Steps.Count);
        using var again = CowWriter.OpenAt(output, 1, s_options with { Version = version });
        Assert.Equal(100, again.OpCount);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public void Stop_ends_a_call_that_waits_for_encoders(int threads)
    {
        var stop = new StopFlag();
        var file = new MemoryOutput();
        long data = 78 + 64 + (16 * 10000);
        // Stop is requested with the first megabyte written, when many payloads are not yet encoded.
        var output = new StoppingOutput(file, stop, data);
        using (CowWriter writer = CowWriter.Create(output, s_options with { Threads = threads, Stop = stop, BatchBytes = 512 * 1024 }))
        {
            Stopped(() => writer.Replace(0, Noise(2000)));
            Stopped(writer.Finish);
        }
        Assert.InRange(file.Length, data, data + (2 << 20));
        using CowFile cow = CowFile.Read(new MemorySource(file.Bytes));
        Assert.Equal(0, cow.OpCount);
    }

    [Theory]
    [InlineData(CowCompression.None, null, 4096, 8, 1, 1)]
    [InlineData(CowCompression.Lz4, null, 4096, 8, 256, 256)]
    [InlineData(CowCompression.Gz, 9, 4096, 8, 20, 40)]
    [InlineData(CowCompression.Brotli, 9, 4096, 8, 1, 1)]
    [InlineData(CowCompression.Brotli, 11, 4096, 32, 8, 24)]
    [InlineData(CowCompression.Zstd, 3, 4096, 8, 20, 64)]
    [InlineData(CowCompression.Zstd, 19, 262144, 8, 1, 2)]
    [InlineData(CowCompression.Zstd, 19, 262144, 32, 4, 9)]
    public void Writer_starts_as_many_threads_as_fit_the_memory(CowCompression compression, int? level, int unit, int mebibytes,
        int least, int most)
    {
        int Threads(int asked)
        {
            using var writer = CowWriter.Create(new NullCowOutput(), new CowWriterOptions
            {
                Compression = compression,
                Level = level,
                MaxUnitBytes = unit,
                Threads = asked,
                BatchBytes = mebibytes << 20,
            });
            return writer.Threads;
        }
        Assert.Equal(1, Threads(1));
        int threads = Threads(CowWriterOptions.MaxThreads);
        Assert.InRange(threads, least, most);
        Assert.Equal(threads, Threads(threads));
    }

    [Fact]
    public void One_thread_runs_with_any_amount_of_memory()
    {
        byte[] noise = Noise(128);
        var files = new byte[2][];
        for (int i = 0; i < 2; i++)
        {
            var output = new MemoryOutput();
            using var writer = CowWriter.Create(output, s_options with
            {
                Compression = CowCompression.Zstd,
                MaxUnitBytes = 262144,
                Threads = 8,
                BatchBytes = i == 0 ? 1 : 64 << 20,
            });
            Assert.Equal(i == 0 ? 1 : 8, writer.Threads);
            writer.Replace(0, noise);
            writer.Finish();
            files[i] = output.Bytes;
        }
        Assert.Equal(files[0], files[1]);
    }
}
