using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Threading;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Simulator;

/// <summary>Counts of a fuzzing run.</summary>
public sealed class FuzzCounts
{
    public long Files { get; set; }
    public long Accepted { get; set; }
    public long Runs { get; set; }
    public long Liars { get; set; }
    /// <summary>Files by the rule that they break according to the reference reader.</summary>
    public SortedDictionary<string, long> Refused { get; } = new(StringComparer.Ordinal);
    /// <summary>Distinct messages of the product.</summary>
    public HashSet<string> Sentences { get; } = [];

    public void Add(FuzzCounts other)
    {
        Files += other.Files;
        Accepted += other.Accepted;
        Runs += other.Runs;
        Liars += other.Liars;
        foreach ((string rule, long count) in other.Refused) Refused[rule] = Refused.GetValueOrDefault(rule) + count;
        Sentences.UnionWith(other.Sentences);
    }
}

/// <summary>
/// Generates files by the grammar, mutates them and tries them (<see cref="HostileTrial"/>). A mutated file whose outcome is new, by rule
/// and message, joins the corpus.
/// </summary>
public sealed class Fuzzer(ulong seed)
{
    private const int MostKept = 400;

    private readonly Chance _chance = new(seed);
    private readonly List<HostileFile> _corpus = [];
    private readonly List<HostileFile> _good = [];
    private readonly HashSet<HostileOutcome> _outcomes = [];
    private ulong _number;

    public FuzzCounts Counts { get; } = new();

    /// <summary>The current file, or the one whose trial failed, with its base and the seed of the trial.</summary>
    public HostileFile? Current { get; private set; }
    public ulong TrialSeed { get; private set; }

    /// <summary>Tries one file; throws what <see cref="HostileTrial.Try"/> throws.</summary>
    public void Step(HostileTrial trial)
    {
        TrialSeed = Chance.Mix(seed + _number++);
        HostileFile origin = Origin();
        // Now and then an unmutated file, which checks that the grammar generates valid ones.
        Current = _corpus.Count == 0 || _chance.Percent(5) ? origin : HostileFiles.Mutate(origin, _chance, _corpus);
        long runs = trial.Runs;
        HostileOutcome outcome = trial.Try(Current.Bytes, HostileFiles.Base(TrialSeed), TrialSeed);
        if (_chance.Percent(10))
        {
            Counts.Liars++;
            TryLiar(trial, Current.Bytes, TrialSeed);
        }
        Counts.Files++;
        Counts.Runs += trial.Runs - runs;
        Counts.Sentences.Add(outcome.Sentence);
        if (outcome.Accepted) Counts.Accepted++;
        else Counts.Refused[outcome.Rule!] = Counts.Refused.GetValueOrDefault(outcome.Rule!) + 1;
        if (Current.Bytes.Length > 100_000) return;
        if (outcome.Accepted) Keep(_good);
        else if (_outcomes.Add(outcome)) Keep(_corpus);
    }

    /// <summary>
    /// Picks a file to mutate. Mutations of accepted files reach the most code; files rejected in a new way are close to further new ways.
    /// </summary>
    private HostileFile Origin() => _chance.Below(100) switch
    {
        < 50 when _good.Count > 0 => _good[_chance.Below(_good.Count)],
        < 65 when _corpus.Count > 0 => _corpus[_chance.Below(_corpus.Count)],
        _ => HostileFiles.Generate(_chance),
    };

    private void Keep(List<HostileFile> list)
    {
        if (list.Count < MostKept) list.Add(Current!);
        else list[_chance.Below(MostKept)] = Current!;
    }

    /// <summary>Writes the file that failed to build/fuzz and returns the command that repeats the trial.</summary>
    public string SaveCurrent()
    {
        string folder = Path.Combine(Binary.Root, "build", "fuzz"),
            name = string.Create(CultureInfo.InvariantCulture, $"{TrialSeed:x16}.cow");
        Directory.CreateDirectory(folder);
        File.WriteAllBytes(Path.Combine(folder, name), Current!.Bytes);
        return string.Create(CultureInfo.InvariantCulture, $"make fuzz FILE=build/fuzz/{name} SEED={TrialSeed}");
    }

    /// <summary>Tries the file on a device that returns changed data; the seed decides how and from which read on.</summary>
    public static void TryLiar(HostileTrial trial, byte[] file, ulong seed)
    {
        ulong lies = Chance.Mix(seed);
        trial.TryLiar(file, HostileFiles.Base(seed), seed, (int)(lies % 12), (offset, bytes) => Lie(lies + (ulong)offset, bytes.Span));
    }

    /// <summary>Changes a few bits or bytes of a read's result.</summary>
    public static void Lie(ulong seed, Span<byte> bytes)
    {
        Chance chance = new(seed);
        int times = 1 + chance.Below(3);
        for (int i = 0; i < times; i++)
        {
            // Half of the time near the front of a page, where the important fields are, otherwise anywhere.
            int at = chance.Below(chance.Percent(50) ? Math.Min(128, bytes.Length) : bytes.Length);
            bytes[at] = chance.Percent(50) ? (byte)(bytes[at] ^ (1 << chance.Below(8))) : (byte)chance.Next();
        }
    }
}

/// <summary>
/// `simulator fuzz`: one fuzzer per processor until the time is up. With the arguments FILE and SEED it tries that file alone.
/// </summary>
public static class Fuzz
{
    public static int Run(Budget budget)
    {
        if (budget.Words.Length > 0) return Again(budget.Words[0], budget.Seed);
        Stopwatch time = Stopwatch.StartNew();
        Fuzzer[] fuzzers =
        [
            .. Enumerable.Range(0, Environment.ProcessorCount).Select(number => new Fuzzer(Chance.Mix(budget.Seed) + (ulong)number)),
        ];
        Exception? failed = null;
        Thread[] threads = Array.ConvertAll(fuzzers, fuzzer => new Thread(() =>
        {
            using HostileTrial trial = new();
            try
            {
                while (time.Elapsed.TotalSeconds < budget.Seconds && Volatile.Read(ref failed) == null) fuzzer.Step(trial);
            }
            catch (Exception e)
            {
                if (Interlocked.CompareExchange(ref failed, e, null) == null) Report(fuzzer, budget.Seed, e);
            }
        }));
        foreach (Thread thread in threads) thread.Start();
        foreach (Thread thread in threads) thread.Join();

        FuzzCounts counts = new();
        foreach (Fuzzer fuzzer in fuzzers) counts.Add(fuzzer.Counts);
        foreach ((string rule, long count) in counts.Refused.OrderByDescending(pair => pair.Value))
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{count,10}  {rule}"));
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"fuzz: seed {budget.Seed}: {counts.Files} files, {counts.Accepted} accepted, {counts.Files - counts.Accepted} refused by "
            + $"{counts.Refused.Count} rules in {counts.Sentences.Count} different messages, "
            + $"{counts.Liars} read from a device that returns changed data, {counts.Runs} runs, "
            + $"{counts.Files / time.Elapsed.TotalSeconds:0} files/s, {(failed == null ? 0 : 1)} failed"));
        return failed == null ? 0 : 1;
    }

    private static void Report(Fuzzer fuzzer, ulong seed, Exception e)
    {
        Console.Error.WriteLine($"fuzz: seed {seed}: {e.Message}");
        if (e is not HostileException || e.InnerException != null) Console.Error.WriteLine((e.InnerException ?? e).ToString());
        Console.Error.WriteLine($"fuzz: again with: {fuzzer.SaveCurrent()}");
    }

    private static int Again(string path, ulong seed)
    {
        byte[] file, baseImage = HostileFiles.Base(seed);
        try
        {
            file = File.ReadAllBytes(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            Console.Error.WriteLine($"fuzz: {e.Message}");
            return 66;
        }
        using HostileTrial trial = new();
        try
        {
            HostileOutcome outcome = trial.Try(file, baseImage, seed);
            Console.WriteLine(outcome.Accepted ? "accepted, and the image equals that of the reference reader"
                : $"refused by the rule '{outcome.Rule}': {outcome.Sentence}");
            Fuzzer.TryLiar(trial, file, seed);
            return 0;
        }
        catch (Exception e)
        {
            Console.Error.WriteLine($"{e.Message}\n{e.InnerException}");
            return 1;
        }
    }
}
