using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text;
using System.Text.Json;
using Snapuserd.Boot;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// `boot` with a hibernation image. Other tests boot at the same time and must not find the image. So it is in a swap file, where only a
/// run with resume_offset= looks for it.
/// </summary>
public sealed class HibernationTests : IDisposable
{
    private const int HeaderPage = 100;

    private readonly TempFolder _folder = new();
    private LoopDevice? _loop;

    public HibernationTests()
    {
        byte[] disk = new byte[2 << 20];
        Encoding.ASCII.GetBytes("SWAPSPACE2S1SUSPEND\0").CopyTo(disk, ((HeaderPage + 1) * 4096) - 20);
        File.WriteAllBytes(_folder["disk"], disk);
        File.WriteAllBytes(_folder["cow"], Golden.Cow("v3-lz4-64k-xor"));
        File.WriteAllBytes(_folder["base"], Golden.Old);
    }

    private string Disk => (_loop ??= new LoopDevice(_folder["disk"])).Path;

    public void Dispose()
    {
        _loop?.Dispose();
        _folder.Dispose();
    }

    private BinaryResult Boot(string line, params string[] more)
    {
        File.WriteAllText(_folder["table"], $"root {_folder["cow"]} {_folder["base"]}\n");
        File.WriteAllText(_folder["cmdline"], line);
        return Binary.Run(["boot", "--table", _folder["table"], "--cmdline", _folder["cmdline"], "--control-folder", _folder["run"],
            "--wait", "0", .. more]);
    }

    [RootTheory]
    [InlineData("")]
    [InlineData("snapuserd.merge=before ")]
    [InlineData("snapuserd.merge=rollback ")]
    public void Nothing_is_written_beside_an_image_in_a_swap_file(string policy)
    {
        string number = LoopDevice.Call("lsblk", "-ndo", "MAJ:MIN", Disk).Trim();
        File.CreateSymbolicLink(_folder["link"], Disk);
        foreach (string name in new[] { Disk, number, _folder["link"] })
            foreach (string[] more in new string[][] { [], ["--dry-run"], ["--after-resume"], ["--json"] })
            {
                string line = $"{policy}resume={name} resume_offset={HeaderPage}";
                // The lock file of boot does not count as a write: it is in /run, in memory.
                BinaryResult result = Boot(line, more);
                Dictionary<string, byte[]> after = Directory.EnumerateFiles(_folder.Path).ToDictionary(path => path, File.ReadAllBytes);
                Assert.Equal(78, result.ExitCode);
                string sentence = $"a hibernation image is there (S1SUSPEND on {Disk}, page {HeaderPage})";
                if (more is ["--json"])
                {
                    JsonElement error = JsonDocument.Parse(result.Output.Trim()).RootElement;
                    Assert.Equal(("error", 78), (error.GetProperty("event").GetString(), error.GetProperty("exit_code").GetInt32()));
                    Assert.Contains(sentence, error.GetProperty("message").GetString());
                }
                else
                {
                    Assert.Equal("", result.Output);
                    Assert.Contains(sentence, result.Error);
                }
                Assert.Equal(Golden.Cow("v3-lz4-64k-xor"), after[_folder["cow"]]);
                Assert.Equal(Golden.Old, after[_folder["base"]]);
                Assert.DoesNotContain(after.Keys, path => path.EndsWith(".merging", StringComparison.Ordinal));
            }
    }

    [RootFact]
    public void Discarded_hibernation_image_is_named_in_a_warning()
    {
        BinaryResult result = Boot($"noresume resume={Disk} resume_offset={HeaderPage}", "--dry-run");
        Assert.Equal(0, result.ExitCode);
        Assert.StartsWith("root served /dev/mapper/root: ", result.Output);
        Assert.Contains($"a hibernation image is there (S1SUSPEND on {Disk}, page {HeaderPage}), and noresume", result.Error);
    }

    [Fact]
    public void Missing_resume_device_does_not_count_as_an_image()
    {
        BinaryResult result = Boot("resume=UUID=00000000-0000-4000-8000-000000000000", "--dry-run");
        Assert.Equal(0, result.ExitCode);
        Assert.Contains(
            "whether there is a hibernation image is not known: resume= is UUID=00000000-0000-4000-8000-000000000000, which is not there",
            result.Error);
    }

    [Fact]
    public void Failed_row_is_reported_once_in_a_dry_run()
    {
        File.WriteAllBytes(_folder["cow"], [.. Enumerable.Repeat((byte)7, 5000)]);
        foreach (string[] more in new string[][] { ["--dry-run"], ["--dry-run", "--json"] })
        {
            BinaryResult result = Boot("", more);
            Assert.Equal(65, result.ExitCode);
            Assert.Contains("is not a COW file", result.Output);
            Assert.DoesNotContain("is not a COW file", result.Error);
            Assert.Single(result.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries));
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Two_rows_with_two_names_of_one_file_are_refused(bool hard)
    {
        File.WriteAllBytes(_folder["cow2"], Golden.Cow("v3-lz4-64k-xor"));
        LoopDevice.Call("ln", hard ? "-f" : "-sf", _folder["base"], _folder["base2"]);
        File.WriteAllText(_folder["cmdline"], "");
        File.WriteAllText(_folder["table"], $"one {_folder["cow"]} {_folder["base"]}\ntwo {_folder["cow2"]} {_folder["base2"]}\n");
        foreach (string[] more in new string[][] { [], ["--dry-run"] })
        {
            BinaryResult result = Binary.Run(["boot", "--table", _folder["table"], "--cmdline", _folder["cmdline"], "--control-folder",
                _folder["run"], "--wait", "0", .. more]);
            Assert.Equal((64, ""), (result.ExitCode, result.Output));
            Assert.Contains($"{_folder["table"]}:2: the base {_folder["base2"]} is the base {_folder["base"]} of {_folder["table"]}:1, "
                + "under another name", result.Error);
        }
    }
}
