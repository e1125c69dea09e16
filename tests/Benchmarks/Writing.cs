using System;
using System.IO;
using Snapuserd.Cow;

namespace Snapuserd.Tests.Benchmarks;

/// <summary>
/// The COW writer, compared with its codec alone: the same blocks, in units of 64 KiB. One thread encodes them one after the other; then a
/// writer gets them and discards its output. With two threads the writer may reach twice the codec's speed.
/// </summary>
internal static class Writing
{
    private const int UnitBytes = 64 << 10;
    private const int CallBlocks = 1024;

    internal static void Run(TextWriter output, int blocks, int turns)
    {
        byte[] data = Content(blocks * CowOp.BlockSize);
        byte[] room = new byte[UnitEncoder.Bound(UnitBytes)];
        foreach ((CowCompression algorithm, int? level, string name) in new (CowCompression, int?, string)[]
            { (CowCompression.Lz4, null, "lz4"), (CowCompression.Zstd, null, "zstd"), (CowCompression.Gz, null, "gz"),
                (CowCompression.Brotli, 5, "brotli,5") })
        {
            // Slow codecs get less data, which does not matter because the result is a rate.
            int length = algorithm is CowCompression.Gz or CowCompression.Brotli ? data.Length / 4 : data.Length;
            foreach (int threads in new[] { 1, Math.Max(2, Environment.ProcessorCount) })
            {
                using UnitEncoder encoder = new(algorithm, level, UnitBytes);
                (Times, Times) times = Turns.Measure(
                    () =>
                    {
                        for (int at = 0; at < length; at += UnitBytes)
                            encoder.Encode(data.AsSpan(at, Math.Min(UnitBytes, length - at)), room);
                    },
                    () => Write(data.AsSpan(0, length), new CowWriterOptions
                    {
                        Compression = algorithm,
                        Level = level,
                        MaxUnitBytes = UnitBytes,
                        Threads = threads,
                        MaxBlocks = (uint)blocks,
                        ScratchBytes = 0,
                    }),
                    turns);
                Turns.Print(output, $"{name}, {threads} thread{(threads == 1 ? "" : "s")}", "codec, 1 thread", times, length / 1e6, "MB/s");
            }
        }
    }

    private static void Write(ReadOnlySpan<byte> data, CowWriterOptions options)
    {
        using CowWriter writer = CowWriter.Create(new NullCowOutput(), options);
        uint block = 0;
        for (int at = 0; at < data.Length; at += CallBlocks * CowOp.BlockSize, block += CallBlocks)
            writer.Replace(block, data.Slice(at, Math.Min(CallBlocks * CowOp.BlockSize, data.Length - at)));
        writer.Finish();
    }

    /// <summary>Bytes that compress about as well as programs, to half: words of a small dictionary between distinct numbers.</summary>
    private static byte[] Content(int length)
    {
        byte[] bytes = new byte[length];
        Random random = new(1);
        for (int at = 0; at < length;)
        {
            if (random.Next(3) == 0)
            {
                int count = Math.Min(random.Next(4, 24), length - at);
                random.NextBytes(bytes.AsSpan(at, count));
                at += count;
            }
            else
            {
                int word = random.Next(2000), count = Math.Min(6 + (word % 9), length - at);
                for (int i = 0; i < count; i++) bytes[at + i] = (byte)(word * (i + 7) % 251);
                at += count;
            }
        }
        return bytes;
    }
}
