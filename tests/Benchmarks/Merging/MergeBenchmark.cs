using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>The merges of `make bench`: which COW is merged at which place, and the results to print (README).</summary>
internal static class MergeBenchmark
{
    /// <summary>
    /// The variants merged by default, on disk and tmpfs, and those also merged cold and on loop devices. They include every codec and
    /// every mix and take about a quarter of an hour; all variants at all places would take more than an hour.
    /// </summary>
    private static readonly string[] s_usual =
        ["v2-gz", "v2-brotli-xor", "v3-lz4", "v3-lz4-xor", "v3-zstd-64k-xor", "copy-v3-lz4", "xor-v3-lz4", "replace-v3-zstd-64k",
            "chains-v3-lz4"];

    private static readonly string[] s_everywhere = ["v3-lz4", "chains-v3-lz4"];

    internal static int Run(TextWriter output, BenchOptions options)
    {
        if (Libc.GetEUid() != 0) output.WriteLine("not root: cold runs and loop devices are skipped");
        string folder = Path.Combine(options.Data, options.Quick ? "64M" : "512M");
        Directory.CreateDirectory(folder);
        List<CowVariant> variants = [];
        foreach (CowVariant variant in CowVariant.All)
            if (options.All || options.Names(variant.Name) || Array.IndexOf(s_usual, variant.Name) >= 0) variants.Add(variant);

        IDisposable[] cleaners = Place.CleanUpOnSignals();
        try
        {
            return Run(output, options, folder, variants);
        }
        finally
        {
            foreach (IDisposable cleaner in cleaners) cleaner.Dispose();
        }
    }

    private static int Run(TextWriter output, BenchOptions options, string folder, List<CowVariant> variants)
    {
        if (options.Sweep != null) return Sweep.Run(output, options, folder);
        if (options.WantsSection("merge")) Merges(output, options, folder, variants);
        if (options.WantsSection("serve")) Serving.Run(output, options, folder);
        if (options.WantsSection("counts")) CountTable.Run(output, options, folder, variants);
        if (options.WantsSection("flush")) Flushes(output, options, folder, variants);
        if (options.WantsSection("shared"))
            Sharing.Run(output, options, folder,
                [.. variants.FindAll(variant => Array.IndexOf(s_everywhere, variant.Name) >= 0 || variant.Name == "v2-gz")]);
        if (options.WantsSection("scaling") && options.Wants("scaling")) Scaling.Run(output, options);
        return 0;
    }

    /// <summary>Creates the missing files of a variant: the images, then the COW. Returns the COW's path.</summary>
    internal static string Prepare(TextWriter output, BenchOptions options, string folder, CowVariant variant)
    {
        Pair.Make(folder, options.Quick ? 64 << 20 : 512 << 20, ofThisMachine: true,
            Array.FindAll(Mix.All, mix => mix.Name == variant.Mix), output);
        return variant.Make(folder, options.Snapuserd!, output);
    }

    /// <summary>A place for copies on the file system of the data folder.</summary>
    internal static Place OnDisk(BenchOptions options) => Place.OfFolder(Path.Combine(options.Data, "run"));

    private static void Merges(TextWriter output, BenchOptions options, string folder, List<CowVariant> variants)
    {
        List<string> missed = [];
        bool root = Libc.GetEUid() == 0, headed = false;
        foreach (CowVariant variant in variants)
        {
            bool everywhere = options.All || options.Names("cold") || options.Names("loop")
                || Array.IndexOf(s_everywhere, variant.Name) >= 0;
            List<(Func<Place> Make, bool Cold, string Name)> cells =
            [
                (() => OnDisk(options), false, "disk warm"), (OnTmpfs, false, "tmpfs warm"),
            ];
            if (everywhere && root)
            {
                cells.Insert(1, (() => OnDisk(options), true, "disk cold"));
                cells.Add((() => Place.OfLoops(Path.Combine(options.Data, "run")), false, "loop warm"));
                cells.Add((() => Place.OfLoops(Path.Combine(options.Data, "run")), true, "loop cold"));
            }
            foreach ((Func<Place> make, bool cold, string name) in cells)
            {
                if (!options.Wants($"merge {variant.Name} {name}")) continue;
                string cow = Prepare(output, options, folder, variant);
                if (!headed) MergeCell.PrintHead(output);
                headed = true;
                using Place place = make();
                place.Take(Path.Combine(folder, "old.img"), cow);
                MergeCell.Measure(variant, place, cold, cow, Path.Combine(folder, $"new-{variant.Mix}.img"), options).Print(output, missed);
                output.Flush();
            }
        }
        if (!headed) return;
        output.WriteLine(missed.Count == 0 ? "every target is reached" : $"{missed.Count} targets missed:");
        foreach (string line in missed) output.WriteLine("  " + line);
    }

    internal static Place OnTmpfs() => Place.OfFolder($"/dev/shm/snapuserd-bench-{Environment.ProcessId}");

    /// <summary>
    /// The engine on a device whose flush takes 5 ms longer, compared with the same device without the delay, in this process.
    /// </summary>
    private static void Flushes(TextWriter output, BenchOptions options, string folder, List<CowVariant> variants)
    {
        const int delay = 5;
        bool headed = false;
        foreach (CowVariant variant in variants)
        {
            if (variant.Name is not ("v3-lz4" or "v3-lz4-xor" or "copy-v3-lz4" or "xor-v3-lz4" or "replace-v3-zstd-64k" or "chains-v3-lz4")
                && !options.Names(variant.Name))
                continue;
            if (!options.Wants($"flush {variant.Name}")) continue;
            string cow = Prepare(output, options, folder, variant);
            if (!headed)
            {
                output.WriteLine($"\nA flush that takes {delay} ms longer (in this process, {options.Runs} runs each)\n\n"
                    + "| COW | journaled | flushes | without | with | with / without | at most 1.2 |\n|---|---|---|---|---|---|---|");
            }
            headed = true;
            using Place place = OnDisk(options);
            place.Take(Path.Combine(folder, "old.img"), cow);
            double[] without = new double[options.Runs], with = new double[options.Runs];
            EngineRun? last = null;
            for (int run = -1; run < options.Runs; run++)
            {
                place.Restore(cold: false);
                double first = EngineRun.Of(place.Base, place.Cow, new EngineChoices()).Seconds;
                place.Restore(cold: false);
                last = EngineRun.Of(place.Base, place.Cow, new EngineChoices { FlushMilliseconds = delay });
                if (run >= 0) (without[run], with[run]) = (first, last.Seconds);
            }
            Times plain = Times.Of(without), slow = Times.Of(with);
            double ratio = slow.Median / plain.Median;
            string mark = last!.Result.Journaled >= 0.01 * last.Ops ? "-" : ratio <= 1.2 ? "reached" : "MISSED";
            output.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"| {variant.Name} | {last.Result.Journaled} of {last.Ops} | {last.Flushes} | {plain.Text} | {slow.Text} | "
                + $"{ratio:0.00} | {mark} |"));
        }
    }
}
