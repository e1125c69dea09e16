using System;
using System.Collections.Generic;
using System.IO;
using System.IO.Compression;
using System.Linq;

namespace Snapuserd.Tests.Support;

/// <summary>One device state of tests/vectors/android-device, a row of its index.tsv.</summary>
public sealed record GoldenDevice(string Name, string Slot, string State, string Phase, string Verdict, string[] First, string[] Second)
{
    /// <summary>All states.</summary>
    public static IReadOnlyList<GoldenDevice> All { get; } = Rows("index.tsv")
        .Select(row => new GoldenDevice(row[0], row[1], row[2], row[3], row[8], Names(row[9]), Names(row[10]))).ToArray();

    /// <summary>The names of all states, for MemberData.</summary>
    public static IEnumerable<object[]> AllNames => All.Select(device => new object[] { device.Name });

    /// <summary>The state of that name.</summary>
    public static GoldenDevice Named(string name) => All.First(device => device.Name == name);

    /// <summary>The folder that is mounted at /metadata.</summary>
    public string Metadata => Path.Combine(Folder, "metadata");

    /// <summary>The names of the block devices: super, misc, userdata, cust.</summary>
    public IEnumerable<string> Devices =>
        Directory.EnumerateFiles(Folder, "*.img.br").Select(path => Path.GetFileName(path)[..^".img.br".Length]).Order();

    /// <summary>The rows of partitions.tsv and snapshots.tsv that belong to this state, without its name.</summary>
    public IEnumerable<string[]> Table(string file) => Rows(file).Where(row => row[0] == Name).Select(row => row[1..]);

    /// <summary>A block device, unpacked again at each call: all devices together would take a gigabyte.</summary>
    public byte[] Device(string name)
    {
        using BrotliStream packed = new(File.OpenRead(Path.Combine(Folder, name + ".img.br")), CompressionMode.Decompress);
        using MemoryStream plain = new();
        packed.CopyTo(plain);
        return plain.ToArray();
    }

    /// <inheritdoc/>
    public override string ToString() => Name;

    private string Folder => Path.Combine(Golden.Folder, "android-device", Name);

    private static string[] Names(string list) => list == "-" ? [] : list.Split(',');

    private static IEnumerable<string[]> Rows(string file) => File.ReadLines(Path.Combine(Golden.Folder, "android-device", file))
        .Skip(1).Where(line => line.Length > 0).Select(line => line.Split('\t'));
}
