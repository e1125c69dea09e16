using System;
using System.Globalization;
using System.IO;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>
/// Measures whether the millionth op costs as much as the first. A COW of single blocks without neighbours, half of them copies, the rest
/// compressed or zero, is merged into a sparse image of four blocks per op in memory: up to 16 GiB.
/// </summary>
internal static class Scaling
{
    internal static void Run(TextWriter output, BenchOptions options)
    {
        output.WriteLine("\nScaling, on tmpfs\n\n| ops | image | seconds | µs per op | peak MiB | bytes per further op | of allowed "
            + "|\n|---|---|---|---|---|---|---|");
        (int Ops, double Peak)? smaller = null;
        foreach (int ops in options.Quick ? new[] { 1_000, 10_000, 100_000 } : [1_000, 10_000, 100_000, 1_000_000])
        {
            string folder = $"/dev/shm/snapuserd-bench-{Environment.ProcessId}-scaling";
            // An op needs space for its block, its payload, and some reserve.
            if (new DriveInfo("/dev/shm").AvailableFreeSpace < (long)ops * 5000)
            {
                output.WriteLine($"| {ops} | - | not enough space in /dev/shm | | | | |");
                continue;
            }
            Directory.CreateDirectory(folder);
            try
            {
                (double seconds, double peak) = Measure(folder, ops, options);
                string further =
                    smaller is { } one ? ((peak - one.Peak) / (ops - one.Ops)).ToString("0.0", CultureInfo.InvariantCulture) : "-";
                smaller = (ops, peak);
                double allowed = (32 << 20) + (16 << 20) + (48.0 * ops);
                output.WriteLine(string.Create(CultureInfo.InvariantCulture,
                    $"| {ops} | {(double)ops * 4 * CowOp.BlockSize / (1 << 30):0.00} GiB | {seconds:0.000} | {seconds * 1e6 / ops:0.00} | "
                    + $"{peak / (1 << 20):0.0} | {further} | {peak / allowed:0.00} {(peak <= allowed ? '+' : '-')} |"));
                output.Flush();
            }
            finally
            {
                Directory.Delete(folder, recursive: true);
            }
        }
    }

    private static (double Seconds, double Peak) Measure(string folder, int ops, BenchOptions options)
    {
        string cow = Path.Combine(folder, "cow"), image = Path.Combine(folder, "base");
        double[] seconds = new double[Math.Min(options.Runs, 3)];
        double peak = 0;
        for (int run = 0; run < seconds.Length; run++)
        {
            Write(cow, ops);
            using (FileStream file = File.Create(image)) file.SetLength(4L * ops * CowOp.BlockSize);
            ProgramRun merge = ProgramRun.RunForked(options.Snapuserd!,
                ["merge", "--cow", cow, "--base", image, "--no-verify-first", "--json", "--progress", "never"]);
            seconds[run] = merge.Seconds;
            peak = Math.Max(peak, merge["peak_memory"]);
            File.Delete(cow);
        }
        return (Times.Of(seconds).Median, peak);
    }

    /// <summary>Writes a COW with the given number of ops, a multiple of 4.</summary>
    internal static void Write(string path, int ops)
    {
        using FileCowOutput file = FileCowOutput.Create(path);
        using CowWriter writer = CowWriter.Create(file,
            new CowWriterOptions { Compression = CowCompression.Lz4, MaxBlocks = 4 * (uint)ops, OpCountMax = (ulong)ops });
        byte[] block = new byte[CowOp.BlockSize];
        for (int i = 0; i < ops / 2; i++) writer.Copy((uint)(4 * i), (ulong)((4 * i) + 2));
        for (int i = 0; i < ops / 4; i++)
        {
            BitConverter.TryWriteBytes(block.AsSpan(i % 4000), i * 2654435761L);
            writer.Replace((uint)((2 * ops) + (4 * i)), block);
        }
        for (int i = 0; i < ops / 4; i++) writer.Zero((uint)((3 * ops) + (4 * i)));
        writer.Finish();
    }
}
