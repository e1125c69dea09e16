using System.Collections.Generic;
using System.IO;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>One COW of the benchmark: a mix, and the options with which `snapuserd create` writes it.</summary>
internal sealed record CowVariant(string Name, string Mix, string[] Options)
{
    /// <summary>Every codec and both formats over the usual mix; the other mixes with the fastest codec, where I/O matters most.</summary>
    internal static readonly CowVariant[] All = [.. Everything()];

    private static IEnumerable<CowVariant> Everything()
    {
        (string Name, string[] Options)[] codecs =
        [
            ("v2-gz", ["--format", "2", "--compression", "gz"]),
            // Android's level is 11, which takes minutes; the level makes no difference to the decoder.
            ("v2-brotli", ["--format", "2", "--compression", "brotli,5"]),
            ("v2-lz4", ["--format", "2", "--compression", "lz4"]),
            ("v2-zstd", ["--format", "2", "--compression", "zstd"]),
            ("v3-lz4", ["--compression", "lz4"]),
            ("v3-zstd-64k", ["--compression", "zstd", "--block-factor", "64k"]),
            ("v3-none", ["--compression", "none"]),
        ];
        foreach ((string name, string[] options) in codecs)
        {
            yield return new($"{name}", "mix", options);
            yield return new($"{name}-xor", "mix", [.. options, "--xor"]);
        }
        yield return new("copy-v3-lz4", "copy", ["--compression", "lz4"]);
        yield return new("xor-v3-lz4", "xor", ["--compression", "lz4", "--xor"]);
        yield return new("xor-v3-zstd-64k", "xor", ["--compression", "zstd", "--block-factor", "64k", "--xor"]);
        yield return new("replace-v3-lz4", "replace", ["--compression", "lz4"]);
        yield return new("replace-v3-zstd-64k", "replace", ["--compression", "zstd", "--block-factor", "64k"]);
        yield return new("chains-v3-lz4", "chains", ["--compression", "lz4"]);
    }

    /// <summary>The COW's path in <paramref name="folder"/>; creates the COW if it is missing.</summary>
    internal string Make(string folder, string snapuserd, TextWriter log)
    {
        string path = Path.Combine(folder, Name + ".cow");
        if (File.Exists(path)) return path;
        log.WriteLine($"making {Name}.cow");
        ProgramRun.Run(snapuserd,
        [
            "create", "--source", Path.Combine(folder, "old.img"), "--target", Path.Combine(folder, $"new-{Mix}.img"), "--output", path,
            "--progress", "never", "--no-check", .. Options,
        ]);
        return path;
    }
}
