using System;
using System.IO;
using System.Text;
using Snapuserd.Block;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>
/// One option of the engine, measured with several values in turns: the tables from which the defaults are chosen (README, "Choices").
/// </summary>
internal static class Sweep
{
    private static readonly string[] s_usual = ["v3-lz4", "v3-lz4-xor", "v3-zstd-64k-xor", "copy-v3-lz4", "chains-v3-lz4"];

    internal static int Run(TextWriter output, BenchOptions options, string folder)
    {
        (string Name, EngineChoices Choices)[]? values = options.Sweep switch
        {
            "depth" => Array.ConvertAll([4, 8, 16, 32, 64, 128], depth => ($"{depth}", new EngineChoices { Depth = depth })),
            "memory" => Array.ConvertAll([8, 16, 32, 64, 128], memory => ($"{memory} MiB", new EngineChoices { Memory = memory << 20 })),
            "interval" => Array.ConvertAll([8, 16, 32, 64, 128, 256], mebibytes => ($"{mebibytes} MiB",
                new EngineChoices { CheckpointBytes = (long)mebibytes << 20, CheckpointMilliseconds = 10_000 })),
            "writeback" => Array.ConvertAll([0, 2, 4, 8, 16],
                mebibytes => (mebibytes == 0 ? "never" : $"{mebibytes} MiB", new EngineChoices { WriteBackBytes = (long)mebibytes << 20 })),
            "threads" => Array.ConvertAll([1, 2, 3, 4], threads => ($"{threads}", new EngineChoices { Threads = threads })),
            "request" => Array.ConvertAll([32, 128, 512, 1024, 2048],
                kibibytes => ($"{kibibytes} KiB", new EngineChoices { RequestBytes = kibibytes << 10 })),
            "job" => Array.ConvertAll([32, 64, 128, 256, 512],
                kibibytes => ($"{kibibytes} KiB", new EngineChoices { JobBytes = kibibytes << 10 })),
            "io" => [("buffered", new EngineChoices()), ("direct", new EngineChoices { Direct = true })],
            _ => null,
        };
        if (values == null)
        {
            Console.Error.WriteLine(BenchOptions.Usage);
            return 64;
        }
        var head = new StringBuilder(
            $"\n{options.Sweep}: seconds, median [range] of {options.Runs} runs of the engine in this process\n\n| COW | place |");
        foreach ((string name, EngineChoices _) in values) head.Append($" {name} |");
        head.Append("\n|---|---|");
        foreach ((string _, EngineChoices _) in values) head.Append("---|");
        bool headed = false;

        foreach (CowVariant variant in CowVariant.All)
        {
            if (!options.Names(variant.Name) && Array.IndexOf(s_usual, variant.Name) < 0) continue;
            foreach ((string place, Func<Place> make, bool cold) in new (string, Func<Place>, bool)[]
                {
                    ("disk warm", () => MergeBenchmark.OnDisk(options), false), ("tmpfs warm", MergeBenchmark.OnTmpfs, false),
                    ("disk cold", () => MergeBenchmark.OnDisk(options), true),
                    ("loop cold", () => Place.OfLoops(Path.Combine(options.Data, "run")), true),
                })
            {
                if (!options.Wants($"{variant.Name} {place}")) continue;
                string cow = MergeBenchmark.Prepare(output, options, folder, variant);
                if (!headed) output.WriteLine(head);
                headed = true;
                output.WriteLine(
                    $"| {variant.Name} | {place} |{Row(make, cold, Path.Combine(folder, "old.img"), cow, values, options.Runs)}");
                output.Flush();
            }
        }
        return 0;
    }

    private static string Row(Func<Place> make, bool cold, string old, string cow, (string Name, EngineChoices Choices)[] values, int runs)
    {
        using Place place = make();
        place.Take(old, cow);
        double[][] seconds = Array.ConvertAll(values, _ => new double[runs]);
        string?[] refused = new string?[values.Length];
        for (int run = -1; run < runs; run++)
        {
            for (int i = 0; i < values.Length; i++)
            {
                int value = (i + run + 1) % values.Length;
                if (refused[value] != null) continue;
                place.Restore(cold);
                try
                {
                    double time = EngineRun.Of(place.Base, place.Cow, values[value].Choices).Seconds;
                    if (run >= 0) seconds[value][run] = time;
                }
                catch (SnapuserdException e)
                {
                    refused[value] = $"exit code {(int)e.Code}";
                }
            }
        }
        var row = new StringBuilder();
        for (int i = 0; i < values.Length; i++) row.Append($" {refused[i] ?? Times.Of(seconds[i]).Text} |");
        return row.ToString();
    }
}
