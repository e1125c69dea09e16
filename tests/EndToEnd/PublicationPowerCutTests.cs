using System;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Text;
using System.Threading;
using Snapuserd.Boot;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// The rows of docs/publication.md, with a power cut at the moment of publication. Each test also shows that the same kind of write without
/// its flush is lost by that cut. Where a name is published, the test itself first flushes the folder, because the file system may do that
/// at any moment. Then the data that the name refers to must exist.
/// </summary>
public sealed class PublicationPowerCutTests : IDisposable
{
    private const string Vector = "v3-lz4-64k-xor", Half = "half-v3-lz4-64k-xor-M3io_uring", Doubtful = "v3-zstd-nocopy";

    /// <summary>Position of the scratch state byte in a COW of format 3.</summary>
    private const int StateAt = 78;

    private ShutdownFileSystem? _disk;

    private ShutdownFileSystem Disk => _disk!;

    public void Dispose() => _disk?.Dispose();

    [RootTheory]
    [InlineData("ext4")]
    [InlineData("xfs")]
    public void Marker_says_that_a_merge_has_begun_before_the_base_is_written_and_is_removed_when_all_is_durable(string kind)
    {
        Open(kind);
        Disk.Put(("cow", Golden.Cow(Vector)), ("base", Golden.Old), ("cow.merging", []), ("control", []));
        Killed("base", "pwrite64", 1, Merge());
        // Written like the marker, but not flushed.
        File.WriteAllText(Disk.Outside("control"), new string('b', 88));
        Cut();
        Assert.True(Disk.Read("control") is { } lost && lost.All(one => one == 0), "a write without its flush was not lost");
        Assert.Matches("^begun [0-9a-f]{64} 0{16}\n$", Text("cow.merging"));
        // The first ops are a window, which is in scratch at this point.
        Assert.Equal((2, true), (Disk.Read("cow")![StateAt], Golden.Old.AsSpan().SequenceEqual(Disk.Read("base"))));
        // An older copy is not accepted in place of the COW whose merge has begun.
        byte[] begun = Disk.Read("cow")!;
        Disk.Put(("cow", Golden.Cow(Vector)));
        Assert.Equal(65, Run(Merge()).ExitCode);
        Disk.Put(("cow", begun));

        // The marker is removed: its name is gone, and the program does not flush the folder.
        Killed("", "fsync", 1, Merge());
        Assert.False(File.Exists(Disk.Outside("cow.merging")));
        FlushFolder();
        Cut();
        Assert.Null(Disk.Read("cow.merging"));
        IsMerged();
    }

    [RootTheory]
    [InlineData("ext4")]
    [InlineData("xfs")]
    public void Merge_that_ends_with_0_is_durable_and_so_is_the_removal_of_its_marker(string kind)
    {
        Open(kind);
        Disk.Put(("cow", Golden.Cow(Vector)), ("base", Golden.Old), ("cow.merging", []), ("control", [1]));
        // Every flush returns 0 and does nothing.
        Assert.Equal(0, RunUnflushed(Merge()).ExitCode);
        Cut();
        Assert.False(AllIsThere, "a merge without flushes was not lost");

        foreach (string io in new[] { "sync", "uring" })
        {
            Disk.Put(("cow", Golden.Cow(Vector)), ("base", Golden.Old), ("cow.merging", []));
            Done(Merge(io));
            File.Delete(Disk.Outside("control"));
            Cut();
            Assert.Null(Disk.Read("cow.merging"));
            IsMerged();
            Assert.True(File.Exists(Disk.Outside("control")), "the removal of a name was durable without a flush of its folder");
        }
    }

    [RootTheory]
    [InlineData("ext4")]
    [InlineData("xfs")]
    public void Count_is_durable_after_the_writes_that_it_counts(string kind)
    {
        Open(kind);
        int counts = 0;
        for (int call = 2; ; call++)
        {
            Disk.Put(("cow", Golden.Cow(Vector)), ("base", Golden.Old));
            BinaryResult result = Inject("cow", $"pwrite64:signal=KILL:when={call}", Merge());
            Cut();
            Done(Merge());
            Cut();
            IsMerged();
            if (result.ExitCode == 0) break;
            Assert.True(result.ExitCode == 137, result.ToString());
            counts++;
        }
        Assert.True(counts > 3, $"only {counts} writes to the COW");
    }

    [RootTheory]
    [InlineData("ext4")]
    [InlineData("xfs")]
    public void Count_of_a_stopped_merge_is_durable(string kind)
    {
        Open(kind);
        Disk.Put(("cow", Golden.Cow("v2-gz-xor")), ("base", Golden.Old));
        BinaryResult stopped = RunTraced("fdatasync", "fdatasync:signal=TERM:when=7", [.. Merge(), "--json"]);
        Assert.True(stopped.ExitCode == 75, stopped.ToString());
        Cut();
        ulong count = BitConverter.ToUInt64(Disk.Read("cow").AsSpan(26));
        Assert.True(count > 0, stopped.ToString());
        Assert.Contains($"\"count\":{count},", stopped.Output.Replace("}", ",", StringComparison.Ordinal), StringComparison.Ordinal);
        Done(Merge());
        Assert.Equal(Golden.New, Disk.Read("base"));
    }

    [RootTheory]
    [InlineData("ext4")]
    [InlineData("xfs")]
    public void Marker_of_a_boot_is_durable_before_it_starts_a_server(string kind)
    {
        Open(kind);
        Disk.Put(("cow", Golden.HalfCow(Half)), ("base", Golden.HalfBase(Half)));
        string[] boot = Boot();
        // The child that would become the server or the merge is killed at its start.
        BinaryResult result = RunTraced("execve", "execve:signal=KILL:when=1", boot);
        Assert.True(result.ExitCode != 0, result.ToString());
        File.WriteAllText(Disk.Outside("control"), "a new file of the same folder, not flushed");
        Cut();
        Assert.Null(Disk.Read("control"));
        Assert.Matches("^begun [0-9a-f]{64} [0-9a-f]{16}\n$", Text("cow.merging"));
        // The next boot has no COW, and must not treat the base as the old image.
        File.Move(Disk.Outside("cow"), Disk.Outside("elsewhere"));
        BinaryResult lost = Run(boot);
        Assert.True(lost.ExitCode == 66, lost.ToString());
        File.Move(Disk.Outside("elsewhere"), Disk.Outside("cow"));
        // Without a device mapper the boot finishes the merge and then fails.
        _ = Run(boot);
        Assert.Equal((true, false), (Golden.New.AsSpan().SequenceEqual(Disk.Read("base")), File.Exists(Disk.Outside("cow.merging"))));
    }

    /// <summary>
    /// The COW cannot say whether its merge has begun, so its marker has content. An empty marker would say that the base is the old image.
    /// </summary>
    [RootTheory]
    [InlineData("ext4", false, false)]
    [InlineData("ext4", false, true)]
    [InlineData("ext4", true, false)]
    [InlineData("ext4", true, true)]
    [InlineData("xfs", false, false)]
    [InlineData("xfs", false, true)]
    [InlineData("xfs", true, false)]
    [InlineData("xfs", true, true)]
    public void New_marker_with_content_is_complete_or_absent_after_a_cut_at_any_moment(string kind, bool isLeft, bool flushes)
    {
        Open(kind);
        Disk.Put(("cow", Golden.Cow(Doubtful)), ("base", Golden.Old));
        string[] boot = Boot();
        // The marker of another COW, which remained after a cut.
        byte[] left = Encoding.ASCII.GetBytes($"maybe {new string('6', 64)} {new string('0', 16)}\n");
        void Begin()
        {
            File.Delete(Disk.Outside("cow.merging"));
            File.Delete(Disk.Outside("cow.merging.new"));
            if (isLeft) Disk.Put(("cow.merging.new", left));
            Disk.Sync();
        }

        // The first flush, that of the content, returns 0 and does nothing; the second, that of the folder, works.
        Begin();
        BinaryResult result = RunTraced("fsync,execve", "fsync:retval=0:when=1 execve:signal=KILL:when=1", boot);
        Assert.True(result.ExitCode != 0, result.ToString());
        string whole = Text("cow.merging");
        Assert.Matches("^maybe [0-9a-f]{64} 0{16}\n$", whole);
        Cut();
        Assert.True(Disk.Read("cow.merging") != null, "the first flush was not that of the content, or the second not that of the folder");
        Assert.True(Text("cow.merging") != whole, "content without a flush was not lost");

        // Killed before each call that creates the marker.
        int named = 0;
        foreach ((string call, int number) in new[] { ("fallocate", 1), ("pwrite64", 1), ("fsync", 1), ("/^rename", 1), ("fsync", 2) })
        {
            Begin();
            result = RunTraced(call, $"{call}:signal=KILL:when={number}", boot);
            Assert.True(result.ExitCode == 137, result.ToString());
            bool isNamed = File.Exists(Disk.Outside("cow.merging"));
            if (flushes) FlushFolder();
            Cut();
            if (isNamed) named++;
            if (!isNamed) Assert.Null(Disk.Read("cow.merging"));
            else if (flushes || Disk.Read("cow.merging") != null) Assert.Equal(whole, Text("cow.merging"));
        }
        // Only the last kill comes after the rename, before the program flushes the folder.
        Assert.Equal(1, named);
    }

    [RootTheory]
    [InlineData("ext4", "create", false)]
    [InlineData("ext4", "create", true)]
    [InlineData("ext4", "extract", false)]
    [InlineData("ext4", "extract", true)]
    [InlineData("xfs", "create", false)]
    [InlineData("xfs", "create", true)]
    [InlineData("xfs", "extract", false)]
    [InlineData("xfs", "extract", true)]
    public void Output_is_complete_when_its_name_is_durable_and_the_name_is_durable_when_the_verb_ends(string kind, string verb,
        bool replaces)
    {
        Open(kind);
        byte[] before = [.. Enumerable.Repeat((byte)1, 5000)];
        Disk.Put(("cow", Golden.Cow(Vector)), ("base", Golden.Old), ("old", Golden.Old), ("new", Golden.New));
        if (replaces) Disk.Put(("out", before));
        string[] command = verb == "create"
            ? ["create", "--source", Disk["old"], "--target", Disk["new"], "--output", Disk["out"], "--progress", "never"]
            : ["extract", "--cow", Disk["cow"], "--base", Disk["base"], "--output", Disk["out"], "--progress", "never"];

        // Killed after the rename and before the flush of the folder: the file must be complete. The control file is written without a
        // flush of its data and must lose it.
        Killed("", "fsync", 1, command);
        Assert.False(File.Exists(Disk.Outside("out.part")));
        byte[] whole = Disk.Read("out")!, part = whole[^5000..];
        WriteWithoutFlush("control.part", part);
        Assert.Equal(0, Libc.Rename(Disk.Outside("control.part"), Disk.Outside("control")));
        FlushFolder();
        Cut();
        Assert.Equal(whole, Disk.Read("out"));
        Assert.False(Disk.Read("control") is { } control && part.AsSpan().SequenceEqual(control), "bytes without a flush were not lost");

        // After a complete run the output must be complete. The folder of the control file is not flushed, so the control file must lose
        // its name.
        if (replaces) Disk.Put(("out", before));
        else File.Delete(Disk.Outside("out"));
        File.Delete(Disk.Outside("control"));
        Disk.Sync();
        Done(command);
        WriteWithoutFlush("control.part", part);
        FlushFile("control.part");
        Assert.Equal(0, Libc.Rename(Disk.Outside("control.part"), Disk.Outside("control")));
        Cut();
        Assert.Equal(whole, Disk.Read("out"));
        Assert.False(File.Exists(Disk.Outside("control")), "a name without a flush of its folder was not lost");
    }

    [RootTheory]
    [InlineData("ext4")]
    [InlineData("xfs")]
    public void Stream_into_a_file_is_durable_when_extract_ends(string kind)
    {
        Open(kind);
        // The shell provides the descriptors and names.
        Disk.Put(("cow", Golden.Cow(Vector)), ("base", Golden.Old), ("out", []), ("control", []));
        BinaryResult result = Disk.Run("sh", "-c", "exec \"$0\" extract --cow \"$1\" --base \"$2\" --output - --progress never 1<>\"$3\"",
            Binary.Path, Disk["cow"], Disk["base"], Disk["out"]);
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal(0, Disk.Run("sh", "-c", "exec cat \"$0\" 1<>\"$1\"", Disk["out"], Disk["control"]).ExitCode);
        Assert.Equal(Golden.New, Disk.Read("control"));
        Cut();
        Assert.Equal(Golden.New, Disk.Read("out"));
        Assert.NotEqual(Golden.New, Disk.Read("control"));
    }

    /// <summary>The device is a loop device over a file on the file system that loses power.</summary>
    [RootTheory]
    [InlineData("ext4")]
    [InlineData("xfs")]
    public void Cow_on_a_device_gets_its_magic_after_everything_else_is_durable(string kind)
    {
        Open(kind);
        byte[] before = Golden.Cow("v2-gz-xor");
        Array.Resize(ref before, 8 << 20);
        Disk.Put(("old", Golden.Old), ("new", Golden.New), ("disk", before), ("whole", []));
        string[] Create(string output) => ["create", "--source", Disk["old"], "--target", Disk["new"], "--output", output, "--progress",
            "never"];
        Done(Create(Disk["whole"]));
        byte[] whole = Disk.Read("whole")!;

        // Killed at every write: unflushed writes are lost, and the previous COW is either complete or has no magic.
        int none = 0, old = 0;
        for (int call = 1; ; call++)
        {
            Disk.Put(("disk", before));
            BinaryResult result = default!;
            OnLoop(device => result = RunTraced("pwrite64", $"pwrite64:signal=KILL:when={call}", Create(device), device));
            byte[] found = Disk.Read("disk")!;
            if (result.ExitCode == 0)
            {
                Assert.Equal(whole, found[..whole.Length]);
                break;
            }
            Assert.True(result.ExitCode == 137, result.ToString());
            if (before.AsSpan().SequenceEqual(found)) old++;
            else Assert.True(!found.AsSpan(0, 8).ContainsAnyExcept((byte)0),
                $"killed at write {call}: the device has a magic and neither of the two COWs");
            if (!found.AsSpan(0, 8).ContainsAnyExcept((byte)0))
            {
                none++;
                Assert.Equal(65, Run("inspect", Disk["disk"]).ExitCode);
            }
        }
        Assert.True(old > 0 && none > 2, $"{old} cuts left the old COW, {none} none");

        // Every flush returns 0 and does nothing.
        Disk.Put(("disk", before));
        OnLoop(device => Assert.Equal(0, RunUnflushed(Create(device)).ExitCode));
        Assert.NotEqual(whole, Disk.Read("disk")![..whole.Length]);
    }

    /// <summary>
    /// Everything is merged in the page cache and nothing on the disk: a predecessor was killed. A client that gets the reply that the
    /// merge is done may delete the COW.
    /// </summary>
    [RootTheory]
    [InlineData("ext4", "merge")]
    [InlineData("xfs", "merge")]
    [InlineData("ext4", "merge, base in use")]
    [InlineData("xfs", "merge, base in use")]
    [InlineData("ext4", "ctl status")]
    [InlineData("xfs", "ctl status")]
    [InlineData("ext4", "ctl merge")]
    [InlineData("ext4", "getstatus")]
    [InlineData("xfs", "getstatus")]
    [InlineData("ext4", "boot")]
    [InlineData("xfs", "boot")]
    public void Merge_that_is_reported_as_already_done_is_durable(string kind, string way)
    {
        Open(kind);
        foreach (bool told in new[] { false, true })
        {
            Disk.Put(("cow", Golden.Cow(Vector)), ("base", Golden.Old));
            Assert.Equal(0, RunUnflushed(Merge()).ExitCode);
            Assert.Equal(Golden.New, Disk.Read("base"));
            if (told) Tell(way);
            else Cut();
            if (told) IsMerged();
            else Assert.False(AllIsThere, "a merge without flushes was not lost");
        }
    }

    [RootTheory]
    [InlineData("ext4", "ctl watch")]
    [InlineData("xfs", "ctl watch")]
    [InlineData("ext4", "getstatus")]
    [InlineData("xfs", "getstatus")]
    public void Merge_that_a_server_reports_as_done_is_durable(string kind, string way)
    {
        Open(kind);
        Disk.Put(("cow", Golden.Cow(Vector)), ("base", Golden.Old));
        Assert.Equal(0, RunUnflushed(Merge()).ExitCode);
        Cut();
        Assert.False(AllIsThere, "a merge without flushes was not lost");
        Disk.Put(("cow", Golden.Cow(Vector)), ("base", Golden.Old));
        Tell(way, merges: true);
        IsMerged();
    }

    /// <summary>
    /// Gets the report that everything is merged, in the given way, and cuts the power immediately. Requests the merge first if
    /// <paramref name="merges"/> is true.
    /// </summary>
    private void Tell(string way, bool merges = false)
    {
        switch (way)
        {
            case "merge":
                Assert.Contains("already merged", Done(Merge()).Output);
                Cut();
                return;
            case "merge, base in use":
                using (Process holder = Disk.Start("flock", Disk["base"], "sh", "-c", "echo held; cat"))
                {
                    Assert.Equal("held", holder.StandardOutput.ReadLine());
                    Assert.Contains("already merged", Done(Merge()).Output);
                    Shutdown();
                    holder.StandardInput.Close();
                    holder.WaitForExit();
                }
                Remount();
                return;
            case "boot":
                // The swap to the base begins: the device mapper is opened.
                File.WriteAllText(Disk.Outside("table"), $"snapuserd-test {Disk["cow"]} {Disk["base"]}\n");
                File.WriteAllText(Disk.Outside("cmdline"), "snapuserd.device=nbd");
                BinaryResult killed = RunTraced("openat", "openat:signal=KILL", ["boot", "--table", Disk["table"], "--cmdline",
                    Disk["cmdline"], "--control-folder", Disk["run"], "--wait", "0"], "/dev/mapper/control");
                Assert.True(killed.ExitCode == 137, killed.ToString());
                Cut();
                return;
        }
        using TempFolder sockets = new();
        string control = sockets["control"];
        bool isDaemon = way == "getstatus";
        string[] command = isDaemon ? ["daemon", "--socket", control, "--device", "nbd", "--socket-folder", sockets.Path]
            : ["serve", "--cow", Disk["cow"], "--base", Disk["base"], "--device", "nbd", "--socket", sockets["nbd"], "--control", control,
                "--merge-on-request", "--progress", "never"];
        using Process server = Disk.Start([Binary.Path, .. command]);
        try
        {
            if (isDaemon)
            {
                using Talker client = Talker.Connected(server, control);
                Assert.StartsWith("success,", client.Ask($"init,root,{Disk["cow"]},{Disk["base"]},{Disk["base"]}"),
                    StringComparison.Ordinal);
                Assert.Equal("success", client.Ask("start,root"));
                if (merges)
                {
                    Assert.Equal("success", client.Ask("initiate_merge,root"));
                    long end = Environment.TickCount64 + 60_000;
                    while (client.Ask("getstatus,root") == "snapshot-merge" && Environment.TickCount64 < end) Thread.Sleep(1);
                }
                Assert.Equal("snapshot-merge-complete", client.Ask("getstatus,root"));
            }
            else
            {
                Assert.Equal(sockets["nbd"], server.StandardOutput.ReadLine());
                if (merges) Assert.Equal(0, Binary.Run("ctl", "merge", "--socket", control).ExitCode);
                BinaryResult told = Binary.Run("ctl", way[4..], "--socket", control);
                Assert.True(told.ExitCode == 0, told.ToString());
                if (way == "ctl status") Assert.Contains("merged", told.Output);
            }
            Shutdown();
        }
        finally
        {
            server.Kill();
            server.WaitForExit();
        }
        Remount();
    }

    /// <summary>The base is the new image, and the COW says so.</summary>
    private bool AllIsThere => Golden.New.AsSpan().SequenceEqual(Disk.Read("base"))
        && BitConverter.ToUInt64(Disk.Read("cow").AsSpan(26)) == (ulong)Golden.Row(Vector).MergeOps;

    private void IsMerged()
    {
        Assert.True(AllIsThere, "the merge was reported as done and is not on the disk");
        Assert.Contains("already merged", Done(Merge()).Output);
    }

    private string Text(string name) => Encoding.ASCII.GetString(Disk.Read(name) ?? "nothing"u8.ToArray());

    /// <summary>Writes the table of a boot with one row; returns the command.</summary>
    private string[] Boot()
    {
        Disk.Put(("table", Encoding.ASCII.GetBytes($"snapuserd-test {Disk["cow"]} {Disk["base"]}\n")),
            ("cmdline", "snapuserd.device=nbd"u8.ToArray()));
        return ["boot", "--table", Disk["table"], "--cmdline", Disk["cmdline"], "--control-folder", Disk["run"], "--wait", "0"];
    }

    private string[] Merge(string io = "sync") => ["merge", "--cow", Disk["cow"], "--base", Disk["base"], "--io", io, "--progress",
        "never"];

    private BinaryResult Run(params string[] arguments) => Disk.Run([Binary.Path, .. arguments]);

    private BinaryResult Done(string[] arguments)
    {
        BinaryResult result = Run(arguments);
        Assert.True(result.ExitCode == 0, result.ToString());
        return result;
    }

    /// <summary>Runs the program under strace, which injects results or signals into calls; a blank separates two injections.</summary>
    private BinaryResult RunTraced(string calls, string inject, string[] arguments, string? path = null) =>
        Disk.Run(["strace", "-f", "-qq", "-o", "/dev/null", .. path == null ? [] : (string[])["-P", path], "-e", $"trace={calls}",
            .. inject.Split(' ').SelectMany(one => (string[])["-e", $"inject={one}"]), Binary.Path, .. arguments]);

    /// <summary>Runs the program with flushes that return 0 and do nothing.</summary>
    private BinaryResult RunUnflushed(string[] arguments) => RunTraced("fsync,fdatasync,syncfs", "fsync,fdatasync,syncfs:retval=0",
        arguments);

    private BinaryResult Inject(string name, string inject, string[] arguments) =>
        RunTraced(inject[..inject.IndexOf(':', StringComparison.Ordinal)], inject, arguments, Disk[name].TrimEnd('/'));

    /// <summary>Kills the program at its N-th call of a kind on a file, before the call takes effect; "" is the folder.</summary>
    private void Killed(string name, string call, int number, string[] arguments)
    {
        BinaryResult killed = Inject(name, $"{call}:signal=KILL:when={number}", arguments);
        Assert.True(killed.ExitCode == 137, killed.ToString());
    }

    /// <summary>Uses a loop device over the file "disk", and cuts the power.</summary>
    private void OnLoop(Action<string> use)
    {
        string device = Disk.Run("losetup", "--find", "--show", Disk["disk"]).Output.Trim();
        Assert.StartsWith("/dev/loop", device, StringComparison.Ordinal);
        try
        {
            use(device);
            Shutdown();
        }
        finally
        {
            _ = Disk.Run("losetup", "--detach", device);
        }
        Remount();
    }

    private void FlushFolder() => Flush(Disk.Outside(""));

    private void FlushFile(string name) => Flush(Disk.Outside(name));

    private static void Flush(string path)
    {
        int fd = Libc.OpenAt(Libc.AT_FDCWD, path, Libc.O_RDONLY | Libc.O_CLOEXEC);
        Assert.True(fd >= 0, Errno.Name(fd));
        Assert.Equal(0, Libc.FSync(fd));
        _ = Libc.Close(fd);
    }

    private void WriteWithoutFlush(string name, byte[] bytes)
    {
        using FileStream file = new(Disk.Outside(name), FileMode.Create, FileAccess.Write);
        file.Write(bytes);
    }

    private void Open(string kind)
    {
        _disk = new ShutdownFileSystem(kind);
        Disk.Put(("in place", [1]));
    }

    /// <summary>
    /// Cuts the power, and checks that the cut has lost a new file and a change of an old file, both unflushed.
    /// </summary>
    private void Cut()
    {
        WriteUnflushed();
        Disk.CutPower();
        IsLost();
    }

    private void Shutdown()
    {
        WriteUnflushed();
        Disk.Shutdown();
    }

    private void Remount()
    {
        Disk.Remount();
        IsLost();
    }

    private void WriteUnflushed()
    {
        WriteWithoutFlush("beside", [2]);
        using FileStream file = new(Disk.Outside("in place"), FileMode.Open, FileAccess.Write);
        file.WriteByte(2);
    }

    private void IsLost() => Assert.True(Disk.Read("beside") == null && Disk.Read("in place") is [1],
        "writes without a flush were not lost");
}
