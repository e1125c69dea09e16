using System;
using System.IO;
using System.Linq;
using System.Security.Cryptography;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>The program without parts of its environment: libraries, /dev, /proc, /sys, a terminal, standard streams.</summary>
public sealed class SurroundingsTests : IDisposable
{
    private const string Vector = "v3-zstd-4k-xor";
    private readonly TempFolder _folder = new();

    public SurroundingsTests()
    {
        File.WriteAllBytes(_folder["cow"], Golden.Cow(Vector));
        File.WriteAllBytes(_folder["base"], Golden.Old);
    }

    public void Dispose() => _folder.Dispose();

    [RootFact]
    public void Merge_works_in_an_otherwise_empty_root_without_dev_proc_and_sys()
    {
        Binary.CopyTo(_folder["snapuserd"]);
        BinaryResult version = Binary.RunProgram("chroot", [_folder.Path, "/snapuserd", "--version"]);
        Assert.Equal((0, ""), (version.ExitCode, version.Error));

        BinaryResult result = Binary.RunProgram("chroot", [_folder.Path, "/snapuserd", "merge", "--cow", "/cow", "--base", "/base"]);

        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["base"]));
        Assert.Equal(["base", "cow", "snapuserd"], Directory.GetFileSystemEntries(_folder.Path).Select(Path.GetFileName).Order());
    }

    [RootFact]
    public void Merge_works_in_an_empty_root_with_all_standard_streams_closed()
    {
        // Without /dev/null, the program must occupy descriptors 0 to 2 in another way, so that no device gets these numbers. The outer
        // shell closes the streams before it executes chroot; a shell inside the root would have to be static.
        Binary.CopyTo(_folder["snapuserd"]);
        BinaryResult result = Binary.RunProgram("/bin/sh",
            ["-c", "exec chroot \"$0\" /snapuserd merge --cow /cow --base /base <&- >&- 2>&-", _folder.Path]);
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["base"]));
    }

    public static TheoryData<int> Masks => [.. Enumerable.Range(0, 8)];

    [Theory]
    [MemberData(nameof(Masks))]
    public void No_device_gets_the_number_of_a_closed_stream(int closed)
    {
        string[] redirections = ["<&-", ">&-", "2>&-"];
        string closing = string.Join(' ', redirections.Where((_, fd) => (closed & (1 << fd)) != 0));
        BinaryResult result = Binary.RunProgram("strace",
            ["-f", "-qq", "-e", "trace=openat,io_uring_setup,eventfd2", "-o", _folder["trace"], "/bin/sh", "-c",
             $"exec \"$0\" merge --cow \"$1\" --base \"$2\" {closing}", Binary.Path, _folder["cow"], _folder["base"]]);

        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["base"]));
        Assert.Equal((closed & 2) == 0, result.Output.Length > 0);
        string[] opened = File.ReadAllLines(_folder["trace"])
            .Where(line => line.Contains($"\"{_folder["cow"]}\"") || line.Contains($"\"{_folder["base"]}\"")
                || line.Contains("io_uring_setup(") || line.Contains("eventfd2("))
            .ToArray();
        Assert.True(opened.Length >= 4, "the trace shows no devices");
        Assert.All(opened, line => Assert.True(line.Contains("= -1 ") || int.Parse(line[(line.LastIndexOf('=') + 2)..]) > 2, line));
    }

    [Fact]
    public void Program_runs_in_a_session_without_a_terminal()
    {
        BinaryResult result = Binary.RunProgram("setsid", ["--wait", Binary.Path, "inspect", _folder["cow"]]);
        Assert.Equal((0, ""), (result.ExitCode, result.Error));
    }

    [Fact]
    public void Standard_output_on_a_full_disk_is_74()
    {
        BinaryResult result = Binary.RunRedirected(">/dev/full", "--help");
        Assert.Equal(74, result.ExitCode);
        Assert.Equal("snapuserd: standard output: writing failed: no space left on device (ENOSPC)\n", result.Error);
        Assert.Equal(74, Binary.RunRedirected(">/dev/full", "inspect", _folder["cow"]).ExitCode);
    }

    [Fact]
    public void A_merge_is_done_even_if_no_output_can_be_written()
    {
        BinaryResult result = Binary.RunRedirected(">/dev/full 2>/dev/full", "merge", "--cow", _folder["cow"], "--base", _folder["base"],
            "--progress", "plain");
        Assert.Equal(0, result.ExitCode);
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["base"]));
    }

    [Fact]
    public void Result_that_cannot_be_printed_is_reported_and_the_merge_is_done()
    {
        BinaryResult result = Binary.RunRedirected(">/dev/full", "merge", "--cow", _folder["cow"], "--base", _folder["base"],
            "--progress", "never");
        Assert.Equal((0, "snapuserd: the command is done, but its result could not be printed: no space left on device (ENOSPC)\n"),
            (result.ExitCode, result.Error));
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["base"]));
    }

    [Fact]
    public void Closed_pipe_at_standard_output_does_not_end_the_merge()
    {
        // The reader closes its end at once; the program's writes then fail with EPIPE, and no signal ends it.
        BinaryResult result = Binary.RunProgram("/bin/sh",
            ["-c", "{ \"$0\" inspect --ops \"$1\"; echo $? >\"$2\"; } | true", Binary.Path, _folder["cow"], _folder["code"]]);
        Assert.Equal("", result.Error);
        Assert.Equal("0\n", File.ReadAllText(_folder["code"]));
    }

    [Fact]
    public void On_a_terminal_there_is_a_bar_and_the_result_is_on_a_separate_line()
    {
        BinaryResult result = Binary.RunProgram("script",
            ["-qec", $"stty cols 100; '{Binary.Path}' merge --cow '{_folder["cow"]}' --base '{_folder["base"]}'", "/dev/null"]);
        Assert.Equal(0, result.ExitCode);
        Assert.Matches(@"\rmerge +\d+% \[#*\.*\] [^\r]*\e\[K", result.Output);
        Assert.Matches(@"\r\e\[Kmerged [^\r]*\r\n", result.Output);
    }

    [Fact]
    public void Hash_of_the_image_equals_that_of_the_framework()
    {
        BinaryResult result = Binary.Run("verify", "--cow", _folder["cow"], "--base", _folder["base"], "--json", "--progress", "never");
        Assert.Equal(0, result.ExitCode);
        Assert.Contains($"\"sha256\":\"{Convert.ToHexStringLower(SHA256.HashData(Golden.New))}\"", result.Output);
        Assert.Equal(Golden.Old, File.ReadAllBytes(_folder["base"]));
        Assert.Equal(Golden.Cow(Vector), File.ReadAllBytes(_folder["cow"]));
    }
}
