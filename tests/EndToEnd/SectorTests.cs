using System;
using System.Diagnostics;
using System.IO;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// COW, base and source on loop devices with logical sectors of 512, 4096 and 16,384 bytes. The devices access their files with direct I/O
/// or through the page cache. Where a sector is larger than a block, verbs that write are refused with 64 before they change a byte; verbs
/// that read work.
/// </summary>
public sealed class SectorTests : IDisposable
{
    private const int Large = 16384;

    /// <summary>Linux supports loop devices with sectors larger than a page since 6.15.</summary>
    private static readonly Lazy<bool> s_isLargePossible = new(() =>
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["file"], new byte[Large]);
        try
        {
            new LoopDevice(folder["file"], "--sector-size", $"{Large}").Dispose();
            return true;
        }
        catch (InvalidOperationException)
        {
            return false;
        }
    });

    private sealed class LargeSectorFactAttribute : RootFactAttribute
    {
        public LargeSectorFactAttribute()
        {
            if (Skip == null && !s_isLargePossible.Value)
                Skip = $"this kernel makes no loop device with sectors of {Large} bytes, and the other tests here skip that size";
        }
    }

    private const string Vector = "v2-gz-xor";
    private readonly TempFolder _folder = new();
    private readonly byte[] _cowBytes = Padded(Golden.Cow(Vector));

    public SectorTests()
    {
        File.WriteAllBytes(_folder["cow"], _cowBytes);
        File.WriteAllBytes(_folder["base"], Golden.Old);
        File.WriteAllBytes(_folder["source"], Golden.Old);
    }

    public static TheoryData<int, bool> Kinds
    {
        get
        {
            TheoryData<int, bool> kinds = [];
            foreach (int sector in (ReadOnlySpan<int>)[512, 4096, Large])
                if (sector < Large || s_isLargePossible.Value)
                    foreach (bool direct in (ReadOnlySpan<bool>)[false, true]) kinds.Add(sector, direct);
            return kinds;
        }
    }

    public void Dispose() => _folder.Dispose();

    [LargeSectorFact]
    public void Merged_cow_is_reported_as_merged_with_sectors_of_any_size()
    {
        BinaryResult merged = Binary.Run("merge", "--progress", "never", "--cow", _folder["cow"], "--base", _folder["base"]);
        Assert.True(merged.ExitCode == 0, merged.ToString());
        using LoopDevice target = Loop("base", Large, direct: false), cow = Loop("cow", Large, direct: false);
        BinaryResult again = Binary.Run("merge", "--progress", "never", "--cow", cow.Path, "--base", target.Path);
        Assert.True(again.ExitCode == 0, again.ToString());
        Assert.Contains("already merged", again.Output);
    }

    [LargeSectorFact]
    public void Dry_run_of_boot_reports_that_a_merge_is_impossible()
    {
        using LoopDevice target = Loop("base", Large, direct: false);
        File.WriteAllText(_folder["table"], $"system {_folder["cow"]} {target.Path}\n");
        File.WriteAllText(_folder["line"], "quiet\n");
        string[] words = ["boot", "--table", _folder["table"], "--cmdline", _folder["line"], "--wait", "0", "--dry-run"];
        BinaryResult untouched = Binary.Run(words);
        Assert.Contains($"cannot open {target.Path} for writing: its sectors have {Large} bytes", untouched.Output + untouched.Error);
        Assert.DoesNotContain("served", untouched.Output);

        // The base holds neither image, so there is nothing to boot from.
        byte[] begun = Padded(Golden.HalfCow("half-v2-gz-xor-F2sync"));
        File.WriteAllBytes(_folder["cow"], begun);
        BinaryResult failed = Binary.Run(words);
        Assert.Contains("its sectors have", failed.Output + failed.Error);
        Assert.Contains("failed", failed.Output + failed.Error);
        Assert.NotEqual(0, failed.ExitCode);
    }

    [RootTheory]
    [MemberData(nameof(Kinds))]
    public void Base_with_sectors_no_larger_than_a_block_is_merged(int sector, bool direct)
    {
        using LoopDevice target = Loop("base", sector, direct);
        ReadEverything(_folder["cow"], target.Path);
        Merges(sector, target.Path, ["--cow", _folder["cow"], "--base", target.Path]);
    }

    [RootTheory]
    [MemberData(nameof(Kinds))]
    public void Cow_with_sectors_no_larger_than_a_block_is_merged(int sector, bool direct)
    {
        using LoopDevice cow = Loop("cow", sector, direct);
        ReadEverything(cow.Path, _folder["base"]);
        Merges(sector, cow.Path, ["--cow", cow.Path, "--base", _folder["base"]]);
    }

    [RootTheory]
    [MemberData(nameof(Kinds))]
    public void Source_may_have_sectors_of_any_size(int sector, bool direct)
    {
        using LoopDevice source = Loop("source", sector, direct);
        // Every byte that does not come from the source is wrong.
        byte[] other = Golden.Old;
        ReadEverything(_folder["cow"], _folder["base"], "--source", source.Path);
        BinaryResult result = Binary.Run("merge", "--progress", "never", "--cow", _folder["cow"], "--base", _folder["base"], "--source",
            source.Path);
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["base"]));
        Assert.Equal(other, File.ReadAllBytes(_folder["source"]));
    }

    [RootTheory]
    [MemberData(nameof(Kinds))]
    public void Cow_is_created_from_images_on_sectors_of_any_size(int sector, bool direct)
    {
        File.WriteAllBytes(_folder["new"], Golden.New);
        using LoopDevice old = Loop("base", sector, direct), wanted = Loop("new", sector, direct);
        BinaryResult result = Binary.Run("create", "--progress", "never", "--source", old.Path, "--target", wanted.Path, "--output",
            _folder["made"]);
        Assert.True(result.ExitCode == 0, result.ToString());
        result = Binary.Run("extract", "--progress", "never", "--cow", _folder["made"], "--base", old.Path, "--output", _folder["out"]);
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["out"]));

        // A device to which `create` can write the COW must be one from which the COW can be merged.
        File.WriteAllBytes(_folder["device"], new byte[2 * Golden.New.Length]);
        using LoopDevice output = Loop("device", sector, direct);
        result = Binary.Run("create", "--progress", "never", "--source", old.Path, "--target", wanted.Path, "--output", output.Path);
        Assert.True(result.ExitCode == (sector < Large ? 0 : 64), result.ToString());
        if (sector < Large) return;
        Assert.Contains($"cannot open {output.Path} for writing: its sectors have {Large} bytes", result.Error);
        Assert.Equal(new byte[2 * Golden.New.Length], File.ReadAllBytes(_folder["device"]));
    }

    private void Merges(int sector, string device, string[] devices)
    {
        foreach (string io in sector == Large ? ["auto", "sync"] : new[] { "auto" })
        {
            BinaryResult result = Binary.Run(["merge", "--progress", "never", "--io", io, .. devices]);
            if (sector < Large)
            {
                Assert.True(result.ExitCode == 0, result.ToString());
                Assert.Equal(Golden.New, File.ReadAllBytes(_folder["base"]));
                return;
            }
            Assert.True(result.ExitCode == 64, result.ToString());
            Assert.Contains($"cannot open {device} for writing: its sectors have {Large} bytes", result.Error);
        }
        // A server that also merges; a server that only reads is tested above.
        BinaryResult served = Binary.Run(["serve", "--merge", "--device", "nbd", "--socket", _folder["socket"], .. devices]);
        Assert.True(served.ExitCode == 64, served.ToString());
        Assert.Equal(_cowBytes, File.ReadAllBytes(_folder["cow"]));
        Assert.Equal(Golden.Old, File.ReadAllBytes(_folder["base"]));
    }

    private void ReadEverything(string cow, string target, params string[] more)
    {
        BinaryResult result = Binary.Run("inspect", "--cow", cow);
        Assert.True(result.ExitCode == 0, result.ToString());
        result = Binary.Run(["verify", "--progress", "never", "--cow", cow, "--base", target, .. more]);
        Assert.True(result.ExitCode == 0, result.ToString());
        result = Binary.Run(["extract", "--progress", "never", "--cow", cow, "--base", target, "--output", _folder["out"], .. more]);
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["out"]));
        using Process server = Binary.Start(["serve", "--progress", "never", "--device", "nbd", "--socket", _folder["socket"], "--cow", cow,
            "--base", target, .. more]);
        try
        {
            Assert.NotNull(server.StandardOutput.ReadLine());
            LoopDevice.Call("nbdcopy", $"nbd+unix:///?socket={_folder["socket"]}", _folder["served"]);
            Assert.Equal(Golden.New, File.ReadAllBytes(_folder["served"]));
        }
        finally
        {
            server.Kill();
            server.WaitForExit();
        }
    }

    private LoopDevice Loop(string name, int sector, bool direct) =>
        new(_folder[name], "--sector-size", sector.ToString(), $"--direct-io={(direct ? "on" : "off")}");

    /// <summary>Pads to whole sectors of the largest size, because a loop device has whole sectors.</summary>
    private static byte[] Padded(byte[] cow)
    {
        Array.Resize(ref cow, (cow.Length + Large - 1) & -Large);
        return cow;
    }
}
