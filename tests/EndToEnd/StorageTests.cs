using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// One storage under several names: loop devices, nodes, bind mounts, deleted files. A process that uses it under one name locks it under
/// all of them, and a refused command changes nothing.
/// </summary>
public sealed class StorageTests : IDisposable
{
    private const string Vector = "v3-lz4-4k-xor";
    private readonly TempFolder _folder = new();
    private readonly string _cow;
    private readonly string _base;
    private readonly string _socket;
    private readonly List<Process> _servers = [];

    public StorageTests()
    {
        (_cow, _base, _socket) = (_folder["cow"], _folder["base"], _folder["socket"]);
        File.WriteAllBytes(_cow, s_padded);
        File.WriteAllBytes(_base, Golden.Old);
    }

    /// <summary>Whole sectors, because a loop device has whole sectors.</summary>
    private static readonly byte[] s_padded = Padded(Golden.Cow(Vector));

    private static byte[] Padded(byte[] cow)
    {
        Array.Resize(ref cow, (cow.Length + 511) & -512);
        return cow;
    }

    public void Dispose()
    {
        foreach (Process server in _servers)
        {
            if (!server.HasExited) server.Kill(entireProcessTree: true);
            server.WaitForExit();
            server.Dispose();
        }
        _folder.Dispose();
    }

    [RootTheory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_merge_through_loop_devices_is_76_while_a_server_has_the_files(bool before)
    {
        using LoopDevice? cowBefore = before ? new(_cow) : null, baseBefore = before ? new(_base) : null;
        Serve(_cow, _base, "--merge-on-request", "--control", _folder["control"]);
        using LoopDevice? cowLater = before ? null : new(_cow), baseLater = before ? null : new(_base);
        string cow = (cowBefore ?? cowLater!).Path, target = (baseBefore ?? baseLater!).Path;
        Refused(76, "merge", "--cow", cow, "--base", target);
        Refused(76, "merge", "--cow", _cow, "--base", target);
        Refused(76, "extract", "--cow", cow, "--base", target, "--output", _folder["out"]);
        Refused(76, "verify", "--cow", cow, "--base", target);
        Unchanged();
    }

    [RootTheory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_merge_of_the_files_is_76_while_a_reader_has_them_through_loop_devices(bool deleted)
    {
        using LoopDevice cow = new(_cow), target = new(_base), again = new(_base), cowAgain = new(_cow);
        Serve(cow.Path, target.Path);
        if (deleted)
        {
            File.Delete(_cow);
            File.Delete(_base);
        }
        Refused(76, "merge", "--cow", deleted ? cowAgain.Path : _cow, "--base", deleted ? again.Path : _base);
        // Several readers may share the storage.
        BinaryResult read = Binary.Run("verify", "--cow", cowAgain.Path, "--base", again.Path);
        Assert.True(read.ExitCode == 0, read.ToString());
    }

    [RootFact]
    public void A_merge_through_another_node_of_the_same_device_is_76()
    {
        using LoopDevice cow = new(_cow), target = new(_base);
        string cowNode = Node(cow), baseNode = Node(target);
        Serve(cow.Path, target.Path);
        Refused(76, "merge", "--cow", cowNode, "--base", baseNode);
        Refused(76, "merge", "--cow", cow.Path, "--base", baseNode);
        Unchanged();
    }

    [RootFact]
    public void A_merge_through_a_bind_mount_in_another_namespace_is_76()
    {
        Serve(_cow, _base);
        Directory.CreateDirectory(_folder["elsewhere"]);
        BinaryResult result = Binary.RunProgram("unshare", ["-m", "--propagation", "private", "sh", "-c",
            "mount --bind \"$1\" \"$1/elsewhere\" && mount -t tmpfs none /dev && umount -l /sys && exec \"$0\" merge --cow "
            + "\"$1/elsewhere/cow\" --base \"$1/elsewhere/base\"", Binary.Path, _folder.Path]);
        Assert.True(result.ExitCode == 76, result.ToString());
        Unchanged();
    }

    [RootFact]
    public void Loop_devices_over_one_file_conflict_without_dev_and_sys()
    {
        using LoopDevice cow = new(_cow), target = new(_base), cowAgain = new(_cow), again = new(_base);
        Serve(cow.Path, target.Path);
        (string cowNode, string baseNode) = (Node(cowAgain), Node(again));
        BinaryResult result = Binary.RunProgram("unshare", ["-m", "--propagation", "private", "sh", "-c",
            "mount -t tmpfs none /dev && umount -l /sys && exec \"$0\" merge --cow \"$1\" --base \"$2\"", Binary.Path, cowNode, baseNode]);
        Assert.True(result.ExitCode == 76, result.ToString());
        Unchanged();
    }

    [RootFact]
    public void A_base_that_is_mounted_through_another_loop_device_is_76()
    {
        LoopDevice.Call("mkfs.ext4", "-q", "-F", _base);
        byte[] before = File.ReadAllBytes(_base);
        using LoopDevice mounted = new(_base), other = new(_base), window = new(_base, "--offset", "4096", "--sizelimit", "8192");
        Directory.CreateDirectory(_folder["mnt"]);
        LoopDevice.Call("mount", "-o", "ro", mounted.Path, _folder["mnt"]);
        try
        {
            foreach (string name in new[] { other.Path, window.Path, _base }) Refused(76, "merge", "--cow", _cow, "--base", name);
            Refused(76, "extract", "--cow", _folder["cow2"] is var cow && Copy(_cow, cow) ? cow : "", "--base",
                _folder["base2"] is var old && Write(old, Golden.Old) ? old : "", "--output", _base);
        }
        finally
        {
            LoopDevice.Call("umount", _folder["mnt"]);
        }
        Assert.Equal(before, File.ReadAllBytes(_base));
    }

    [RootFact]
    public void A_cow_that_shares_a_byte_with_base_or_source_is_64()
    {
        string disk = _folder["disk"];
        byte[] cow = Golden.Cow(Vector), image = new byte[Golden.Old.Length + cow.Length + 4096];
        Golden.Old.CopyTo(image, 0);
        int at = (Golden.Old.Length - 512) & -512;
        cow.CopyTo(image, at);
        File.WriteAllBytes(disk, image);
        using LoopDevice target = new(disk, "--sizelimit", Golden.Old.Length.ToString()), window = new(disk, "--offset", at.ToString());
        Assert.Equal(64, Binary.Run("merge", "--cow", window.Path, "--base", target.Path).ExitCode);
        Assert.Equal(64, Binary.Run("verify", "--cow", window.Path, "--base", target.Path).ExitCode);
        Assert.Equal(64,
            Binary.Run("extract", "--cow", window.Path, "--base", _base, "--source", target.Path, "--output", _folder["out"]).ExitCode);
        Assert.Equal(image, File.ReadAllBytes(disk));
    }

    [RootFact]
    public void A_source_that_a_merge_writes_to_is_76()
    {
        File.WriteAllBytes(_folder["other"], Golden.Old);
        File.WriteAllBytes(_folder["cow2"], Golden.Cow(Vector));
        Serve(_cow, _base, "--merge-on-request", "--control", _folder["control"]);
        Refused(76, "merge", "--cow", _folder["cow2"], "--base", _folder["other"], "--source", _base);
        Refused(76, "extract", "--cow", _folder["cow2"], "--base", _folder["other"], "--source", _base, "--output", _folder["out"]);
        Assert.Equal(Golden.Old, File.ReadAllBytes(_folder["other"]));
    }

    [RootFact]
    public void Merge_into_storage_that_another_merge_copies_from_is_76()
    {
        File.WriteAllBytes(_folder["other"], Golden.Old);
        File.WriteAllBytes(_folder["cow2"], Golden.Cow(Vector));
        Serve(_cow, _folder["other"], "--source", _base, "--merge-on-request", "--control", _folder["control"]);
        using LoopDevice source = new(_base);
        Refused(76, "merge", "--cow", _folder["cow2"], "--base", _base);
        Refused(76, "merge", "--cow", _folder["cow2"], "--base", source.Path);
        Unchanged();
    }

    [RootFact]
    public void Source_elsewhere_on_the_disk_of_the_base_is_read_as_the_source()
    {
        // The base begins 8 KiB into the disk, and the old image 4 KiB and 512 bytes.
        (byte[] old, byte[] wanted, string cow) = ShiftedUpdate();
        byte[] disk = new byte[8192 + old.Length];
        new Random(11).NextBytes(disk);
        old.CopyTo(disk, 4608);
        File.WriteAllBytes(_folder["disk"], disk);
        using LoopDevice target = new(_folder["disk"], "--offset", "8192"),
            source = new(_folder["disk"], "--offset", "4608", "--sizelimit", old.Length.ToString());
        BinaryResult result = Binary.Run("extract", "--cow", cow, "--base", target.Path, "--source", source.Path, "--output",
            _folder["out"]);
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal(wanted, File.ReadAllBytes(_folder["out"]));
        Serve(cow, target.Path, "--source", source.Path);
        LoopDevice.Call("nbdcopy", $"nbd+unix:///?socket={_socket}", _folder["served"]);
        Assert.Equal(wanted, File.ReadAllBytes(_folder["served"]));
        Assert.Equal(disk, File.ReadAllBytes(_folder["disk"]));
    }

    [RootFact]
    public void A_source_that_begins_with_the_base_and_is_longer_is_read_to_its_own_end()
    {
        // The partition shrinks: source blocks of the new image may be beyond the base's end.
        byte[] old = new byte[1 << 20], wanted = new byte[512 << 10];
        new Random(12).NextBytes(old);
        old.AsSpan(512 << 10).CopyTo(wanted);
        File.WriteAllBytes(_folder["old"], old);
        File.WriteAllBytes(_folder["new"], wanted);
        Create("old", "new", "shrink.cow");
        using LoopDevice source = new(_folder["old"]), target = new(_folder["old"], "--sizelimit", wanted.Length.ToString());
        BinaryResult result = Binary.Run("extract", "--cow", _folder["shrink.cow"], "--base", target.Path, "--source", source.Path,
            "--output", _folder["out"]);
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal(wanted, File.ReadAllBytes(_folder["out"]));
    }

    [RootFact]
    public void Loop_devices_over_separate_parts_of_one_file_are_merged_at_the_same_time()
    {
        int length = Golden.Old.Length;
        byte[] disk = new byte[2 * length];
        Golden.Old.CopyTo(disk, 0);
        Golden.Old.CopyTo(disk, length);
        File.WriteAllBytes(_folder["disk"], disk);
        File.WriteAllBytes(_folder["cow2"], Golden.Cow(Vector));
        using LoopDevice first = new(_folder["disk"], "--sizelimit", length.ToString()),
            second = new(_folder["disk"], "--offset", length.ToString()), whole = new(_folder["disk"]);
        Serve(_cow, first.Path, "--merge-on-request", "--control", _folder["control"]);
        BinaryResult result = Binary.Run("merge", "--cow", _folder["cow2"], "--base", second.Path);
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["disk"])[length..]);
        File.WriteAllBytes(_folder["cow2"], Golden.Cow(Vector));
        Refused(76, "merge", "--cow", _folder["cow2"], "--base", whole.Path);
    }

    [Fact]
    public void Cow_that_gets_the_name_while_the_old_one_is_being_locked_is_merged()
    {
        // The merge is held at its first lock, that of the COW, until a new COW has the name. The old COW must stay unchanged.
        File.Copy(_cow, _folder["next"]);
        using Process merge = KillAt.Hold(1, "flock", "merge", "--cow", _cow, "--base", _base, "--progress", "never");
        LoopDevice.Call("ln", _cow, _folder["kept"]);
        File.Move(_folder["next"], _cow, overwrite: true);
        merge.StandardInput.Close();
        merge.WaitForExit();
        Assert.Equal(0, merge.ExitCode);
        Assert.Equal(s_padded, File.ReadAllBytes(_folder["kept"]));
        Assert.NotEqual(s_padded, File.ReadAllBytes(_cow));
        Assert.Equal(Golden.New, File.ReadAllBytes(_base));
    }

    [Fact]
    public void Source_link_that_is_changed_to_the_base_before_it_is_opened_is_76()
    {
        File.WriteAllBytes(_folder["source"], Golden.Old);
        File.CreateSymbolicLink(_folder["link"], _folder["source"]);
        // The merge is held at its second lock, that of the base; the source comes after it.
        using Process merge = KillAt.Hold(2, "flock", "merge", "--cow", _cow, "--base", _base, "--source", _folder["link"],
            "--progress", "never");
        File.Delete(_folder["link"]);
        File.CreateSymbolicLink(_folder["link"], _base);
        merge.StandardInput.Close();
        merge.WaitForExit();
        Assert.Equal(76, merge.ExitCode);
        Unchanged();
    }

    [RootFact]
    public void Storage_in_use_is_not_treated_as_free_without_a_spare_descriptor()
    {
        using LoopDevice target = new(_base);
        File.WriteAllBytes(_folder["cow2"], s_padded);
        Serve(_cow, _base);
        for (int limit = 4; limit <= 40; limit++)
        {
            BinaryResult result = Binary.RunProgram("sh", ["-c",
                $"ulimit -n {limit}; exec \"$0\" merge --io sync --cow \"$1\" --base \"$2\"", Binary.Path, _folder["cow2"], target.Path]);
            Assert.True(result.ExitCode is 71 or 76, $"{limit} descriptors: {result}");
        }
        Unchanged();
    }

    /// <summary>
    /// A script in a separate mount namespace; $1 is the folder, $P the program. `served COW BASE OPTION…` starts a server and waits until
    /// it is ready.
    /// </summary>
    private string Scripted(string script)
    {
        const string served = """
            served() { mkfifo "$1/r" 2>/dev/null;
                "$P" serve --cow "$2" --base "$3" --device nbd --socket "$1/s" --progress never $4 >"$1/r" & server=$!;
                read -r line <"$1/r"; }
            code() { "$@" >/dev/null 2>"$F/said"; echo "$?"; }
            """;
        BinaryResult result = Binary.RunProgram("unshare", ["-m", "--propagation", "private", "sh", "-c",
            $"P=$0; F=$1\n{served}\n{script}\n[ -z \"$server\" ] || kill $server; wait", Binary.Path, _folder.Path]);
        Assert.True(result.ExitCode == 0, result.ToString());
        return result.Output.Trim();
    }

    [RootFact]
    public void A_loop_device_over_a_file_in_an_overlay_is_the_file_in_the_upper_layer()
    {
        Directory.CreateDirectory(_folder["t"]);
        File.WriteAllBytes(_folder["cow2"], s_padded);
        string codes = Scripted("""
            mount -t tmpfs none "$F/t" && cd "$F/t" && mkdir l u w m && mount -t overlay -o lowerdir=l,upperdir=u,workdir=w none m || exit 1
            cp "$F/base" m/base
            served "$F" "$F/cow" "$F/t/u/base" "--merge-on-request --control $F/control"
            L=$(losetup --find --show m/base) || exit 1
            code "$P" merge --cow "$F/cow2" --base "$L"
            code "$P" verify --cow "$F/cow2" --base "$L"
            code "$P" merge --cow "$F/cow2" --base m/base
            losetup -d "$L"
            cmp u/base "$F/base" && echo same
            """);
        Assert.Equal("76\n76\n76\nsame", codes);
    }

    [RootFact]
    public void Reader_in_a_container_conflicts_with_a_merge_on_the_device_node_given_to_it()
    {
        using LoopDevice target = new(_base);
        File.WriteAllBytes(_folder["cow2"], s_padded);
        Serve(_cow, target.Path, "--merge-on-request", "--control", _folder["control"]);
        // The container has its own /dev and may not mount: it shares only the node with the test.
        string codes = Scripted($$"""
            mkdir "$F/dev" && touch "$F/dev/node" && mount -t tmpfs none "$F/dev" && touch "$F/dev/node" &&
                mount --bind {{target.Path}} "$F/dev/node" && mount --move "$F/dev" /dev || exit 1
            code setpriv --bounding-set=-sys_admin "$P" verify --cow "$F/cow2" --base /dev/node
            code setpriv --bounding-set=-sys_admin "$P" merge --cow "$F/cow2" --base /dev/node
            """);
        Assert.Equal("76\n76", codes);
        Unchanged();
    }

    [RootFact]
    public void Lock_folder_that_others_may_write_to_is_77()
    {
        Directory.CreateDirectory(_folder["open"]);
        string codes = Scripted("""
            mount -t tmpfs none /dev || exit 1
            ln -s "$F/open" /dev/.snapuserd
            code setpriv --bounding-set=-sys_admin "$P" merge --cow "$F/cow" --base "$F/base"
            rm /dev/.snapuserd && mkdir -m 0777 /dev/.snapuserd
            code setpriv --bounding-set=-sys_admin "$P" merge --cow "$F/cow" --base "$F/base"
            rmdir /dev/.snapuserd && mkdir -m 0700 /dev/.snapuserd && chown 65534 /dev/.snapuserd
            code setpriv --bounding-set=-sys_admin "$P" merge --cow "$F/cow" --base "$F/base"
            grep -c "/dev/.snapuserd" "$F/said"
            """);
        Assert.Equal("77\n77\n77\n1", codes);
        Unchanged();
    }

    [RootTheory]
    [InlineData("loop over loop")]
    [InlineData("partition")]
    public void Full_file_system_several_layers_below_is_reported_before_the_first_write(string window)
    {
        // All blocks are new, and the base is a hole.
        byte[] noise = new byte[8 << 20];
        new Random(13).NextBytes(noise);
        File.WriteAllBytes(_folder["old"], new byte[8 << 20]);
        File.WriteAllBytes(_folder["new"], noise);
        Create("old", "new", "full.cow");
        Directory.CreateDirectory(_folder["t"]);
        string codes = Scripted($"""
            mount -t tmpfs -o size=5M none "$F/t" && truncate -s 9M "$F/t/base" || exit 1
            L=$(losetup --find --show --partscan "$F/t/base") || exit 1
            if [ "{window}" = partition ]; then perl -e '{LoopDevice.AddPartScript}' "$L" 1 8 16384 && B=$L"p1";
                else B=$(losetup --find --show --offset 4096 --sizelimit 8388608 "$L"); fi
            code "$P" merge --cow "$F/full.cow" --base "$B" --progress never
            grep -c "nothing was written" "$F/said"
            cmp -n 9437184 "$F/t/base" /dev/zero && echo untouched
            [ "{window}" = partition ] || losetup -d "$B"
            losetup -d "$L"
            """);
        Assert.Equal("74\n1\nuntouched", codes);
    }

    private static bool Copy(string from, string to)
    {
        File.Copy(from, to, overwrite: true);
        return true;
    }

    private static bool Write(string path, byte[] bytes)
    {
        File.WriteAllBytes(path, bytes);
        return true;
    }

    /// <summary>
    /// An update in which every block comes from another block of the old image, so that no block of the base is kept. Returns the old
    /// image, the new one, and the COW.
    /// </summary>
    private (byte[] Old, byte[] New, string Cow) ShiftedUpdate()
    {
        byte[] old = new byte[1 << 20], wanted = new byte[1 << 20];
        new Random(10).NextBytes(old);
        for (int block = 0; block < 256; block++) old.AsSpan((block + 7) % 256 * 4096, 4096).CopyTo(wanted.AsSpan(block * 4096));
        File.WriteAllBytes(_folder["old"], old);
        File.WriteAllBytes(_folder["new"], wanted);
        Create("old", "new", "shifted.cow");
        return (old, wanted, _folder["shifted.cow"]);
    }

    private void Create(string source, string target, string cow)
    {
        BinaryResult result = Binary.Run("create", "--source", _folder[source], "--target", _folder[target], "--output", _folder[cow]);
        Assert.True(result.ExitCode == 0, result.ToString());
    }

    private string Node(LoopDevice loop)
    {
        string[] number = LoopDevice.Call("stat", "-c", "%Hr %Lr", loop.Path).Trim().Split(' ');
        string path = _folder[$"node{Path.GetFileName(loop.Path)}"];
        LoopDevice.Call("mknod", path, "b", number[0], number[1]);
        return path;
    }

    /// <summary>Starts a server that is ready, and keeps its storage in use until the test ends.</summary>
    private void Serve(string cow, string target, params string[] more)
    {
        Process server = Binary.Start(["serve", "--cow", cow, "--base", target, "--device", "nbd", "--socket", _socket, .. more]);
        _servers.Add(server);
        string? ready = server.StandardOutput.ReadLine();
        Assert.True(ready == _socket, ready ?? server.StandardError.ReadToEnd());
    }

    private static void Refused(int code, params string[] arguments)
    {
        BinaryResult result = Binary.Run(arguments);
        Assert.True(result.ExitCode == code, $"{string.Join(' ', arguments)}: {result}");
        Assert.NotEqual("", result.Error);
    }

    private void Unchanged()
    {
        Assert.Equal(s_padded, Unlocked.Read(_cow, s_padded.Length));
        Assert.Equal(Golden.Old, Unlocked.Read(_base, Golden.Old.Length));
    }
}
