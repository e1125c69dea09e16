using System;
using System.Globalization;
using System.IO;
using System.Threading;
using Snapuserd.Merge;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>Measures two concurrent merges in one process, with 32 MiB of buffers for each and with 32 MiB that they share.</summary>
internal static class Sharing
{
    private const int Memory = 32 << 20;

    internal static void Run(TextWriter output, BenchOptions options, string folder, CowVariant[] variants)
    {
        bool headed = false;
        foreach (CowVariant variant in variants)
        {
            if (!options.Wants($"shared {variant.Name}")) continue;
            string cow = MergeBenchmark.Prepare(output, options, folder, variant);
            if (!headed)
            {
                output.WriteLine($"\nTwo merges at a time (in this process, {options.Runs} runs each); seconds until the first and until "
                    + "both are done\n\n"
                    + "| COW | 32 MiB each: first | both | 32 MiB shared: first | both | shared / each | most taken, MiB | parts at the "
                    + "end of the first, MiB |\n|---|---|---|---|---|---|---|---|");
            }
            headed = true;
            using Place left = Place.OfFolder(Path.Combine(options.Data, "run")),
                right = Place.OfFolder(Path.Combine(options.Data, "run2"));
            left.Take(Path.Combine(folder, "old.img"), cow);
            right.Take(Path.Combine(folder, "old.img"), cow);
            double[][] seconds = [new double[options.Runs], new double[options.Runs], new double[options.Runs], new double[options.Runs]];
            MemoryBudget? budget = null;
            (long, long) parts = default;
            for (int run = -1; run < options.Runs; run++)
            {
                left.Restore(cold: false);
                right.Restore(cold: false);
                (double eachFirst, double eachBoth) = Both(left, right, null, out _);
                left.Restore(cold: false);
                right.Restore(cold: false);
                budget = new MemoryBudget(Memory, 2);
                (double sharedFirst, double sharedBoth) = Both(left, right, budget, out parts);
                if (run >= 0)
                    (seconds[0][run], seconds[1][run], seconds[2][run], seconds[3][run]) = (eachFirst, eachBoth, sharedFirst, sharedBoth);
            }
            Times[] times = Array.ConvertAll(seconds, Times.Of);
            output.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"| {variant.Name} | {times[0].Text} | {times[1].Text} | {times[2].Text} | {times[3].Text} | "
                + $"{times[3].Median / times[1].Median:0.00} | {Mebibytes(budget!.Taken.Peak):0.0} of {Memory >> 20} | "
                + $"{Mebibytes(parts.Item1):0.0}, {Mebibytes(parts.Item2):0.0} |"));
        }
    }

    private static double Mebibytes(long bytes) => bytes / (double)(1 << 20);

    /// <summary>
    /// Merges at both places at once. Returns the seconds of the merge that ended first and of the other, and the memory that each held
    /// when the first had ended.
    /// </summary>
    private static (double First, double Both) Both(Place left, Place right, MemoryBudget? budget, out (long, long) parts)
    {
        double[] seconds = new double[2];
        (long, long) taken = default;
        int ended = 0;
        MemoryQuota?[] shares = [budget?.Join(), budget?.Join()];
        Thread[] threads = new Thread[2];
        for (int i = 0; i < 2; i++)
        {
            int number = i;
            Place place = i == 0 ? left : right;
            threads[i] = new Thread(() =>
            {
                EngineChoices choices =
                    new() { Share = shares[number], Memory = budget == null ? Memory : (int)budget.MostBytes, Threads = 1 };
                seconds[number] = EngineRun.Of(place.Base, place.Cow, choices).Seconds;
                if (Interlocked.Increment(ref ended) == 1) taken = (shares[number]?.Taken ?? 0, shares[1 - number]?.Taken ?? 0);
                shares[number]?.Dispose();
            });
            threads[i].Start();
        }
        foreach (Thread thread in threads) thread.Join();
        parts = taken;
        return (Math.Min(seconds[0], seconds[1]), Math.Max(seconds[0], seconds[1]));
    }
}
