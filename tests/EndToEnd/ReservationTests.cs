using System;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Text.RegularExpressions;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>A merge begins only when the file systems below COW and base have enough free space for everything it will write.</summary>
public sealed class ReservationTests : IDisposable
{
    private const int Blocks = 1200;
    private readonly TempFolder _folder = new();
    private readonly byte[] _old, _target, _cow;

    public ReservationTests()
    {
        Random random = new(7);
        _old = new byte[Blocks * CowOp.BlockSize];
        random.NextBytes(_old.AsSpan(0, 600 * CowOp.BlockSize));
        CowBuilder cow = new();
        // A chain of copies that goes through scratch, and Replaces into the second half of the base, which is one hole.
        for (uint i = 0; i < 599; i++) cow.Copy(i, i + 1);
        byte[] unit = new byte[CowOp.BlockSize];
        for (uint i = 600; i < Blocks; i++)
        {
            random.NextBytes(unit);
            cow.Replace(i, unit);
        }
        _target = NaiveMerger.Merge(cow, _old);
        byte[] content = cow.Build();
        _cow = [.. content, .. new byte[4096 - (content.Length % 4096)]];
    }

    public void Dispose() => _folder.Dispose();

    private static BinaryResult Merge(string cow, string target, string io) =>
        Binary.Run("merge", "--cow", cow, "--base", target, "--io", io, "--progress", "never");

    private static void Same(byte[] expected, string path) =>
        Assert.True(expected.AsSpan().SequenceEqual(Unlocked.Read(path, expected.Length)), $"{path} has the wrong content");

    [RootTheory]
    [InlineData("base", "uring", false)]
    [InlineData("base", "sync", false)]
    [InlineData("base", "uring", true)]
    [InlineData("base", "sync", true)]
    [InlineData("cow", "uring", false)]
    [InlineData("cow", "sync", false)]
    [InlineData("cow", "uring", true)]
    [InlineData("cow", "sync", true)]
    public void Full_disk_is_reported_before_the_first_write_with_the_number_of_missing_bytes(string full, string io, bool loop)
    {
        using TmpFs small = new(24 << 20);
        string file = small["disk"], other = _folder["other"];
        small.WriteSparse("disk", full == "base" ? _old : _cow);
        File.WriteAllBytes(other, full == "base" ? _cow : _old);
        using LoopDevice? device = loop ? new LoopDevice(file) : null;
        (string cow, string target) = full == "base" ? (other, device?.Path ?? file) : (device?.Path ?? file, other);
        small.Fill(600 << 10);

        BinaryResult result = Merge(cow, target, io);
        Assert.True(result.ExitCode == 74, result.ToString());
        Match told = Regex.Match(result.Error, "^snapuserd: [^\\n]*takes at least ([0-9]+) bytes more on its file system \\([0-9]+ "
            + "free\\)[^\\n]*ENOSPC[^\\n]*nothing was written[^\\n]*\\n$");
        Assert.True(told.Success, result.ToString());
        long missing = long.Parse(told.Groups[1].ValueSpan, CultureInfo.InvariantCulture);
        Assert.InRange(missing, 1L << 20, full == "base" ? 600 * CowOp.BlockSize : 3 << 20);
        Same(_old, target);
        Same(_cow, cow);

        small.MakeRoom();
        BinaryResult last = Merge(cow, target, io);
        Assert.True(last.ExitCode == 0, last.ToString());
        Same(_target, target);
    }

    [RootFact]
    public void On_ext4_a_merge_fails_with_a_block_less_than_the_holes_need_and_works_with_enough()
    {
        File.WriteAllBytes(_folder["cow"], _cow);
        File.WriteAllBytes(_folder["old"], _old);
        using (FileStream image = File.Create(_folder["ext4"])) image.SetLength(32 << 20);
        LoopDevice.Call("mkfs.ext4", "-q", "-b", "4096", "-m", "0", "-O", "^has_journal", _folder["ext4"]);
        // The holes take 600 blocks. ext4 uses some of its free space for its own metadata.
        const string script = """
            set -e
            mkdir "$1/mnt"
            mount -o loop "$1/ext4" "$1/mnt"
            cp --sparse=always "$1/old" "$1/mnt/base"
            : >"$1/mnt/ballast"
            sync
            free=$(stat -f -c %f "$1/mnt")
            fallocate -l $(((free - 599) * 4096)) "$1/mnt/ballast"
            echo "free $(stat -f -c %f "$1/mnt")"
            "$0" merge --cow "$1/cow" --base "$1/mnt/base" --progress never && exit 90
            cmp "$1/old" "$1/mnt/base"
            truncate -s -2097152 "$1/mnt/ballast"
            sync
            echo "free $(stat -f -c %f "$1/mnt")"
            "$0" merge --cow "$1/cow" --base "$1/mnt/base" --progress never
            cp "$1/mnt/base" "$1/merged"
            umount "$1/mnt"
            """;
        BinaryResult result =
            Binary.RunProgram("unshare", ["-m", "--propagation", "private", "/bin/sh", "-c", script, Binary.Path, _folder.Path]);
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Contains("ENOSPC", result.Error);
        Same(_target, _folder["merged"]);
    }

    [RootFact]
    public void Space_that_an_earlier_run_reserved_suffices_on_a_full_disk()
    {
        using TmpFs small = new(24 << 20);
        small.WriteSparse("base", _old);
        File.WriteAllBytes(_folder["cow"], _cow);
        // The space is reserved, and then the merge is stopped before the first write to the base.
        LoopDevice.Call("fallocate", "--keep-size", "--offset", $"{600 * CowOp.BlockSize}", "--length", $"{600 * CowOp.BlockSize}",
            small["base"]);
        small.Fill(0);
        BinaryResult result = Merge(_folder["cow"], small["base"], "auto");
        Assert.True(result.ExitCode == 0, result.ToString());
        Same(_target, small["base"]);
    }

    [RootFact]
    public void Only_what_the_merge_writes_is_reserved()
    {
        using TmpFs small = new(24 << 20);
        CowBuilder cow = new();
        cow.Replace(1000, _target.AsSpan(0, CowOp.BlockSize));
        small.WriteSparse("base", _old);
        File.WriteAllBytes(_folder["cow"], cow.Build());
        small.Fill(2 * CowOp.BlockSize);
        BinaryResult result = Merge(_folder["cow"], small["base"], "auto");
        Assert.True(result.ExitCode == 0, result.ToString());
        Same(NaiveMerger.Merge(cow, _old), small["base"]);
    }

    [Fact]
    public void Limit_on_file_sizes_that_ends_inside_the_base_is_reported_before_the_first_write()
    {
        File.WriteAllBytes(_folder["cow"], _cow);
        File.WriteAllBytes(_folder["base"], _old);
        BinaryResult result = Binary.RunProgram("prlimit", [$"--fsize={1000 * CowOp.BlockSize}", Binary.Path, "merge", "--cow",
            _folder["cow"], "--base", _folder["base"], "--progress", "never"]);
        Assert.True(result.ExitCode == 74, result.ToString());
        Assert.Matches("^snapuserd: [^\\n]*EFBIG[^\\n]*nothing was written\\n$", result.Error);
        Same(_old, _folder["base"]);
        Same(_cow, _folder["cow"]);
        Assert.Equal(0, Merge(_folder["cow"], _folder["base"], "auto").ExitCode);
        Same(_target, _folder["base"]);
    }

    [RootFact]
    public void Server_that_cannot_reserve_space_serves_the_new_image_and_leaves_the_base_unchanged()
    {
        using TmpFs small = new(24 << 20);
        small.WriteSparse("base", _old);
        File.WriteAllBytes(_folder["cow"], _cow);
        small.Fill(600 << 10);
        using Process server = Binary.Start("serve", "--cow", _folder["cow"], "--base", small["base"], "--device", "nbd", "--socket",
            _folder["socket"], "--merge", "--progress", "never");
        try
        {
            Assert.Equal(_folder["socket"], server.StandardOutput.ReadLine());
            Assert.Matches("takes at least [0-9]+ bytes more", server.StandardError.ReadLine());
            LoopDevice.Call("nbdcopy", $"nbd+unix:///?socket={_folder["socket"]}", _folder["read"]);
            Same(_target, _folder["read"]);
        }
        finally
        {
            _ = Libc.Kill(server.Id, Libc.SIGTERM);
            server.WaitForExit();
        }
        Same(_old, small["base"]);
        Same(_cow, _folder["cow"]);
        small.MakeRoom();
        Assert.Equal(0, Merge(_folder["cow"], small["base"], "auto").ExitCode);
        Same(_target, small["base"]);
    }
}
