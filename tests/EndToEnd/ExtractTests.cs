using System;
using System.IO;
using System.Linq;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>`extract` of the built binary: the files that it leaves, and their names, after success and failure.</summary>
public sealed class ExtractTests : IDisposable
{
    private const string Vector = "v3-zstd-256k-xor";
    private readonly TempFolder _folder = new();
    private readonly string _out;

    public ExtractTests()
    {
        _out = _folder["out"];
        File.WriteAllBytes(_folder["cow"], Golden.Cow(Vector));
        File.WriteAllBytes(_folder["base"], Golden.Old);
    }

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Extract_writes_the_image_and_reports_it()
    {
        BinaryResult result = Extract();
        Assert.Equal((0, $"wrote 4.5 MiB to {_out}\n", ""), (result.ExitCode, result.Output, result.Error));
        Assert.Equal(Golden.New, File.ReadAllBytes(_out));
        Only("out");
    }

    [Fact]
    public void Temporary_file_of_a_killed_run_is_reused()
    {
        File.WriteAllBytes(_out + ".part", new byte[Golden.New.Length + 12345]);
        Assert.Equal(0, Extract().ExitCode);
        Assert.Equal(Golden.New, File.ReadAllBytes(_out));
        Only("out");
    }

    [Fact]
    public void A_run_that_fails_leaves_nothing()
    {
        byte[] cow = Golden.Cow(Vector);
        cow[^100] ^= 0x55;
        File.WriteAllBytes(_folder["cow"], cow);
        Assert.Equal(65, Extract().ExitCode);
        Only();
    }

    [Fact]
    public void Temporary_file_of_a_concurrent_run_is_76_and_stays_unchanged()
    {
        File.WriteAllText(_out + ".part", "theirs");
        using (new FileStream(_out + ".part", FileMode.Open, FileAccess.ReadWrite, FileShare.None)) Assert.Equal(76, Extract().ExitCode);
        Assert.Equal("theirs", File.ReadAllText(_out + ".part"));
        Assert.False(File.Exists(_out));
    }

    [Fact]
    public void Link_under_the_name_of_the_temporary_file_is_not_followed()
    {
        File.WriteAllText(_folder["precious"], "precious");
        File.CreateSymbolicLink(_out + ".part", _folder["precious"]);
        Assert.Equal(73, Extract().ExitCode);
        Assert.Equal("precious", File.ReadAllText(_folder["precious"]));
    }

    [Fact]
    public void An_existing_file_keeps_its_mode_and_a_link_to_it_stays_a_link()
    {
        Directory.CreateDirectory(_folder["there"]);
        File.WriteAllText(_folder["there/image"], "old");
        File.SetUnixFileMode(_folder["there/image"], UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.GroupExecute);
        File.CreateSymbolicLink(_folder["second"], "there/image");
        File.CreateSymbolicLink(_out, "second");
        Assert.Equal(0, Extract().ExitCode);
        Assert.Equal("second", new FileInfo(_out).LinkTarget);
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["there/image"]));
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.GroupExecute,
            File.GetUnixFileMode(_folder["there/image"]));
        Assert.Single(Directory.GetFileSystemEntries(_folder["there"]));
    }

    [Fact]
    public void New_file_gets_the_mode_that_the_umask_permits()
    {
        BinaryResult result = Binary.RunProgram("/bin/sh",
            ["-c", "umask 027; exec \"$0\" extract --cow \"$1\" --base \"$2\" --output \"$3\"", Binary.Path, _folder["cow"],
                _folder["base"], _out]);
        Assert.Equal(0, result.ExitCode);
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.GroupRead, File.GetUnixFileMode(_out));
    }

    [RootFact]
    public void Root_keeps_the_owner_of_an_existing_file()
    {
        File.WriteAllText(_out, "old");
        LoopDevice.Call("chown", "1234:5678", _out);
        Assert.Equal(0, Extract().ExitCode);
        Assert.Equal("1234 5678\n", LoopDevice.Call("stat", "-c", "%u %g", _out));
    }

    [Fact]
    public void A_device_or_a_folder_as_output_is_73()
    {
        Assert.Equal(73, Binary.Run("extract", "--cow", _folder["cow"], "--base", _folder["base"], "--output", "/dev/null").ExitCode);
        Assert.Equal(73, Binary.Run("extract", "--cow", _folder["cow"], "--base", _folder["base"], "--output", _folder.Path).ExitCode);
        Assert.Equal(73,
            Binary.Run("extract", "--cow", _folder["cow"], "--base", _folder["base"], "--output", _folder["no/such"]).ExitCode);
    }

    [Fact]
    public void Output_whose_temporary_file_is_an_input_is_64_and_nothing_is_truncated()
    {
        foreach (string input in new[] { "cow", "base" })
        {
            File.Copy(_folder[input], _folder["x.part"], overwrite: true);
            string cow = input == "cow" ? _folder["x.part"] : _folder["cow"], image = input == "base" ? _folder["x.part"] : _folder["base"];
            Assert.Equal(64, Binary.Run("extract", "--cow", cow, "--base", image, "--output", _folder["x"]).ExitCode);
            Assert.Equal(64, Binary.Run("extract", "--cow", cow, "--base", image, "--output", _folder["x.part"]).ExitCode);
            Assert.Equal(File.ReadAllBytes(_folder[input]), File.ReadAllBytes(_folder["x.part"]));
        }
    }

    [RootFact]
    public void File_below_a_loop_device_that_is_an_input_is_64_as_output()
    {
        using LoopDevice loop = new(_folder["base"]);
        Assert.Equal(64, Binary.Run("extract", "--cow", _folder["cow"], "--base", loop.Path, "--output", _folder["base"]).ExitCode);
        Assert.Equal(Golden.Old, File.ReadAllBytes(_folder["base"]));
    }

    [Fact]
    public void A_file_that_may_not_grow_is_74_and_is_removed()
    {
        // ulimit -f counts 512 bytes in sh; the signal that comes with the limit must not end the program.
        BinaryResult result = Binary.RunProgram("/bin/sh",
            ["-c", "ulimit -f 1000; exec \"$0\" extract --cow \"$1\" --base \"$2\" --output \"$3\"", Binary.Path, _folder["cow"],
                _folder["base"], _out]);
        Assert.Equal(74, result.ExitCode);
        Assert.Contains("EFBIG", result.Error);
        Only();
    }

    [Fact]
    public void A_signal_in_the_last_flush_is_75_and_leaves_nothing()
    {
        string[] command = KillAt.SignalledAt(15, 1, "fsync", "extract", "--cow", _folder["cow"], "--base", _folder["base"],
            "--output", _out);
        BinaryResult result = Binary.RunProgram(command[0], command[1..]);
        Assert.True(result.ExitCode == 75, result.ToString());
        Only();
    }

    [Fact]
    public void Name_of_the_output_is_made_durable_after_its_bytes()
    {
        BinaryResult result = Binary.RunProgram("strace",
            ["-f", "-qq", "-o", _folder["trace"], "-e", "trace=fsync,rename,renameat2", Binary.Path, "extract", "--cow", _folder["cow"],
                "--base", _folder["base"], "--output", _out]);
        Assert.True(result.ExitCode == 0, result.ToString());
        string[] calls = File.ReadAllLines(_folder["trace"]).Where(line => line.Contains('('))
            .Select(line => line.Split('(')[0].Split(' ')[^1]).ToArray();
        // The output did not exist before: a file that another process creates at the last moment must not be replaced.
        Assert.Equal(["fsync", "renameat2", "fsync"], calls);
    }

    private BinaryResult Extract() => Binary.Run("extract", "--cow", _folder["cow"], "--base", _folder["base"], "--output", _out);

    private void Only(params string[] more) =>
        Assert.Equal(more.Concat(["base", "cow"]).Order(), Directory.GetFileSystemEntries(_folder.Path).Select(Path.GetFileName).Order());
}
