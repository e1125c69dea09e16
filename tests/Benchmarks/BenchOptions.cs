using System;
using System.IO;

namespace Snapuserd.Tests.Benchmarks;

/// <summary>The command line options.</summary>
internal sealed record BenchOptions
{
    internal const string Usage = """
        usage: benchmarks [--snapuserd PATH] [--data FOLDER] [--only WORD[,WORD]] [--runs N] [--quick] [--all] [--tiny]
                          [--sweep depth|memory|interval|writeback|threads|request|job|io]

          --snapuserd PATH  the program; without it only what needs no program is measured
          --data FOLDER     where images, COWs and copies are kept; its file system is one of the places. Beside the benchmark unless given
          --only WORDS      only what has all these words in its name, such as "merge,v3-lz4,tmpfs" or "counts";
                            "v3*" is every word that begins so
          --runs N          measured runs of each thing; 7 unless given
          --quick           3 runs, images of 64 MiB, scaling up to 100,000 ops
          --all             every COW at every place, warm and cold: an hour or more
          --tiny            next to nothing of everything but merges
          --sweep WHAT      instead of all that: one choice of the engine, tried with several values
        """;

    internal string? Snapuserd { get; private init; }
    internal string Data { get; private init; } = Path.Combine(AppContext.BaseDirectory, "data");
    internal string[] Only { get; private init; } = [];
    internal int Runs { get; private init; } = 7;
    internal bool Quick { get; private init; }
    internal bool All { get; private init; }
    internal bool Tiny { get; private init; }
    internal string? Sweep { get; private init; }

    /// <summary>Parses the arguments; null if they are invalid.</summary>
    internal static BenchOptions? Parse(string[] args)
    {
        BenchOptions options = new();
        for (int i = 0; i < args.Length; i++)
        {
            string? value = i + 1 < args.Length ? args[i + 1] : null;
            switch (args[i])
            {
                case "--quick": options = options with { Quick = true, Runs = 3 }; continue;
                case "--all": options = options with { All = true }; continue;
                case "--tiny": options = options with { Tiny = true }; continue;
            }
            if (value == null) return null;
            i++;
            switch (args[i - 1])
            {
                case "--snapuserd": options = options with { Snapuserd = Path.GetFullPath(value) }; break;
                case "--data": options = options with { Data = Path.GetFullPath(value) }; break;
                case "--only": options = options with { Only = value.Split([',', ' '], StringSplitOptions.RemoveEmptyEntries) }; break;
                case "--runs" when int.TryParse(value, out int runs) && runs > 0: options = options with { Runs = runs }; break;
                case "--sweep": options = options with { Sweep = value }; break;
                default: return null;
            }
        }
        return options;
    }

    /// <summary>Whether the measurement with this name was selected.</summary>
    internal bool Wants(string name)
    {
        string[] own = name.Split(' ');
        return Array.TrueForAll(Only, word => Array.Exists(own, one => Matches(word, one)));
    }

    /// <summary>Whether an argument equals this name, or selects it as a prefix with "*".</summary>
    internal bool Names(string word) => Array.Exists(Only, one => Matches(one, word));

    /// <summary>Whether measurements of a section may run: no argument names a section, or one names this section.</summary>
    internal bool WantsSection(string section) =>
        Only.Length == 0 || Array.Exists(Only, word => word == section)
        || !Array.Exists(Only, word => Array.Exists(s_sections, known => known == word));

    private static bool Matches(string asked, string own) =>
        asked.EndsWith('*') ? own.StartsWith(asked[..^1], StringComparison.Ordinal) : own == asked;

    private static readonly string[] s_sections =
    [
        "kernels", "parsing", "writing", "start", "merge", "serve", "counts", "flush", "shared", "scaling", "nbd",
    ];
}
