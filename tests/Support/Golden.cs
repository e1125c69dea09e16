using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.IO.Compression;
using System.Linq;

namespace Snapuserd.Tests.Support;

/// <summary>One COW of tests/vectors/index.tsv.</summary>
public sealed record GoldenCow(
    string Name, int Version, string Compression, int Factor, int ClusterOps, bool Scratch, bool Sequence,
    int Copy, int Xor, long ReplaceBlocks, int Zero, int MergeOps, int OrderedOps, long CowBytes)
{
    /// <inheritdoc/>
    public override string ToString() => Name;
}

/// <summary>One half-done merge of tests/vectors/half.tsv; <paramref name="Cow"/> is the golden COW it was made from.</summary>
public sealed record GoldenHalf(string Name, string Cow, int NumMergeOps, int ScratchState)
{
    /// <inheritdoc/>
    public override string ToString() => Name;
}

/// <summary>The files of Android's own writer and engine in tests/vectors, unpacked in memory. Every call returns a fresh copy.</summary>
public static class Golden
{
    private static readonly ConcurrentDictionary<string, byte[]> s_unpacked = new();

    /// <summary>tests/vectors, found by walking up from the test binary.</summary>
    public static string Folder { get; } = Find();

    /// <summary>The finished COWs.</summary>
    public static IReadOnlyList<GoldenCow> Cows { get; } = Rows("index.tsv")
        .Select(row => new GoldenCow(
            row[0], Number(row[1]), row[2], Number(row[3]), Number(row[4]), row[5] == "1", row[6] == "1",
            Number(row[7]), Number(row[8]), Number(row[9]), Number(row[10]), Number(row[11]), Number(row[12]), Number(row[13])))
        .ToArray();

    /// <summary>The half-done merges.</summary>
    public static IReadOnlyList<GoldenHalf> Halves { get; } = Rows("half.tsv")
        .Select(row => new GoldenHalf(row[0], row[0]["half-".Length..row[0].LastIndexOf('-')], Number(row[1]), Number(row[2])))
        .ToArray();

    /// <summary>Names of the finished COWs, for MemberData.</summary>
    public static IEnumerable<object[]> CowNames => Cows.Select(cow => new object[] { cow.Name });

    /// <summary>Names of the half-done merges, for MemberData.</summary>
    public static IEnumerable<object[]> HalfNames => Halves.Select(half => new object[] { half.Name });

    /// <summary>The image before the update.</summary>
    public static byte[] Old => Unpack("old.img");

    /// <summary>The image that every golden COW turns <see cref="Old"/> into.</summary>
    public static byte[] New => Unpack("new.img");

    /// <summary>The finished COW of that name.</summary>
    public static byte[] Cow(string name) => Unpack(name + ".cow");

    /// <summary>The COW of a half-done merge.</summary>
    public static byte[] HalfCow(string name) => Unpack(name + ".cow");

    /// <summary>The base of a half-done merge.</summary>
    public static byte[] HalfBase(string name) => Unpack(name + ".base");

    /// <summary>The row of that name.</summary>
    public static GoldenCow Row(string name) => Cows.First(cow => cow.Name == name);

    /// <summary>The half-done row of that name.</summary>
    public static GoldenHalf Half(string name) => Halves.First(half => half.Name == name);

    private static byte[] Unpack(string name) => (byte[])s_unpacked.GetOrAdd(name, static file =>
    {
        using var packed = new BrotliStream(File.OpenRead(Path.Combine(Folder, file + ".br")), CompressionMode.Decompress);
        using var plain = new MemoryStream();
        packed.CopyTo(plain);
        return plain.ToArray();
    }).Clone();

    private static IEnumerable<string[]> Rows(string file) =>
        File.ReadLines(Path.Combine(Folder, file)).Skip(1).Where(line => line.Length > 0).Select(line => line.Split('\t'));

    private static int Number(string text) => int.Parse(text, CultureInfo.InvariantCulture);

    private static string Find()
    {
        for (DirectoryInfo? folder = new(AppContext.BaseDirectory); folder != null; folder = folder.Parent)
        {
            string candidate = Path.Combine(folder.FullName, "tests", "vectors");
            if (File.Exists(Path.Combine(candidate, "index.tsv"))) return candidate;
        }
        throw new DirectoryNotFoundException($"no tests/vectors above {AppContext.BaseDirectory}");
    }
}
