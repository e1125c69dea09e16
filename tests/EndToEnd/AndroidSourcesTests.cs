using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Security.Cryptography;
using System.Text.Json;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// `android` on other sources than a folder of dumps: loop devices, files that hold one partition each, and state files whose access times
/// must stay.
/// </summary>
public sealed class AndroidSourcesTests : IDisposable
{
    private const int SectorBytes = 512;

    private readonly TempFolder _folder = new();
    private readonly List<LoopDevice> _loops = [];

    public void Dispose()
    {
        foreach (LoopDevice loop in _loops) loop.Dispose();
        _folder.Dispose();
    }

    [RootTheory]
    [InlineData("first-phase-begin", "sync")]
    [InlineData("first-phase-half", "uring")]
    [InlineData("cow-on-data", "sync")]
    [InlineData("cow-on-data", "uring")]
    public void Merge_on_block_devices_gives_every_partition_its_content(string name, string io)
    {
        GoldenDevice device = GoldenDevice.Named(name);
        Write(device);
        Directory.CreateDirectory(_folder["links"]);
        foreach (string one in device.Devices)
        {
            _loops.Add(new LoopDevice(_folder[one]));
            File.CreateSymbolicLink(_folder["links/" + one], _loops[^1].Path);
        }
        BinaryResult status = Android(_folder["links"], "status");
        Assert.True(status.ExitCode == 75, status.ToString());
        BinaryResult merged = Android(_folder["links"], "merge", "--io", io);
        Assert.True(merged.ExitCode == 0, merged.ToString());
        Assert.Equal(0, Android(_folder["links"], "status").ExitCode);
        foreach (LoopDevice loop in _loops) loop.Dispose();
        _loops.Clear();
        Dictionary<string, byte[]> content = device.Devices.ToDictionary(one => one, one => File.ReadAllBytes(_folder[one]));
        foreach (string[] row in Merged(device))
            Assert.Equal((row[1], row[7]), (row[1], Hash(Pieces(content, row[5].Replace(';', ' ')))));
    }

    /// <summary>
    /// Each COW with its base and source copied out of the device into files: `merge` of these files gives the same partitions.
    /// </summary>
    [Theory]
    [InlineData("first-phase-begin")]
    [InlineData("second-phase-half")]
    [InlineData("cow-on-data")]
    public void Merge_of_each_partition_copied_into_files_agrees(string name)
    {
        GoldenDevice device = GoldenDevice.Named(name);
        Write(device);
        Dictionary<string, byte[]> content = device.Devices.ToDictionary(one => one, one => File.ReadAllBytes(_folder[one]));
        BinaryResult plan = Android(_folder.Path, "merge", "--dry-run", "--json");
        Assert.True(plan.ExitCode == 0, plan.ToString());
        int compared = 0;
        foreach (JsonElement line in plan.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries)
            .Select(line => JsonDocument.Parse(line).RootElement))
        {
            if (line.GetProperty("event").GetString() != "partition") continue;
            foreach (string role in (string[])["cow", "base", "source"])
                File.WriteAllBytes(_folder[role], Pieces(content, line.GetProperty(role).GetString()!));
            BinaryResult merged = Binary.Run("merge", "--cow", _folder["cow"], "--base", _folder["base"], "--source", _folder["source"],
                "--progress", "never");
            Assert.True(merged.ExitCode == 0, merged.ToString());
            string partition = line.GetProperty("name").GetString()!;
            Assert.Equal(Merged(device).Single(row => row[1] == partition)[7], Hash(File.ReadAllBytes(_folder["base"])));
            compared++;
        }
        Assert.True(compared >= 3, $"{compared} partitions");
    }

    [RootFact]
    public void Status_leaves_the_access_times_of_state_files()
    {
        Write(GoldenDevice.Named("first-phase-half"));
        DateTime longAgo = new(2001, 2, 3, 4, 5, 6, DateTimeKind.Utc);
        string[] all = [.. Directory.EnumerateFileSystemEntries(_folder["metadata"], "*", SearchOption.AllDirectories)];
        foreach (string one in all) File.SetLastAccessTimeUtc(one, longAgo);
        Assert.Equal(75, Android(_folder.Path, "status").ExitCode);
        foreach (string one in all) Assert.Equal((one, longAgo), (one, File.GetLastAccessTimeUtc(one)));
        // On this file system an ordinary read is noticed.
        _ = File.ReadAllBytes(_folder["metadata/ota/state"]);
        Assert.NotEqual(longAgo, File.GetLastAccessTimeUtc(_folder["metadata/ota/state"]));
    }

    private static IEnumerable<string[]> Merged(GoldenDevice device) =>
        device.Table("partitions.tsv").Where(row => row[0] == "1" && row[7] != "-");

    private void Write(GoldenDevice device)
    {
        foreach (string name in device.Devices) File.WriteAllBytes(_folder[name], device.Device(name));
        foreach (string file in Directory.EnumerateFiles(device.Metadata, "*", SearchOption.AllDirectories))
        {
            string copy = _folder["metadata/" + Path.GetRelativePath(device.Metadata, file)];
            Directory.CreateDirectory(Path.GetDirectoryName(copy)!);
            File.WriteAllBytes(copy, File.ReadAllBytes(file));
        }
        File.WriteAllText(_folder["none"], "");
    }

    private BinaryResult Android(string byName, params string[] words) => Binary.Run(["android", .. words, "--by-name", byName,
        "--metadata", _folder["metadata"], "--slot", "b", "--cmdline", _folder["none"], "--bootconfig", _folder["none"]]);

    private static string Hash(byte[] bytes) => Convert.ToHexStringLower(SHA256.HashData(bytes));

    /// <summary>The content of pieces, each as DEVICE:SECTOR+SECTORS.</summary>
    private static byte[] Pieces(Dictionary<string, byte[]> content, string pieces)
    {
        using MemoryStream all = new();
        foreach (string piece in pieces.Split(' ', StringSplitOptions.RemoveEmptyEntries))
        {
            string[] parts = piece.Split(':', '+');
            int length = int.Parse(parts[2]) * SectorBytes;
            if (parts[0] == "zero") all.Write(new byte[length]);
            else all.Write(content[parts[0]].AsSpan(int.Parse(parts[1]) * SectorBytes, length));
        }
        return all.ToArray();
    }
}
