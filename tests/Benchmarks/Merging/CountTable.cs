using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Text;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>
/// The table of <see cref="MergeCounts"/>, with the values that can be measured only for a whole process: system calls, CPU time, peak
/// memory.
/// </summary>
internal static class CountTable
{
    // The limit of the peak memory (README): --memory, by default 32 MiB, and besides it 16 MiB and 48 bytes per op.
    private const long Memory = 32 << 20, Beside = 16 << 20, PerOp = 48;

    internal static void Run(TextWriter output, BenchOptions options, string folder, List<CowVariant> variants)
    {
        bool headed = false;
        foreach (CowVariant variant in variants)
        {
            if (!options.Wants($"counts {variant.Name}")) continue;
            string cow = MergeBenchmark.Prepare(output, options, folder, variant);
            if (!headed)
            {
                output.WriteLine("\nCounts, per byte or per 10^9 bytes of target. \"Of allowed\" is the count divided by its limit "
                    + "(README), with + if that is at most 1, and - if it is more\n\n"
                    + "| COW | ops | journaled | read/B | written/B | written of allowed | requests/GB | system calls/GB | flushes | of "
                    + "allowed | checkpoints/GB | CPU s/GB | peak MiB | of allowed | allocated B/op | collections |\n"
                    + "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
            }
            headed = true;
            using Place place = MergeBenchmark.OnDisk(options);
            place.Take(Path.Combine(folder, "old.img"), cow);
            output.WriteLine(Row(variant.Name, place, options.Snapuserd!));
            output.Flush();
        }
    }

    private static string Row(string name, Place place, string snapuserd)
    {
        string[] merge = ["merge", "--cow", place.Cow, "--base", place.Base, "--no-verify-first", "--json", "--progress", "never"];
        place.Restore(cold: false);
        MergeCounts counts = new(EngineRun.Of(place.Base, place.Cow, new EngineChoices()));
        EngineRun run = counts.Run;
        place.Restore(cold: false);
        ProgramRun program = ProgramRun.RunForked(snapuserd, merge);
        place.Restore(cold: false);
        long? calls = SystemCalls(snapuserd, merge, out string most);
        double peak = program["peak_memory"], allowed = Memory + Beside + (PerOp * run.Ops);
        var row = new StringBuilder();
        row.Append(CultureInfo.InvariantCulture, $"| {name} | {run.Ops} | {run.Result.Journaled} | {counts.ReadPerByte:0.000} | "
            + $"{counts.WrittenPerByte:0.000} | {Mark(counts.WrittenOfAllowed)} ");
        row.Append(CultureInfo.InvariantCulture, $"| {counts.PerGigabyte(run.Requests):0} | "
            + $"{(calls is { } some ? counts.PerGigabyte(some).ToString("0", CultureInfo.InvariantCulture) : "no strace")}{most} ");
        row.Append(CultureInfo.InvariantCulture, $"| {run.Flushes} | {Mark(counts.FlushesOfAllowed)} | "
            + $"{counts.PerGigabyte(run.Result.Checkpoints):0.0} | {counts.PerGigabyte(program.CpuSeconds):0.00} ");
        row.Append(CultureInfo.InvariantCulture,
            $"| {peak / (1 << 20):0.0} | {Mark(peak / allowed)} | {counts.AllocatedPerOp:0.00} | {run.Collections} |");
        return row.ToString();
    }

    private static string Mark(double share) => string.Create(CultureInfo.InvariantCulture, $"{share:0.00} {(share <= 1 ? '+' : '-')}");

    /// <summary>System calls of a run, and the two most frequent of them; null without strace.</summary>
    internal static long? SystemCalls(string snapuserd, string[] arguments, out string most)
    {
        string summary = Path.GetTempFileName();
        most = "";
        try
        {
            _ = ProgramRun.Run("strace", ["-c", "-f", "-q", "-o", summary, snapuserd, .. arguments]);
            List<(long Calls, string Name)> lines = [];
            long total = 0;
            foreach (string line in File.ReadLines(summary))
            {
                // % time, seconds, µs per call, calls, errors (or nothing), name
                string[] fields = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
                if (fields.Length < 5 || !long.TryParse(fields[3], NumberStyles.None, CultureInfo.InvariantCulture, out long calls))
                    continue;
                if (fields[^1] == "total") total = calls;
                else lines.Add((calls, fields[^1]));
            }
            lines.Sort((x, y) => y.Calls.CompareTo(x.Calls));
            if (lines.Count > 1) most = $" ({lines[0].Name} {lines[0].Calls}, {lines[1].Name} {lines[1].Calls})";
            return total;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return null;
        }
        finally
        {
            File.Delete(summary);
        }
    }
}
