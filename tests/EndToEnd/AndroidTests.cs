using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using Microsoft.Win32.SafeHandles;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// `android` on the dumps of every golden device: exit codes, sentences, what is written, and the content of each partition. One row here
/// for each row of index.tsv.
/// </summary>
public sealed class AndroidTests : IDisposable
{
    private const int SectorBytes = 512;

    private static readonly Dictionary<string, (int Status, int Merge, string Text)> s_expected = new()
    {
        ["no-update"] = (0, 0, "There is no update to merge."),
        ["initiated"] = (69, 69, "the update is still being written"),
        ["unverified-source"] = (69, 69, "the current slot is the old one"),
        ["rolled-back"] = (69, 69, "the new slot did not boot"),
        ["unverified-target"] = (69, 69, "its merge has not begun"),
        ["unverified-forward"] = (69, 69, "its merge has not begun"),
        ["first-phase-begin"] = (75, 0, "would finish the update: 4 partitions"),
        ["first-phase-half"] = (75, 0, "would finish the update: 4 partitions"),
        ["second-phase-half"] = (75, 0, "would finish the update"),
        ["all-merged"] = (0, 0, "All is merged. Reboot"),
        ["merge-completed"] = (0, 0, "All is merged. Reboot"),
        ["wrong-slot"] = (69, 69, "slot a is partly overwritten and will not boot"),
        ["damaged-primary"] = (75, 0, "would finish the update"),
        ["damaged-both"] = (65, 65, "the partition table of slot b"),
        ["damaged-cow"] = (65, 65, "the COW of vendor_b"),
        ["cow-on-data"] = (75, 0, "would finish the update"),
        ["android-killed"] = (75, 0, "would finish the update"),
        ["kernel-snapshot"] = (69, 69, "for the kernel (dm-snapshot)"),
        ["retrofit"] = (0, 0, "There is no update to merge."),
        ["finished"] = (0, 0, "There is no update to merge."),
    };

    private readonly TempFolder _folder = new();

    public static IEnumerable<object[]> Names => GoldenDevice.AllNames;

    public static IEnumerable<object[]> Merges =>
        GoldenDevice.All.SelectMany(device => (object[][])[[device.Name, "sync"], [device.Name, "uring"]]);

    public void Dispose() => _folder.Dispose();

    [Theory]
    [MemberData(nameof(Names))]
    public void Every_golden_device_has_its_verdict_and_nothing_is_written_by_asking(string name)
    {
        (int statusCode, int mergeCode, string text) = s_expected[name];
        Write(GoldenDevice.Named(name));
        string before = Everything();
        BinaryResult status = Android("status");
        Assert.True(status.ExitCode == statusCode, status.ToString());
        Assert.Contains(text, status.Output, StringComparison.Ordinal);
        BinaryResult json = Android("status", "--json");
        Assert.True(json.ExitCode == statusCode, json.ToString());
        JsonElement first = JsonDocument.Parse(json.Output.Split('\n')[0]).RootElement;
        Assert.Equal(("status", statusCode), (first.GetProperty("event").GetString(), first.GetProperty("exit_code").GetInt32()));
        BinaryResult dry = Android("merge", "--dry-run");
        Assert.True(dry.ExitCode == mergeCode, dry.ToString());
        Assert.Equal(before, Everything());
    }

    [Theory]
    [MemberData(nameof(Merges))]
    public void Merge_of_every_golden_device_gives_its_content_or_writes_nothing(string name, string io)
    {
        GoldenDevice device = GoldenDevice.Named(name);
        int code = s_expected[name].Merge;
        Write(device);
        string before = Everything();
        BinaryResult merged = Android("merge", "--io", io);
        Assert.True(merged.ExitCode == code, merged.ToString());
        if (device.Verdict == "merge") Check(device);
        if (device.Verdict != "merge" || name == "all-merged") Assert.Equal(before, Everything());
        if (code == 0) Assert.Equal(0, Android("status").ExitCode);
    }

    /// <summary>
    /// SIGKILL at every system call that changes a file, in a merge with both phases; the next run is killed as well, and the one after it
    /// ends the merge. `status` never sees a second phase that has begun too early.
    /// </summary>
    [Fact]
    public void Merge_killed_at_every_change_of_both_phases_ends_with_the_same_content()
    {
        const int leastKills = 60;
        GoldenDevice device = GoldenDevice.Named("first-phase-begin");
        Write(device);
        string[] merge = [.. Words("merge")[1..], "--io", "sync", "--progress", "never", "--memory", "8M"];
        BinaryResult whole = Killed("changes:0", merge);
        Assert.True(whole.ExitCode == 0, whole.ToString());
        int changes = int.Parse(whole.Error.AsSpan().Trim());
        int kills = 0;
        HashSet<int> codes = [];
        for (int at = 1; at <= changes; at++)
        {
            Write(device);
            foreach (int kill in (int[])[at, 1 + (at / 2)])
            {
                BinaryResult killed = Killed($"changes:{kill}", merge);
                Assert.True(killed.ExitCode is 137 or 0, $"killed at change {kill} of {changes}: {killed}");
                kills += killed.ExitCode == 137 ? 1 : 0;
                Unlocked.Settle(_folder["dumps/super"]);
                BinaryResult status = Android("status");
                Assert.True(status.ExitCode is 75 or 0, $"killed at change {kill} of {changes}: {status}");
                codes.Add(status.ExitCode);
            }
            BinaryResult last = Android("merge");
            Assert.True(last.ExitCode == 0, $"killed at change {at} of {changes}: {last}");
            Check(device);
        }
        Assert.Contains(75, codes);
        Assert.Contains(0, codes);
        Assert.True(kills >= leastKills, $"{kills} kills");
    }

    private static BinaryResult Killed(string what, string[] arguments)
    {
        string[] command = KillAt.Command(what, ["android", .. arguments]);
        return Binary.RunProgram(command[0], command[1..]);
    }

    /// <summary>
    /// The state that --conclude leaves is that of Android's own recovery: state file with its attributes, misc, and nothing else. The
    /// golden snapshot files say "merged" too; that is not needed, and the first stage of init would stumble over it.
    /// </summary>
    [Fact]
    public void Conclusion_leaves_the_files_of_androids_recovery()
    {
        GoldenDevice concluded = GoldenDevice.Named("merge-completed"), merged = GoldenDevice.Named("all-merged");
        Write(merged);
        string state = _folder["metadata/ota/state"];
        byte[] label = "user.label\0"u8.ToArray(), value = new byte[100];
        using (SafeFileHandle file = File.OpenHandle(state, FileMode.Open, FileAccess.ReadWrite))
            Assert.Equal(0, Libc.FSetXAttr((int)file.DangerousGetHandle(), label, "u:object_r:ota_metadata_file:s0"u8));
        File.SetUnixFileMode(state, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.GroupRead);
        BinaryResult dry = Android("merge", "--dry-run", "--conclude");
        Assert.True(dry.ExitCode == 0, dry.ToString());
        Assert.NotEqual(concluded.Device("misc"), File.ReadAllBytes(_folder["dumps/misc"]));
        BinaryResult result = Android("merge", "--conclude");
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Contains("the update is concluded", result.Output, StringComparison.Ordinal);
        foreach (string file in Directory.EnumerateFiles(merged.Metadata, "*", SearchOption.AllDirectories))
        {
            string name = Path.GetRelativePath(merged.Metadata, file);
            string expected = name == "ota/state" ? Path.Combine(concluded.Metadata, name) : file;
            Assert.Equal(File.ReadAllBytes(expected), File.ReadAllBytes(_folder["metadata/" + name]));
        }
        Assert.Equal(concluded.Device("misc"), File.ReadAllBytes(_folder["dumps/misc"]));
        Assert.Equal(merged.Device("super"), File.ReadAllBytes(_folder["dumps/super"]));
        Assert.Empty(Directory.EnumerateFiles(_folder["metadata/ota"], "*.tmp"));
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.GroupRead, File.GetUnixFileMode(state));
        using (SafeFileHandle file = File.OpenHandle(state))
        {
            nint bytes = Libc.FGetXAttr((int)file.DangerousGetHandle(), label, value);
            Assert.Equal("u:object_r:ota_metadata_file:s0", Encoding.ASCII.GetString(value.AsSpan(0, (int)bytes)));
        }
        // Once more: nothing is left to write.
        string before = Everything();
        Assert.Equal(0, Android("merge", "--conclude").ExitCode);
        Assert.Equal(before, Everything());
    }

    /// <summary>Between the two writes of a conclusion: the state file says that all is merged, and misc does not yet.</summary>
    [Fact]
    public void Conclusion_that_was_cut_goes_on_with_misc()
    {
        GoldenDevice concluded = GoldenDevice.Named("merge-completed");
        Write(GoldenDevice.Named("all-merged"));
        File.Copy(Path.Combine(concluded.Metadata, "ota/state"), _folder["metadata/ota/state"], overwrite: true);
        BinaryResult again = Android("merge", "--conclude");
        Assert.True(again.ExitCode == 0, again.ToString());
        Assert.Equal(concluded.Device("misc"), File.ReadAllBytes(_folder["dumps/misc"]));
    }

    /// <summary>
    /// A repair of /metadata may have moved the snapshot files away. Then there is no evidence that all is merged, and the bootloader must
    /// go on refusing a wipe.
    /// </summary>
    [Fact]
    public void Conclusion_without_any_snapshot_file_writes_nothing()
    {
        Write(GoldenDevice.Named("first-phase-half"));
        Directory.Delete(_folder["metadata/ota/snapshots"], recursive: true);
        File.Delete(_folder["metadata/ota/snapshot-boot"]);
        string before = Everything();
        BinaryResult result = Android("merge", "--conclude");
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.DoesNotContain("concluded", result.Output, StringComparison.Ordinal);
        Assert.Equal(before, Everything());
    }

    [Fact]
    public void Conclusion_without_misc_says_that_the_bootloader_is_not_told()
    {
        Write(GoldenDevice.Named("all-merged"));
        File.Delete(_folder["dumps/misc"]);
        BinaryResult result = Android("merge", "--conclude");
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Contains("the bootloader may still refuse", result.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("no-update")]
    [InlineData("unverified-target")]
    [InlineData("wrong-slot")]
    [InlineData("damaged-cow")]
    [InlineData("kernel-snapshot")]
    public void Conclusion_of_what_is_not_merged_writes_nothing(string name)
    {
        Write(GoldenDevice.Named(name));
        string before = Everything();
        BinaryResult refused = Android("merge", "--conclude");
        Assert.True(refused.ExitCode == s_expected[name].Merge, refused.ToString());
        Assert.Equal(before, Everything());
    }

    /// <summary>The report of a device says what status says of the device itself, and has nothing of its partitions.</summary>
    [Theory]
    [MemberData(nameof(Names))]
    public void Report_tells_the_same_as_the_device(string name)
    {
        Write(GoldenDevice.Named(name));
        string before = Everything(), archive = _folder["report.tar"];
        BinaryResult written = Android("report", archive);
        Assert.True(written.ExitCode == 0, written.ToString());
        Assert.Equal(before, Everything());
        Assert.InRange(new FileInfo(archive).Length, 1024, 5 << 20);
        foreach (string[] form in (string[][])[[], ["--json"]])
        {
            BinaryResult device = Android(["status", .. form]), read = Binary.Run(["android", "status", .. form, "--report", archive]);
            Assert.Equal((device.ExitCode, device.Output), (read.ExitCode, read.Output));
        }
        BinaryResult listed = Binary.RunProgram("tar", ["-tf", archive]);
        Assert.True(listed.ExitCode == 0, listed.ToString());
        Assert.Contains("status.json", listed.Output, StringComparison.Ordinal);
        Assert.Equal(73, Android("report", archive).ExitCode);
    }

    [Fact]
    public void Report_that_is_damaged_is_refused_in_a_sentence()
    {
        Write(GoldenDevice.Named("first-phase-half"));
        string archive = _folder["report.tar"];
        Assert.Equal(0, Android("report", archive).ExitCode);
        byte[] whole = File.ReadAllBytes(archive);
        Random random = new(5);
        for (int i = 0; i < 60; i++)
        {
            byte[] damaged = i % 2 == 0 ? whole[..random.Next(whole.Length)] : [.. whole];
            if (i % 2 == 1) damaged[random.Next(i % 4 == 1 ? 4096 : whole.Length)] ^= (byte)(1 << random.Next(8));
            File.WriteAllBytes(archive, damaged);
            BinaryResult read = Binary.Run(["android", "status", "--report", archive]);
            Assert.True(read.ExitCode is 65 or 69 or 74 or 75 or 0, $"{i}: {read}");
            Assert.DoesNotContain("internal", read.Error, StringComparison.Ordinal);
        }
        Assert.Equal(66, Binary.Run(["android", "status", "--report", _folder["missing"]]).ExitCode);
    }

    /// <summary>Archives whose progress cannot be, packed by tar.</summary>
    [Theory]
    [InlineData("vendor_b\t1\t3\t2\t0\t0\n")]
    [InlineData("vendor_b\t1\t1\t2\t9\t8\n")]
    [InlineData("vendor_b\t3\t1\t2\t0\t8\n")]
    [InlineData("vendor_b\t1\t1\t4294967297\t0\t8\n")]
    [InlineData("vendor_b\t1\t1\t2\t0\t8\n")]
    [InlineData("odm_b\t1\t1\t2\t0\t8\n")]
    [InlineData("vendor_b\t1\n")]
    [InlineData("")]
    public void Report_with_a_progress_that_cannot_be_is_refused(string partitions)
    {
        Write(GoldenDevice.Named("first-phase-half"));
        string archive = _folder["report.tar"], content = _folder["content"];
        Assert.Equal(0, Android("report", archive).ExitCode);
        Directory.CreateDirectory(content);
        Assert.Equal(0, Binary.RunProgram("tar", ["-C", content, "-xf", archive]).ExitCode);
        File.WriteAllText(Path.Combine(content, "partitions"), partitions);
        Assert.Equal(0, Binary.RunProgram("tar", ["-C", content, "--format=ustar", "-cf", archive, "device", "super", "misc", "partitions",
            "metadata"]).ExitCode);
        BinaryResult read = Binary.Run(["android", "status", "--report", archive]);
        Assert.True(read.ExitCode == 65, read.ToString());
    }

    [Fact]
    public void Report_leaves_out_files_with_names_that_no_update_has()
    {
        Write(GoldenDevice.Named("first-phase-half"));
        File.WriteAllText(_folder["metadata/ota/" + new string('x', 200)], "x");
        Assert.Equal(0, Android("report", _folder["report.tar"]).ExitCode);
        Assert.Equal(75, Binary.Run(["android", "status", "--report", _folder["report.tar"]]).ExitCode);
    }

    /// <summary>Without a valid geometry, no content of super gets into the archive but the blocks of the geometry.</summary>
    [Fact]
    public void Report_of_a_wrong_super_has_nothing_of_its_content()
    {
        Write(GoldenDevice.Named("first-phase-half"));
        byte[] other = new byte[4 << 20];
        new Random(1).NextBytes(other);
        File.WriteAllBytes(_folder["dumps/super"], other);
        string archive = _folder["report.tar"];
        Assert.Equal(0, Android("report", archive).ExitCode);
        Assert.True(new FileInfo(archive).Length < 100_000, "too much");
    }

    [Fact]
    public void Slot_that_contradicts_the_device_is_refused()
    {
        Write(GoldenDevice.Named("first-phase-begin"));
        File.WriteAllText(_folder["cmdline"], "quiet androidboot.slot_suffix=_a\n");
        BinaryResult refused = Android("status");
        Assert.True(refused.ExitCode == 69, refused.ToString());
        Assert.Contains("--slot b is given, but the device says that its current slot is a", refused.Error, StringComparison.Ordinal);
    }

    [Fact]
    public void Missing_partitions_and_wrong_commands_have_their_sentences()
    {
        Write(GoldenDevice.Named("first-phase-begin"));
        File.Delete(_folder["dumps/super"]);
        BinaryResult none = Android("status");
        Assert.True(none.ExitCode == 66, none.ToString());
        Assert.Contains("has no super", none.Error, StringComparison.Ordinal);
        Directory.Delete(_folder["metadata"], recursive: true);
        Assert.Equal(66, Android("status").ExitCode);
        Assert.Equal(64, Binary.Run("android", "statsu").ExitCode);
        Assert.Equal(64, Binary.Run("android", "status", "--dry-run").ExitCode);
    }

    [Fact]
    public void Locked_state_is_busy_and_a_sparse_dump_is_refused()
    {
        Write(GoldenDevice.Named("first-phase-begin"));
        BinaryResult busy = Binary.RunProgram("flock", ["-x", _folder["metadata/ota"], Binary.Path, .. Words("merge")]);
        Assert.True(busy.ExitCode == 76, busy.ToString());
        Assert.Equal(76, Binary.RunProgram("flock", ["-x", _folder["metadata/ota"], Binary.Path, .. Words("status")]).ExitCode);
        Assert.Equal(75, Binary.RunProgram("flock", ["-s", _folder["metadata/ota"], Binary.Path, .. Words("status")]).ExitCode);
        File.WriteAllBytes(_folder["dumps/super"], [0x3a, 0xff, 0x26, 0xed, .. new byte[8188]]);
        BinaryResult sparse = Android("status");
        Assert.True(sparse.ExitCode == 65, sparse.ToString());
        Assert.Contains("simg2img", sparse.Error, StringComparison.Ordinal);
    }

    private BinaryResult Android(params string[] words) => Binary.Run(Words(words));

    private string[] Words(params string[] words) =>
    [
        "android", .. words, "--by-name", _folder["dumps"], "--metadata", _folder["metadata"], "--slot", _slot, "--cmdline",
        _folder["cmdline"], "--bootconfig", _folder["bootconfig"],
    ];

    private string _slot = "a";

    private void Write(GoldenDevice device)
    {
        foreach (string folder in (string[])["dumps", "metadata"])
            if (Directory.Exists(_folder[folder])) Directory.Delete(_folder[folder], recursive: true);
        foreach (string folder in (string[])["dumps", "metadata/ota/snapshots"]) Directory.CreateDirectory(_folder[folder]);
        foreach (string name in device.Devices) File.WriteAllBytes(_folder["dumps/" + name], device.Device(name));
        if (Directory.Exists(device.Metadata))
        {
            foreach (string file in Directory.EnumerateFiles(device.Metadata, "*", SearchOption.AllDirectories))
            {
                string copy = _folder["metadata/" + Path.GetRelativePath(device.Metadata, file)];
                Directory.CreateDirectory(Path.GetDirectoryName(copy)!);
                File.WriteAllBytes(copy, File.ReadAllBytes(file));
            }
        }
        // A device with retrofit dynamic partitions: its super is system_a.
        bool retrofit = !File.Exists(_folder["dumps/super"]);
        File.WriteAllText(_folder["cmdline"], retrofit ? "quiet androidboot.super_partition=system\n" : "quiet\n");
        File.WriteAllText(_folder["bootconfig"], "");
        _slot = device.Slot[1..];
    }

    /// <summary>The hash of all dumps and state files.</summary>
    private string Everything()
    {
        using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (string folder in (string[])["dumps", "metadata"])
        {
            foreach (string file in Directory.EnumerateFiles(_folder[folder], "*", SearchOption.AllDirectories).Order())
            {
                hash.AppendData(System.Text.Encoding.UTF8.GetBytes(file));
                hash.AppendData(File.ReadAllBytes(file));
            }
        }
        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    /// <summary>The partitions of the new slot have their content after the merge, and the state files are as they were.</summary>
    private void Check(GoldenDevice device)
    {
        Dictionary<string, byte[]> content = device.Devices.ToDictionary(name => name, name => File.ReadAllBytes(_folder["dumps/" + name]));
        int compared = 0;
        foreach (string[] row in device.Table("partitions.tsv").Where(row => row[0] == "1" && row[7] != "-"))
        {
            using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
            foreach (string extent in row[5].Split(';', StringSplitOptions.RemoveEmptyEntries))
            {
                string[] parts = extent.Split(':', '+');
                int sectors = int.Parse(parts[2]);
                if (parts[0] == "zero") hash.AppendData(new byte[sectors * SectorBytes]);
                else hash.AppendData(content[parts[0]].AsSpan(int.Parse(parts[1]) * SectorBytes, sectors * SectorBytes));
            }
            Assert.Equal((row[1], row[7]), (row[1], Convert.ToHexStringLower(hash.GetHashAndReset())));
            compared++;
        }
        Assert.True(compared > 1, $"{compared} partitions");
        foreach (string file in Directory.EnumerateFiles(device.Metadata, "*", SearchOption.AllDirectories))
            Assert.Equal(File.ReadAllBytes(file), File.ReadAllBytes(_folder["metadata/" + Path.GetRelativePath(device.Metadata, file)]));
    }
}
