using System;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Text.Json;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>`merge` of the built binary: its refusals, its results, its signals.</summary>
public sealed class MergeTests : IDisposable
{
    private const string Vector = "v2-gz-xor";
    private readonly TempFolder _folder = new();
    private readonly string _cow;
    private readonly string _base;

    public MergeTests()
    {
        (_cow, _base) = (_folder["cow"], _folder["base"]);
        File.WriteAllBytes(_cow, Golden.Cow(Vector));
        File.WriteAllBytes(_base, Golden.Old);
    }

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("auto")]
    [InlineData("sync")]
    public void Last_json_line_summarizes_the_merge(string io)
    {
        BinaryResult result = Merge("--json", "--io", io);
        Assert.True(result.ExitCode == 0, result.ToString());
        JsonElement done = JsonDocument.Parse(result.Output.TrimEnd('\n').Split('\n')[^1]).RootElement;
        GoldenCow row = Golden.Row(Vector);
        Assert.Equal("done", done.GetProperty("event").GetString());
        Assert.Equal(row.MergeOps, done.GetProperty("ops").GetInt32());
        Assert.Equal(0, done.GetProperty("resumed_from").GetInt32());
        Assert.Equal(done.GetProperty("blocks").GetInt64() * 4096, done.GetProperty("bytes_written").GetInt64());
        Assert.True(done.GetProperty("seconds").GetDouble() > 0);
        Assert.Contains(done.GetProperty("io").GetString(), io == "sync" ? ["sync"] : new[] { "uring", "sync" });
        Assert.Equal(Golden.New, File.ReadAllBytes(_base));
    }

    [Fact]
    public void Repeated_merge_does_not_write_to_the_base()
    {
        Assert.Equal(0, Merge().ExitCode);
        DateTime written = File.GetLastWriteTimeUtc(_base);
        BinaryResult again = Merge("--json");
        Assert.Equal(0, again.ExitCode);
        Assert.Contains("\"already_merged\":true", again.Output);
        Assert.Contains("\"bytes_written\":0", again.Output);
        Assert.Equal(written, File.GetLastWriteTimeUtc(_base));
    }

    [Fact]
    public void Cow_as_its_own_base_is_64_under_any_name()
    {
        File.CreateSymbolicLink(_folder["link"], _cow);
        Refused(64, Binary.Run("merge", "--cow", _cow, "--base", _folder["link"]));
        Refused(64, Merge("--source", _folder["link"]));
        File.CreateSymbolicLink(_folder["base-link"], _base);
        Refused(64, Merge("--source", _folder["base-link"], "--source-separate"));
        Unchanged();
    }

    [Fact]
    public void A_source_that_is_the_base_by_another_name_is_the_base()
    {
        File.CreateSymbolicLink(_folder["link"], _base);
        Assert.Equal(0, Merge("--source", _folder["link"]).ExitCode);
        Assert.Equal(Golden.New, File.ReadAllBytes(_base));
    }

    [Fact]
    public void A_separate_source_is_read_and_never_written()
    {
        File.WriteAllBytes(_folder["source"], Golden.Old);
        Assert.Equal(0, Merge("--source", _folder["source"], "--source-separate").ExitCode);
        Assert.Equal(Golden.New, File.ReadAllBytes(_base));
        Assert.Equal(Golden.Old, File.ReadAllBytes(_folder["source"]));
    }

    [Fact]
    public void Missing_file_is_66_and_a_folder_or_character_device_is_64()
    {
        Refused(66, Binary.Run("merge", "--cow", _folder["no"], "--base", _base));
        Refused(66, Binary.Run("merge", "--cow", _cow, "--base", _folder["no"]));
        Refused(64, Binary.Run("merge", "--cow", _folder.Path, "--base", _base));
        Refused(64, Binary.Run("merge", "--cow", _cow, "--base", "/dev/null"));
        Unchanged();
    }

    [Fact]
    public void Base_that_is_too_small_is_65_and_stays_unchanged()
    {
        byte[] cut = Golden.Old[..^4096];
        File.WriteAllBytes(_base, cut);
        Refused(65, Merge());
        Assert.Equal(cut, File.ReadAllBytes(_base));
    }

    [Fact]
    public void A_damaged_payload_is_65_before_the_first_write()
    {
        byte[] cow = Golden.Cow(Vector);
        // The middle of the payloads, which follow the 2 MiB of scratch.
        cow[(2 << 20) + ((cow.Length - (2 << 20)) / 2)] ^= 0x55;
        File.WriteAllBytes(_cow, cow);
        Refused(65, Merge());
        Assert.Equal(Golden.Old, File.ReadAllBytes(_base));
        Assert.Equal(cow, File.ReadAllBytes(_cow));
    }

    [Fact]
    public void Reading_the_merged_image_during_a_merge_is_76_without_waiting()
    {
        // If the count moved while the image is read, the result would be neither the old nor the new image.
        using (new FileStream(_cow, FileMode.Open, FileAccess.Read, FileShare.None))
        {
            Refused(76, Binary.Run("verify", "--cow", _cow, "--base", _base));
            Refused(76, Binary.Run("extract", "--cow", _cow, "--base", _base, "--output", _folder["out"]));
        }
        Assert.False(File.Exists(_folder["out"]));
        using (new FileStream(_cow, FileMode.Open, FileAccess.Read, FileShare.Read))
            Assert.Equal(0, Binary.Run("extract", "--cow", _cow, "--base", _base, "--output", _folder["out"]).ExitCode);
        Assert.Equal(["base", "cow", "out"], Directory.GetFiles(_folder.Path).Select(Path.GetFileName).Order());
    }

    [Fact]
    public void Another_lock_on_the_cow_or_the_base_is_76()
    {
        // FileShare.None is an exclusive flock, like the lock of a running merge.
        using (new FileStream(_base, FileMode.Open, FileAccess.Read, FileShare.None)) Refused(76, Merge());
        using (new FileStream(_cow, FileMode.Open, FileAccess.Read, FileShare.None)) Refused(76, Merge());
        Unchanged();
        Assert.Equal(0, Merge().ExitCode);
    }

    [RootFact]
    public void A_block_device_that_another_process_holds_is_76_and_a_read_only_one_77()
    {
        using var loop = new LoopDevice(_base);
        int held = Libc.OpenAt(Libc.AT_FDCWD, loop.Path, Libc.O_RDONLY | Libc.O_EXCL | Libc.O_CLOEXEC);
        Assert.True(held >= 0);
        try
        {
            Refused(76, Binary.Run("merge", "--cow", _cow, "--base", loop.Path));
        }
        finally
        {
            _ = Libc.Close(held);
        }
        Assert.Equal(0, Binary.RunProgram("blockdev", ["--setro", loop.Path]).ExitCode);
        Refused(77, Binary.Run("merge", "--cow", _cow, "--base", loop.Path));
        Unchanged();

        Assert.Equal(0, Binary.RunProgram("blockdev", ["--setrw", loop.Path]).ExitCode);
        Assert.Equal(0, Binary.Run("merge", "--cow", _cow, "--base", loop.Path).ExitCode);
        Assert.Equal(0, Binary.RunProgram("blockdev", ["--flushbufs", loop.Path]).ExitCode);
        Assert.Equal(Golden.New, File.ReadAllBytes(_base));
    }

    [Theory]
    [InlineData("SIGTERM")]
    [InlineData("SIGINT")]
    [InlineData("SIGHUP")]
    public void Signal_stops_at_a_checkpoint_with_75_and_the_same_command_continues(string signal)
    {
        // The signal's disposition at the start is set explicitly and not inherited: a shell starts background jobs with SIGINT ignored.
        Stopped(Binary.RunProgram("env", [$"--default-signal={signal["SIG".Length..]}",
            .. KillAt.SignalledAt(Number(signal), 3, "fdatasync", "merge", "--cow", _cow, "--base", _base, "--io", "sync")]));
        GoesOn("sync");
    }

    [Theory]
    [InlineData("SIGINT")]
    [InlineData("SIGHUP")]
    public void A_signal_that_was_ignored_at_the_start_stays_ignored(string signal)
    {
        // The third flush sends the signal.
        BinaryResult result = Binary.RunProgram("env", [$"--ignore-signal={signal["SIG".Length..]}", "strace", "-f", "-qq", "-o",
            "/dev/null", "-e", "trace=fdatasync", "-e", $"inject=fdatasync:signal={signal}:when=3",
            Binary.Path, "merge", "--cow", _cow, "--base", _base, "--io", "sync"]);
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal(Golden.New, File.ReadAllBytes(_base));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    [InlineData(12)]
    [InlineData(40)]
    public void A_signal_at_any_read_of_a_verification_is_75(int when)
    {
        string[] command = KillAt.SignalledAt(Number("SIGTERM"), when, "pread64", "verify", "--cow", _cow, "--base", _base, "--io", "sync",
            "--memory", "8M", "--progress", "never");
        Stopped(Binary.RunProgram(command[0], command[1..]));
    }

    [Fact]
    public void Signal_during_a_wait_for_the_ring_stops_the_merge()
    {
        // At the third wait for the ring, the signal handlers are installed and most of the merge remains.
        string[] command = KillAt.SignalledAt(Number("SIGTERM"), 3, "io_uring_enter", "merge", "--cow", _cow, "--base", _base, "--io",
            "uring", "--progress", "never");
        Stopped(Binary.RunProgram(command[0], command[1..]));
        GoesOn("uring");
    }

    private static int Number(string signal) => signal switch
    {
        "SIGHUP" => 1,
        "SIGINT" => 2,
        _ => 15,
    };

    [RootFact]
    public void Cow_as_its_own_base_through_a_loop_device_is_64()
    {
        using LoopDevice loop = new(_cow);
        Refused(64, Binary.Run("merge", "--cow", _cow, "--base", loop.Path));
        Refused(64, Binary.Run("merge", "--cow", loop.Path, "--base", _cow));
        Refused(64, Merge("--source", loop.Path));
        Unchanged();
    }

    [RootFact]
    public void A_separate_source_that_is_the_base_through_a_loop_device_is_64()
    {
        using LoopDevice loop = new(_base);
        Refused(64, Merge("--source", loop.Path, "--source-separate"));
        Refused(64, Binary.Run("merge", "--cow", _cow, "--base", loop.Path, "--source", _base, "--source-separate"));
        Unchanged();
    }

    [RootFact]
    public void A_base_that_is_mounted_through_a_loop_device_is_76()
    {
        string image = _folder["mounted"];
        using (FileStream file = File.Create(image)) file.SetLength(16 << 20);
        LoopDevice.Call("mkfs.ext4", "-q", image);
        using LoopDevice loop = new(image);
        string point = Directory.CreateDirectory(_folder["point"]).FullName;
        LoopDevice.Call("mount", "-o", "ro", loop.Path, point);
        byte[] before = File.ReadAllBytes(image);
        try
        {
            Refused(76, Binary.Run("merge", "--cow", _cow, "--base", image));
            Refused(76, Binary.Run("merge", "--cow", _cow, "--base", loop.Path));
        }
        finally
        {
            LoopDevice.Call("umount", point);
        }
        Assert.Equal(before, File.ReadAllBytes(image));
        Assert.Equal(Golden.Cow(Vector), File.ReadAllBytes(_cow));
    }

    [RootFact]
    public void A_second_merge_through_a_loop_device_over_the_base_is_76_while_the_first_runs()
    {
        using LoopDevice loop = new(_base);
        File.Copy(_cow, _folder["second"]);
        using Process first = KillAt.Hold(1, "pwrite64", "merge", "--cow", _cow, "--base", _base, "--io", "sync", "--progress", "never");
        Refused(76, Binary.Run("merge", "--cow", _folder["second"], "--base", loop.Path));
        Assert.Equal(Golden.Cow(Vector), File.ReadAllBytes(_folder["second"]));
        first.StandardInput.Close();
        Assert.StartsWith("merged ", first.StandardOutput.ReadToEnd());
        Assert.Equal("", first.StandardError.ReadToEnd());
        first.WaitForExit();
        Assert.Equal(0, first.ExitCode);
        Assert.Equal(Golden.New, File.ReadAllBytes(_base));
    }

    [RootFact]
    public void Repeated_merge_succeeds_on_read_only_devices()
    {
        // A loop device has whole sectors.
        using (FileStream file = File.OpenWrite(_cow)) file.SetLength((file.Length + 4095) & -4096);
        using LoopDevice target = new(_base), cow = new(_cow);
        string[] command = ["merge", "--cow", cow.Path, "--base", target.Path];
        LoopDevice.Call("blockdev", "--setro", target.Path);
        Refused(77, Binary.Run(command));
        LoopDevice.Call("blockdev", "--setrw", target.Path);
        Assert.Equal(0, Binary.Run(command).ExitCode);

        LoopDevice.Call("blockdev", "--setro", target.Path);
        AlreadyMerged(Binary.Run(command));
        LoopDevice.Call("blockdev", "--setro", cow.Path);
        AlreadyMerged(Binary.Run(command));
        LoopDevice.Call("blockdev", "--setrw", target.Path);
        int held = Libc.OpenAt(Libc.AT_FDCWD, target.Path, Libc.O_RDONLY | Libc.O_EXCL | Libc.O_CLOEXEC);
        try
        {
            AlreadyMerged(Binary.Run(command));
        }
        finally
        {
            _ = Libc.Close(held);
        }
        Assert.Contains("\"already_merged\":true", Binary.Run([.. command, "--json"]).Output);
        Assert.Equal(Golden.New, File.ReadAllBytes(_base));
    }

    [Fact]
    public void A_cow_that_another_process_writes_to_is_76_even_if_it_says_that_it_is_merged()
    {
        Assert.Equal(0, Merge().ExitCode);
        using (new FileStream(_cow, FileMode.Open, FileAccess.Read, FileShare.None)) Refused(76, Merge());
        using (new FileStream(_cow, FileMode.Open, FileAccess.Read, FileShare.Read)) AlreadyMerged(Merge());
    }

    [Fact]
    public void Merge_that_cannot_be_protected_is_64_and_names_the_option()
    {
        File.WriteAllBytes(_cow, new CowBuilder { ScratchBytes = 0 }.Xor(3, 3 * 4096, new byte[4096]).Build());
        BinaryResult result = Merge();
        Refused(64, result);
        Assert.Contains("--allow-unsafe", result.Error);
        Assert.Equal(Golden.Old, File.ReadAllBytes(_base));
    }

    [Theory]
    [InlineData(0, true)]
    [InlineData(2 << 20, false)]
    public void A_chain_without_scratch_is_merged_with_a_warning(int scratch, bool warned)
    {
        File.WriteAllBytes(_cow, new CowBuilder { ScratchBytes = scratch }.Copy(3, 4).Copy(4, 5).Build());
        BinaryResult result = Merge("--progress", "never", "--io", "sync");
        Assert.Equal(0, result.ExitCode);
        Assert.Equal(warned ? 1 : 0, result.Error.Count(c => c == '\n'));
        Assert.Equal(warned,
            result.Error.Contains("has no scratch: if Android's own engine was killed while merging it, the base may be damaged already"));
    }

    [Theory]
    [InlineData("ENOMEM")]
    [InlineData("EMFILE")]
    [InlineData("ENFILE")]
    public void Io_uring_that_fails_for_lack_of_memory_or_descriptors_is_71(string errno)
    {
        Refused(71, WithoutRing(errno, "uring"));
        Unchanged();
    }

    [Fact]
    public void Message_about_missing_io_uring_is_printed_once_per_command()
    {
        BinaryResult result = Binary.RunProgram("strace",
            ["-f", "-qq", "-o", "/dev/null", "-e", "trace=io_uring_setup", "-e", "inject=io_uring_setup:error=ENOSYS",
             Binary.Path, "verify", "--cow", _cow, "--base", _base, "--progress", "never"]);
        Assert.Equal(0, result.ExitCode);
        Assert.Contains("going on without io_uring", Assert.Single(result.Error.TrimEnd('\n').Split('\n')));
    }

    [Fact]
    public void Requested_progress_begins_immediately_and_reaches_the_end()
    {
        string[] lines = Merge("--progress", "plain").Error.TrimEnd('\n').Split('\n');
        Assert.StartsWith("check   0% ", lines[0]);
        Assert.StartsWith("merge   0% ", lines.First(line => !line.StartsWith("check ", StringComparison.Ordinal)));
        Assert.StartsWith("merge 100% ", lines[^1]);
        JsonElement[] events = Merge("--progress", "plain", "--json").Output.TrimEnd('\n').Split('\n')
            .Select(line => JsonDocument.Parse(line).RootElement).ToArray();
        Assert.Equal(["progress", "done"], events.Select(one => one.GetProperty("event").GetString()));
        Assert.Equal(events[0].GetProperty("total_bytes").GetInt64(), events[0].GetProperty("bytes").GetInt64());
    }

    [Theory]
    [InlineData("ENOSYS")]
    [InlineData("EPERM")]
    public void Without_io_uring_a_merge_prints_one_line_and_continues_unless_uring_was_requested(string errno)
    {
        BinaryResult asked = WithoutRing(errno, "uring");
        Refused(69, asked);
        Unchanged();

        BinaryResult result = WithoutRing(errno, "auto");
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Single(result.Error.TrimEnd('\n').Split('\n'));
        Assert.Contains("io_uring", result.Error);
        Assert.Contains("\"io\":\"sync\"", result.Output);
        Assert.Equal(Golden.New, File.ReadAllBytes(_base));
    }

    private static void Stopped(BinaryResult result)
    {
        Assert.True(result.ExitCode == 75, result.ToString());
        Assert.Equal("", result.Output);
        Assert.Single(result.Error.TrimEnd('\n').Split('\n'));
    }

    private void GoesOn(string io)
    {
        BinaryResult resumed = Merge("--io", io);
        Assert.True(resumed.ExitCode == 0, resumed.ToString());
        Assert.StartsWith("merged ", resumed.Output);
        Assert.Equal(Golden.New, File.ReadAllBytes(_base));
    }

    private static void AlreadyMerged(BinaryResult result)
    {
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal($"already merged: all {Golden.Row(Vector).MergeOps} ops\n", result.Output);
        Assert.Equal("", result.Error);
    }

    private BinaryResult Merge(params string[] more) => Binary.Run(["merge", "--cow", _cow, "--base", _base, .. more]);

    private BinaryResult WithoutRing(string errno, string io) => Binary.RunProgram("strace",
        ["-f", "-qq", "-o", "/dev/null", "-e", "trace=io_uring_setup", "-e", $"inject=io_uring_setup:error={errno}",
         Binary.Path, "merge", "--cow", _cow, "--base", _base, "--io", io, "--json", "--progress", "never"]);

    private static void Refused(int code, BinaryResult result)
    {
        Assert.True(result.ExitCode == code, $"expected {code}, got {result}");
        Assert.Single(result.Error.TrimEnd('\n').Split('\n'));
        Assert.StartsWith("snapuserd: ", result.Error);
    }

    private void Unchanged()
    {
        Assert.Equal(Golden.Old, File.ReadAllBytes(_base));
        Assert.Equal(Golden.Cow(Vector), File.ReadAllBytes(_cow));
    }
}
