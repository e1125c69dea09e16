using System;
using System.Collections.Generic;
using System.Runtime.InteropServices;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// Small COWs, each built to exercise one hazard; windows of two and three ops, so that several windows follow one another.
/// </summary>
public static class SmallCases
{
    /// <summary>The scratch size in bytes that gives a window, from W = min((B − M)/4096, (M − 1)/16 − 1).</summary>
    public static int ScratchFor(int window)
    {
        for (int bytes = 4096; ; bytes += 256)
            if (new ScratchLayout(78, (uint)bytes).Window >= window) return bytes;
    }

    public static IEnumerable<string> Names =>
    [
        "chain-up", "chain-down", "long-shift", "xor-in-place", "xor-unaligned", "xor-unaligned-in-place", "swap", "mixed",
        "ordered-after-replace", "duplicates", "copy-onto-itself", "no-scratch-chain", "no-scratch-in-place", "separate-source",
        "v2-clusters", "v2-no-scratch", "replace-over-source", "compressed", "two-windows-and-plain",
    ];

    public static MergeCase Make(string name, int window = 2)
    {
        byte[] old = Random(name.Length + window, 12);
        bool v2 = name.StartsWith("v2", StringComparison.Ordinal);
        bool scratch = !name.Contains("no-scratch", StringComparison.Ordinal);
        CowBuilder cow = new()
        {
            Version = v2 ? 2 : 3,
            ScratchBytes = scratch ? ScratchFor(window) : 0,
            ClusterOps = name == "v2-clusters" ? 4 : 0,
            Compression = name == "compressed" ? CowCompression.Zstd : CowCompression.None,
            MaxUnitBytes = 8192,
        };
        MergeOptions options = new() { VerifyFirst = false, CheckpointBytes = 3 * CowOp.BlockSize };
        switch (name)
        {
            case "chain-up":
            case "no-scratch-chain":
                for (uint i = 0; i < 6; i++) cow.Copy(i, i + 1);
                break;
            case "chain-down":
                for (uint i = 7; i > 1; i--) cow.Copy(i, i - 1);
                break;
            case "long-shift":
                for (uint i = 0; i < 6; i++) cow.Copy(i, i + 4);
                break;
            case "xor-in-place":
            case "no-scratch-in-place":
                cow.Copy(11, 10);
                for (uint i = 2; i < 6; i++) cow.Xor(i, i * 4096ul, Random(i, 1));
                cow.Copy(7, 9);
                options = options with { AllowUnsafe = true };
                break;
            case "xor-unaligned":
                for (uint i = 0; i < 5; i++) cow.Xor(i, ((i + 1) * 4096ul) + 37, Random(i, 1));
                break;
            case "xor-unaligned-in-place":
                for (uint i = 0; i < 5; i++) cow.Xor(i, (i * 4096ul) + 512, Random(i, 1));
                break;
            case "swap":
                cow.Copy(3, 8).Copy(5, 1).Replace(8, old.AsSpan(3 * 4096, 4096)).Replace(1, old.AsSpan(5 * 4096, 4096));
                break;
            case "mixed":
                cow.Copy(0, 1).Xor(1, 1 * 4096, Random(1, 1)).Copy(4, 9).Xor(2, (2 * 4096) + 100, Random(2, 1)).Zero(9)
                    .Replace(6, Random(3, 2)).Zero(3);
                break;
            case "ordered-after-replace":
                cow.Replace(0, Random(1, 2)).Copy(3, 4).Zero(5).Copy(4, 6).Xor(7, 7 * 4096, Random(2, 1)).Replace(6, Random(4, 1));
                break;
            case "duplicates":
                cow.Copy(2, 3).Copy(3, 7).Zero(5).Replace(5, Random(1, 1)).Replace(7, Random(2, 2)).Replace(7, Random(3, 1));
                break;
            case "copy-onto-itself":
                cow.Copy(4, 4).Copy(3, 2).Copy(5, 5).Copy(2, 1).Zero(0);
                break;
            case "separate-source":
                cow.Copy(3, 3).Copy(4, 3).Xor(5, 4 * 4096, Random(1, 1)).Xor(6, (6 * 4096) + 9, Random(2, 1))
                    .Replace(2, Random(3, 1)).Zero(0);
                break;
            case "v2-clusters":
                cow.Copy(0, 1).Copy(1, 2).Xor(2, (2 * 4096) + 5, Random(1, 1)).Zero(9).Label(4).Replace(7, Random(2, 1)).Zero(8);
                break;
            case "v2-no-scratch":
                cow.Copy(0, 1).Copy(1, 2).Copy(2, 3).Zero(9).Replace(3, Random(2, 1));
                break;
            case "replace-over-source":
                cow.Copy(0, 8).Copy(1, 9).Copy(2, 10).Replace(8, Random(1, 2)).Zero(10);
                break;
            case "compressed":
                cow.Xor(1, 1 * 4096, Patterned(1, 1)).Xor(2, (2 * 4096) + 50, Patterned(2, 1)).Replace(5, Patterned(3, 2))
                    .Replace(9, Random(4, 1)).Zero(0);
                break;
            case "two-windows-and-plain":
                for (uint i = 0; i < 5; i++) cow.Copy(i, i + 1);
                for (uint i = 8; i < 11; i++) cow.Copy(i, 11);
                cow.Zero(6);
                break;
            default:
                throw new ArgumentException(name);
        }
        byte[] baseImage = name == "separate-source" ? Random(99, 12) : old;
        byte[] target = NaiveMerger.Merge(cow.Ops, old, baseImage);
        return new MergeCase($"{name}, W={(scratch ? window : 0)}", new Image(cow.Build()), new Image(baseImage), new Image(target))
        {
            Options = options,
            Source = name == "separate-source" ? new Image(old) : null,
            MayBeLost = name == "no-scratch-in-place",
        };
    }

    /// <summary>Every case with windows of 2 and of 3 at both grains, seed after seed until the seconds run out.</summary>
    public static int Simulate(Budget budget)
    {
        // Arguments: name, window and grain of the one case to run.
        IEnumerable<(string Name, int Window, int Grain, ulong Seed)> Work()
        {
            for (ulong seed = budget.Seed; ; seed++)
                foreach (int grain in new[] { Page.Size, Page.Sector })
                    foreach (string name in Names)
                        for (int window = 2; window <= 3; window++)
                            if (budget.Words.Length == 0
                                || (budget.Words[0] == name && budget.Words[1] == $"{window}" && budget.Words[2] == $"{grain}"))
                                yield return (name, window, grain, seed);
        }

        try
        {
            Crew.Share(Work(), (item, arenas) =>
            {
                try
                {
                    Thoroughness how = item.Grain == Page.Size
                        ? new Thoroughness { Seed = item.Seed }
                        : new Thoroughness { Seed = item.Seed, Grain = item.Grain, Crashes = 1, ExhaustiveUpTo = 8, Samples = 32 };
                    MergeCase merge = Make(item.Name, item.Window);
                    using Explorer explorer = new(merge, how, arenas[merge]);
                    explorer.Explore();
                    budget.Tally.Add(1, explorer.Runs, explorer.States, explorer.Distinct);
                }
                catch (Exception e)
                {
                    throw Program.Lost("cases", $"--seconds 1 --seed {item.Seed} {item.Name} {item.Window} {item.Grain}", e);
                }
            }, budget.Seconds);
        }
        catch (LostDataException e)
        {
            return Program.Failed("cases", budget, e);
        }
        Console.WriteLine($"cases, seed {budget.Seed}: {budget.Tally}");
        return 0;
    }

    /// <summary>Blocks of random bytes.</summary>
    public static byte[] Random(long seed, int blocks)
    {
        Chance chance = new((ulong)seed + 1000);
        byte[] bytes = new byte[blocks * CowOp.BlockSize];
        foreach (ref ulong word in MemoryMarshal.Cast<byte, ulong>(bytes.AsSpan())) word = chance.Next();
        return bytes;
    }

    private static byte[] Patterned(int seed, int blocks)
    {
        byte[] bytes = new byte[blocks * CowOp.BlockSize];
        for (int i = 0; i < bytes.Length; i++) bytes[i] = (byte)(i % 50 == 0 ? seed : i / 700);
        return bytes;
    }
}
