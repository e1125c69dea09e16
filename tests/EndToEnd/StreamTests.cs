using System;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Text;
using System.Text.Json;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>`extract --output -`, and "-" where it names no stream. In a shell's output, a character is a byte.</summary>
public sealed class StreamTests : IDisposable
{
    private const string Vector = "v3-zstd-256k-xor";
    private readonly RawShell _shell = new();
    private readonly string _image = Encoding.Latin1.GetString(Golden.New);

    public StreamTests()
    {
        File.WriteAllBytes(_shell["cow"], Golden.Cow(Vector));
        File.WriteAllBytes(_shell["base"], Golden.Old);
        File.WriteAllBytes(_shell["new"], Golden.New);
    }

    public void Dispose() => _shell.Dispose();

    [Theory]
    [InlineData("--output -")]
    [InlineData("--output=-")]
    [InlineData("--output - --json")]
    [InlineData("--output - --json --progress plain")]
    [InlineData("--output - --progress plain --io sync")]
    public void Nothing_but_the_image_is_on_standard_output(string options)
    {
        foreach (string destination in (string[])["", "| cat", ">out; cat out", ">>empty; cat empty"])
        {
            RawResult result = _shell.Run($"$P extract --cow cow --base base {options} {destination}");
            Assert.Equal(0, result.ExitCode);
            Assert.True(result.Output == _image, $"{destination}: {result.Output.Length} bytes");
            if (!options.Contains("json", StringComparison.Ordinal)) Assert.EndsWith("wrote 4.5 MiB to standard output\n", result.Error);
            else
            {
                JsonElement done = JsonDocument.Parse(result.Error.TrimEnd('\n').Split('\n')[^1]).RootElement;
                Assert.Equal(("done", "-", Golden.New.Length),
                    (done.GetProperty("event").GetString(), done.GetProperty("output").GetString(), done.GetProperty("bytes").GetInt32()));
            }
            _ = _shell.Run("rm -f out empty");
        }
        Assert.Equal(["base", "cow", "new"], _shell.Names("."));
    }

    [Fact]
    public void Image_is_written_at_the_current_position_of_standard_output()
    {
        RawResult result = _shell.Run("(printf head; $P extract --cow cow --base base --output -; printf tail) >out && cat out");
        Assert.True(result.Output == "head" + _image + "tail", $"{result.Output.Length} bytes");
    }

    [Fact]
    public void A_reader_of_one_byte_at_a_time_and_a_pipe_that_does_not_block_get_the_whole_image()
    {
        Assert.Equal(0,
            _shell.Run("$P extract --cow cow --base base --output - | dd bs=1777 iflag=fullblock 2>/dev/null | cmp - new").ExitCode);
        // perl makes the pipe non-blocking for both processes that share it.
        Assert.Equal(0, _shell.Run("perl -MFcntl -e 'fcntl(STDOUT, F_SETFL, fcntl(STDOUT, F_GETFL, 0) | O_NONBLOCK) or die; exec @ARGV' "
            + "\"$P\" extract --cow cow --base base --output - | cmp - new").ExitCode);
    }

    [Fact]
    public void Image_can_be_written_to_a_socket()
    {
        RawResult result = _shell.Run("""
            perl -MSocket -e 'socketpair(A, B, AF_UNIX, SOCK_STREAM, 0) or die; if (!fork) { close A; open(STDOUT, ">&B");
                exec @ARGV } close B; binmode A; print while read(A, $_, 65536); wait;
                exit($? >> 8)' "$P" extract --cow cow --base base --output - | cmp - new
            """);
        Assert.True(result.ExitCode == 0, result.ToString());
    }

    [Fact]
    public void Reader_that_closes_the_pipe_is_74_because_the_image_is_incomplete()
    {
        RawResult result = _shell.Run("{ $P extract --cow cow --base base --output -; echo $? >code; } | head -c 1000 | wc -c; cat code");
        Assert.Equal("1000\n74\n", result.Output);
        Assert.Matches(@"^snapuserd: standard output: writing at \d+ failed: .*\(EPIPE\)\n$", result.Error);
    }

    [Fact]
    public void A_full_disk_and_a_file_that_may_not_grow_are_74()
    {
        RawResult full = _shell.Run("$P extract --cow cow --base base --output - >/dev/full");
        Assert.Equal(74, full.ExitCode);
        Assert.Matches(@"^snapuserd: standard output: writing at 0 failed: .*\(ENOSPC\)\n$", full.Error);
        RawResult limit = _shell.Run("ulimit -f 1000; $P extract --cow cow --base base --output - >out");
        Assert.Equal(74, limit.ExitCode);
        Assert.Contains("EFBIG", limit.Error);
    }

    [Fact]
    public void A_terminal_is_64_and_a_closed_or_read_only_standard_output_is_73()
    {
        RawResult terminal = _shell.Run(
            "SHELL=/bin/sh script -qec \"'$P' extract --cow cow --base base --output - 2>err\" /dev/null </dev/null; echo $? >code");
        Assert.Equal("", terminal.Output);
        Assert.Equal("64\n", _shell.Run("cat code").Output);
        Assert.Contains("standard output is a terminal", _shell.Run("cat err").Output);
        RawResult closed = _shell.Run("$P extract --cow cow --base base --output - >&-");
        Assert.Equal((73, "snapuserd: extract: --output -: standard output is closed\n"), (closed.ExitCode, closed.Error));
        RawResult reading = _shell.Run("$P extract --cow cow --base base --output - 1<new");
        Assert.Equal((73, "snapuserd: extract: --output -: standard output is open for reading only\n"), (reading.ExitCode, reading.Error));
        // The check comes before any file is opened, so these files need not exist.
        Assert.Equal(73, _shell.Run("$P extract --cow nothing --base nothing --output - >&-").ExitCode);
    }

    [Theory]
    [InlineData("1<>cow")]
    [InlineData(">>cow")]
    [InlineData("1<>base")]
    [InlineData(">>base")]
    public void Standard_output_that_is_an_input_is_64_and_nothing_is_written(string redirection)
    {
        RawResult result = _shell.Run($"ln cow other; $P extract --cow other --base base --output - {redirection}");
        Assert.True(result.ExitCode == 64, result.ToString());
        Assert.Contains("standard output is read by this very command", result.Error);
        Assert.Equal(Golden.Cow(Vector), File.ReadAllBytes(_shell["cow"]));
        Assert.Equal(Golden.Old, File.ReadAllBytes(_shell["base"]));
    }

    [RootFact]
    public void The_file_below_a_loop_device_that_is_read_is_64_as_standard_output()
    {
        using LoopDevice loop = new(_shell["base"]);
        Assert.Equal(64, _shell.Run($"$P extract --cow cow --base {loop.Path} --output - >>base").ExitCode);
        Assert.Equal(Golden.Old, File.ReadAllBytes(_shell["base"]));
    }

    [Fact]
    public void Standard_output_that_is_a_begun_cow_is_65_and_one_that_is_locked_76()
    {
        byte[] begun = Golden.HalfCow("half-v3-lz4-64k-xor-F1sync");
        File.WriteAllBytes(_shell["begun"], begun);
        Assert.Equal(65, _shell.Run("$P extract --cow cow --base base --output - 1<>begun").ExitCode);
        Assert.Equal(begun, File.ReadAllBytes(_shell["begun"]));
        RawResult locked =
            _shell.Run("echo theirs >locked; flock locked sh -c '\"$1\" extract --cow cow --base base --output - >>locked' sh \"$P\"");
        Assert.True(locked.ExitCode == 76, locked.ToString());
        Assert.Equal("theirs\n", File.ReadAllText(_shell["locked"]));
    }

    [Fact]
    public void Errors_are_on_standard_error_and_json_too()
    {
        foreach (string arguments in (string[])["extract --json --output - --cow nothing --base base",
            "extract --json --output - --cow cow", "extract --json --output=- --nonsense"])
        {
            RawResult result = _shell.Run($"$P {arguments} | wc -c");
            Assert.Equal("0\n", result.Output);
            string[] lines = result.Error.TrimEnd('\n').Split('\n');
            Assert.Equal(2, lines.Length);
            Assert.Equal("error", JsonDocument.Parse(lines[0]).RootElement.GetProperty("event").GetString());
            Assert.StartsWith("snapuserd: ", lines[1]);
        }
    }

    [Fact]
    public void Signal_while_the_reader_is_stalled_is_75()
    {
        using Process process = Binary.Start("extract", "--cow", _shell["cow"], "--base", _shell["base"], "--output", "-");
        // After the first byte has arrived, signals are handled as stop requests. The rest of the output does not fit into the pipe.
        Assert.NotEqual(-1, process.StandardOutput.BaseStream.ReadByte());
        Assert.Equal(0, Libc.Kill(process.Id, 15));
        Assert.True(process.WaitForExit(60_000));
        Assert.Equal(75, process.ExitCode);
        Assert.Matches(@"^snapuserd: stopped (after|at byte) \d+ ", process.StandardError.ReadToEnd());
    }

    [Fact]
    public void Path_that_leads_to_a_pipe_or_a_deleted_file_is_73_and_names_the_stream()
    {
        foreach (string verb in (string[])["extract --cow cow --base base", "create --source base --target new"])
            foreach (string destination in (string[])["| cat", ">gone"])
            {
                RawResult result =
                    _shell.Run($"{{ rm -f gone; $P {verb} --output /dev/stdout; echo $? >code; }} {destination}; cat code; rm code");
                Assert.Equal("73\n", result.Output);
                Assert.Equal("snapuserd: cannot create /dev/stdout: it leads to an open file that has no name (extract streams "
                    + "with --output -)\n", result.Error);
            }
        Assert.Equal(["base", "cow", "new"], _shell.Names("."));
    }

    [Fact]
    public void Create_refuses_a_stream_with_the_reason()
    {
        foreach (string option in (string[])["--output -", "--output=-", "--output - --format 2"])
        {
            RawResult result = _shell.Run($"$P create --source base --target new {option}");
            Assert.Equal((64, ""), (result.ExitCode, result.Output));
            Assert.Contains("'-' would be standard output, and a COW cannot be streamed: ", result.Error);
            Assert.Contains("a file of that name is ./-", result.Error);
        }
        Assert.Equal(["base", "cow", "new"], _shell.Names("."));
    }

    [Theory]
    [InlineData("inspect -")]
    [InlineData("inspect --cow -")]
    [InlineData("inspect -- -")]
    [InlineData("verify --cow -")]
    [InlineData("verify --cow cow --base -")]
    [InlineData("merge --cow - --base base")]
    [InlineData("merge --cow cow --base=-")]
    [InlineData("merge --cow cow --base base --source -")]
    [InlineData("serve --cow - --base base --device nbd --socket s")]
    [InlineData("extract --cow - --base base --output o")]
    [InlineData("create --source - --target new --output o")]
    [InlineData("create --source base --target - --output o")]
    [InlineData("boot --table -")]
    [InlineData("boot --cmdline -")]
    public void Standard_input_as_input_is_64(string arguments)
    {
        RawResult result = _shell.Run($"cp cow ./-; $P {arguments} <cow");
        Assert.True(result.ExitCode == 64, result.ToString());
        Assert.Contains("'-' would be standard input, which cannot be read in any order; a file of that name is ./-", result.Error);
    }

    [Fact]
    public void File_called_dash_can_be_named_with_its_folder()
    {
        RawResult result = _shell.Run("cp cow ./-; $P extract --cow ./- --base base --output ./out && mkdir d && cd d && $P extract --cow "
            + "../- --base ../base --output ./- && cmp ./- ../new");
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal(["-"], _shell.Names("d"));
    }
}
