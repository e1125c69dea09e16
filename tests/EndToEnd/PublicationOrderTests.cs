using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Text;
using Snapuserd.Boot;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// The rows of docs/publication.md, checked by the order of system calls. Data that other processes may rely on is published only after the
/// preceding writes are flushed, each on its own descriptor. The program uses synchronous calls here, which strace sees; the simulator
/// checks the order of requests in a ring.
/// </summary>
public sealed class PublicationOrderTests : IDisposable
{
    private const string Vector = "v3-lz4-64k-xor", Half = "half-v3-lz4-64k-xor-M3io_uring", Doubtful = "v3-zstd-nocopy";

    /// <summary>The calls that flush, write or publish.</summary>
    private const string Calls =
        "fsync,fdatasync,pwrite64,write,ftruncate,rename,renameat,renameat2,unlink,execve,execveat,sendto,openat,exit_group";

    private readonly TempFolder _folder = new();
    private readonly List<Process> _servers = [];

    private string Cow => _folder["cow"];

    private string Base => _folder["base"];

    private string Marker => Cow + ".merging";

    private string Log => _folder["trace"];

    public void Dispose()
    {
        foreach (Process server in _servers)
        {
            if (!server.HasExited) server.Kill(entireProcessTree: true);
            server.Dispose();
        }
        _folder.Dispose();
    }

    [Fact]
    public void Cow_then_marker_are_flushed_before_the_first_write_to_the_base()
    {
        Put(Golden.Cow(Vector), Golden.Old, mark: true);
        SystemCallTrace trace = Merge(0);
        TracedCall begun = trace.First("a write to the marker", call => call.Writes(Marker));
        TracedCall first = trace.First("a write to the base", call => call.Writes(Base));
        _ = trace.IsDurable(Cow, begun);
        _ = trace.IsDurable(Marker, first);
        Assert.True(begun.End < first.Begin, trace.ToString());
    }

    [Fact]
    public void Base_and_count_are_flushed_before_the_marker_is_removed_and_its_folder_before_the_result()
    {
        Put(Golden.Cow(Vector), Golden.Old, mark: true);
        SystemCallTrace trace = Merge(0);
        TracedCall gone = trace.First("the removal of the marker", call => call.Name == "unlink" && call.Path == Marker);
        _ = trace.IsDurable(Base, gone);
        _ = trace.IsDurable(Cow, gone);
        TracedCall folder = trace.IsDurable(_folder.Path, Result(trace));
        Assert.True(folder.Begin > gone.End, trace.ToString());
    }

    [Theory]
    [InlineData("v3-lz4-64k-xor")]
    [InlineData("v2-gz-xor")]
    [InlineData("v3-none-64k")]
    public void Base_is_flushed_before_every_count_and_both_before_the_result(string vector)
    {
        Put(Golden.Cow(vector), Golden.Old);
        SystemCallTrace trace = Merge(0);
        ulong count = 0;
        int counted = -1, rises = 0;
        foreach (TracedCall page in trace.Calls.Where(call => call.Writes(Cow) && call.Offset == 0))
        {
            ulong now = BitConverter.ToUInt64(page.Bytes.AsSpan(26));
            if (now > count)
            {
                rises++;
                TracedCall flush = trace.Calls.LastOrDefault(call => call.Flushes(Base) && call.End < page.Begin)
                    ?? throw new InvalidOperationException($"{page} without a flush:\n{trace}");
                // The last writes need a flush of their own after the last count.
                Assert.True(flush.Begin > counted, $"{page} has no separate flush:\n{trace}");
                Assert.Contains(trace.Calls, call => call.Writes(Base) && call.Begin > counted && call.End < flush.Begin);
            }
            (count, counted) = (now, page.End);
        }
        Assert.True(rises > 0 && count == (ulong)Golden.Row(vector).MergeOps, $"{rises} rises to {count}:\n{trace}");
        _ = trace.IsDurable(Base, Result(trace));
        _ = trace.IsDurable(Cow, Result(trace));
    }

    /// <summary>
    /// With synchronous calls nothing is reordered. The engine writes to the base only after everything written to the COW is durable: a
    /// count that permits the write, or the scratch and the claim of a window.
    /// </summary>
    [Theory]
    [InlineData("v3-lz4-64k-xor")]
    [InlineData("v2-gz-xor")]
    [InlineData("v3-none-64k")]
    public void Scratch_is_flushed_before_its_claim_and_claim_and_count_before_the_writes_that_they_allow(string vector)
    {
        Put(Golden.Cow(vector), Golden.Old);
        int claims = 0, scratch = -1, head = -1;
        bool scratchDirty = false, headDirty = false;
        SystemCallTrace trace = Merge(0);
        foreach (TracedCall call in trace.Calls)
        {
            if (call.Flushes(Cow))
            {
                if (call.Begin > scratch) scratchDirty = false;
                if (call.Begin > head) headDirty = false;
            }
            else if (call.Writes(Cow) && call.Offset > 0)
            {
                (scratchDirty, scratch) = (true, call.End);
            }
            else if (call.Writes(Cow))
            {
                Assert.False(scratchDirty, $"{call} before its scratch is durable:\n{trace}");
                if (scratch > head) claims++;
                (headDirty, head) = (true, call.End);
            }
            else if (call.Writes(Base))
            {
                Assert.False(scratchDirty || headDirty, $"{call} before the COW is durable:\n{trace}");
            }
        }
        Assert.True(claims > 0 && head > 0, $"{claims} claims:\n{trace}");
    }

    [Fact]
    public void Count_is_flushed_before_a_merge_that_was_stopped_ends()
    {
        Put(Golden.Cow(Vector), Golden.Old);
        BinaryResult result = Run(["-e", "inject=fdatasync:signal=TERM:when=3"], "merge", "--cow", Cow, "--base", Base, "--io", "sync",
            "--progress", "never");
        Assert.True(result.ExitCode == 75, result.ToString());
        SystemCallTrace trace = SystemCallTrace.Read(Log);
        TracedCall end = trace.Last("the end", call => call.Name == "exit_group");
        _ = trace.IsDurable(Cow, end);
        _ = trace.IsDurable(Base, end);
    }

    /// <summary>
    /// For a COW whose merge has begun or may have begun, the marker has content. The marker gets its name after the content is durable,
    /// because an empty marker would say that the base is the old image.
    /// </summary>
    [Theory]
    [InlineData(Half, "begun")]
    [InlineData(Doubtful, "maybe")]
    [InlineData(Vector, "")]
    public void Marker_and_its_folder_are_flushed_before_boot_starts_a_server_or_a_merge(string cow, string says)
    {
        if (cow == Half) Put(Golden.HalfCow(cow), Golden.HalfBase(cow));
        else Put(Golden.Cow(cow), Golden.Old);
        SystemCallTrace trace = Boot();
        // Without a device mapper, only a merge that has begun is finished.
        foreach (string verb in cow == Half ? new[] { "\"serve\"", "\"merge\"" } : ["\"serve\""])
        {
            TracedCall start =
                trace.First($"the start of {verb}", call => call.Name is "execve" or "execveat" && call.Arguments.Contains(verb,
                    StringComparison.Ordinal));
            TracedCall mark = trace.IsDurable(Marker, start), folder = trace.IsDurable(_folder.Path, start);
            Assert.True(mark.End < folder.Begin, trace.ToString());
            if (says.Length > 0) _ = trace.IsNamed(Marker, start);
            else Assert.DoesNotContain(trace.Calls, call => call.Renamed != null);
        }
        Assert.Equal(says.Length > 0, trace.Calls.Any(call => call.Writes(Marker + ".new") && call.Bytes.AsSpan().StartsWith(
            Encoding.ASCII.GetBytes(says + " "))));
    }

    [Fact]
    public void Base_and_cow_are_flushed_before_boot_puts_a_mapped_device_on_a_merged_base()
    {
        PutMerged();
        SystemCallTrace trace = Boot();
        TracedCall mapper = trace.First("an open of the device mapper", call => call.Name == "openat" && call.Path.Length > 0
            && call.Arguments.Contains("\"/dev/mapper/control\"", StringComparison.Ordinal));
        _ = trace.IsDurable(Base, mapper);
        _ = trace.IsDurable(Cow, mapper);
    }

    [Theory]
    [InlineData("create", false)]
    [InlineData("create", true)]
    [InlineData("extract", false)]
    [InlineData("extract", true)]
    public void Output_is_flushed_before_it_gets_its_name_and_its_folder_before_the_result(string verb, bool replaces)
    {
        string output = _folder["out"], part = output + ".part";
        if (replaces) File.WriteAllBytes(output, [1]);
        SystemCallTrace trace = SystemCallTrace.Of(Log, Calls, 0, Output(verb, output));
        // The call's arguments contain the names; the descriptors before them are those of the working folder.
        TracedCall named = trace.First("a rename", call => call.Name.StartsWith("rename", StringComparison.Ordinal)
            && call.Arguments.Contains($"\"{part}\"", StringComparison.Ordinal));
        Assert.True(named.Succeeded && trace.Calls.Any(call => call.Writes(part)), trace.ToString());
        _ = trace.IsDurable(part, named);
        Assert.DoesNotContain(trace.Calls, call => (call.Writes(part) || call.Writes(output)) && call.End > named.Begin);
        TracedCall folder = trace.IsDurable(_folder.Path, Result(trace));
        Assert.True(folder.Begin > named.End, trace.ToString());
    }

    /// <summary>The partitions, then the state file, then misc.</summary>
    [Fact]
    public void Partitions_are_flushed_before_the_state_file_is_replaced_and_its_folder_before_misc_is_written()
    {
        GoldenDevice device = GoldenDevice.Named("first-phase-half");
        foreach (string name in device.Devices) File.WriteAllBytes(_folder[name], device.Device(name));
        foreach (string file in Directory.EnumerateFiles(device.Metadata, "*", SearchOption.AllDirectories))
        {
            string copy = _folder["metadata/" + Path.GetRelativePath(device.Metadata, file)];
            Directory.CreateDirectory(Path.GetDirectoryName(copy)!);
            File.Copy(file, copy);
        }
        string ota = _folder["metadata/ota"], temporary = ota + "/state.tmp", super = _folder["super"], misc = _folder["misc"];
        SystemCallTrace trace = SystemCallTrace.Of(Log, Calls, 0, "android", "merge", "--conclude", "--super", super, "--misc", misc,
            "--metadata", _folder["metadata"], "--slot", "b", "--io", "sync", "--progress", "never");
        TracedCall renamed = trace.First("a rename", call => call.Name.StartsWith("rename", StringComparison.Ordinal)
            && call.Arguments.Contains($"\"{temporary}\"", StringComparison.Ordinal));
        Assert.True(renamed.Succeeded && trace.Calls.Any(call => call.Writes(temporary)), trace.ToString());
        _ = trace.IsDurable(super, renamed);
        _ = trace.IsDurable(temporary, renamed);
        Assert.DoesNotContain(trace.Calls, call => call.Writes(super) && call.End > renamed.Begin);
        TracedCall told = trace.First("a write to misc", call => call.Writes(misc));
        Assert.True(trace.IsDurable(ota, told).Begin > renamed.End, trace.ToString());
        _ = trace.IsDurable(misc, Result(trace));
    }

    [Fact]
    public void Stream_into_a_file_is_flushed_before_the_result()
    {
        Put(Golden.Cow(Vector), Golden.Old);
        string[] command = SystemCallTrace.Command(Log, Calls, Binary.Path, "extract", "--cow", Cow, "--base", Base, "--output", "-",
            "--progress", "never");
        BinaryResult result = Binary.RunProgram("/bin/sh", ["-c", "exec \"$@\" >\"$0\"", _folder["out"], .. command]);
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["out"]));
        SystemCallTrace trace = SystemCallTrace.Read(Log);
        // In this case the result is printed to standard error.
        _ = trace.IsDurable(_folder["out"], trace.First("the result", call => call.Name == "write" && call.Arguments.StartsWith("2<",
            StringComparison.Ordinal)));
    }

    /// <summary>
    /// The device held a COW before. Its magic is erased durably before anything else of it is overwritten. The new magic is written after
    /// everything else is durable.
    /// </summary>
    [RootTheory]
    [InlineData("2")]
    [InlineData("3")]
    public void Magic_on_a_device_is_erased_first_and_written_last(string format)
    {
        byte[] before = Golden.Cow(Vector);
        Array.Resize(ref before, 8 << 20);
        File.WriteAllBytes(_folder["disk"], before);
        using LoopDevice disk = new(_folder["disk"]);
        SystemCallTrace trace = SystemCallTrace.Of(Log, Calls, 0, [.. Output("create", disk.Path), "--format", format]);
        TracedCall[] writes = [.. trace.Calls.Where(call => call.Writes(disk.Path))];
        Assert.True(writes.Length > 3, trace.ToString());
        Assert.Equal((0L, true), (writes[0].Offset, writes[0].Bytes.AsSpan().SequenceEqual(new byte[8])));
        _ = trace.IsDurable(disk.Path, writes[1]);
        TracedCall magic = writes.First(call => call.Bytes.AsSpan().StartsWith("!!WOcwoC"u8));
        Assert.Equal((0L, 8, magic), (magic.Offset, magic.Bytes.Length, writes[^1]));
        _ = trace.IsDurable(disk.Path, magic);
        _ = trace.IsDurable(disk.Path, Result(trace));
    }

    /// <summary>
    /// The count was read from a page cache that a killed run may have left dirty. The COW and the base are flushed before the merge is
    /// reported as done.
    /// </summary>
    [Theory]
    [InlineData("merge")]
    [InlineData("merge, base in use")]
    public void Base_and_cow_are_flushed_before_a_merge_reports_that_it_is_already_done(string way)
    {
        PutMerged();
        using Process? holder = way == "merge" ? null : Hold();
        SystemCallTrace trace = Merge(0);
        holder?.StandardInput.Close();
        holder?.WaitForExit();
        Assert.Contains("already merged", Result(trace).Arguments);
        _ = trace.IsDurable(Base, Result(trace));
        _ = trace.IsDurable(Cow, Result(trace));
    }

    [Theory]
    [InlineData("status")]
    [InlineData("list")]
    [InlineData("watch")]
    [InlineData("merge")]
    public void Base_and_cow_are_flushed_before_a_server_reports_the_merge_as_done(string command)
    {
        PutMerged();
        SystemCallTrace trace = Serve([], "--merge-on-request", () =>
        {
            BinaryResult told = Ctl(command);
            Assert.True(told.ExitCode == 0, told.ToString());
        });
        // The reply to a merge request consists only of the line that ends a reply.
        string said = command == "merge" ? "\".\\n\"" : "merged";
        TracedCall answer = trace.First("the answer", call => call.Name == "sendto" && call.Arguments.Contains(said,
            StringComparison.Ordinal));
        _ = trace.IsDurable(Base, answer);
        _ = trace.IsDurable(Cow, answer);
        // A page whose write-back failed is marked clean: a flush alone would not write the count again.
        Assert.Contains(trace.Calls, call => call.Writes(Cow) && call.Offset == 0 && call.End < answer.Begin);
    }

    [Fact]
    public void Base_and_cow_are_flushed_before_a_daemon_reports_the_merge_as_done()
    {
        PutMerged();
        string socket = _folder["socket"];
        string[] command = SystemCallTrace.Command(Log, Calls, Binary.Path, "daemon", "--socket", socket, "--device", "nbd",
            "--socket-folder", _folder.Path, "--io", "sync");
        Process daemon = Started(command);
        using (Talker client = Talker.Connected(daemon, socket))
        {
            Assert.StartsWith("success,", client.Ask($"init,root,{Cow},{Base},{Base}"), StringComparison.Ordinal);
            Assert.Equal("success", client.Ask("start,root"));
            Assert.Equal("snapshot-merge-complete", client.Ask("getstatus,root"));
            client.Send("stop");
        }
        Assert.True(daemon.WaitForExit(60_000));
        SystemCallTrace trace = SystemCallTrace.Read(Log);
        TracedCall answer = trace.First("the answer", call => call.Name == "sendto" && call.Arguments.Contains("snapshot-merge-complete",
            StringComparison.Ordinal));
        _ = trace.IsDurable(Base, answer);
        _ = trace.IsDurable(Cow, answer);
    }

    /// <summary>
    /// The server continues to serve and never reports the merge as done, because a second flush would succeed without writing the lost
    /// data.
    /// </summary>
    [Theory]
    [InlineData("base")]
    [InlineData("cow")]
    public void Server_that_cannot_flush_a_merged_snapshot_fails(string file)
    {
        PutMerged();
        Process server = Started(["strace", "-f", "-qq", "-o", "/dev/null", "-P", _folder[file], "-e", "trace=fdatasync", "-e",
            "inject=fdatasync:error=EIO", Binary.Path,
            "serve", "--cow", Cow, "--base", Base, "--device", "nbd", "--socket", _folder["nbd"], "--control", _folder["control"],
            "--io", "sync", "--progress", "never", "--merge-on-request"]);
        Assert.Equal(_folder["nbd"], server.StandardOutput.ReadLine());
        BinaryResult status = Ctl("status", "--json");
        Assert.Contains("\"state\":\"failed\"", status.Output, StringComparison.Ordinal);
        Assert.Contains("\"exit_code\":74", status.Output, StringComparison.Ordinal);
        foreach (string command in new[] { "merge", "watch" })
        {
            BinaryResult told = Ctl(command);
            Assert.True(told.ExitCode == 74, told.ToString());
            Assert.Contains("may not be durable", told.Error);
        }
        Assert.Equal(0, Ctl("stop").ExitCode);
        Assert.True(server.WaitForExit(60_000));
        Assert.Equal(74, server.ExitCode);
    }

    /// <summary>Here the server has done the merge itself; in the tests above, the merge was finished before.</summary>
    [Fact]
    public void Base_and_cow_are_flushed_before_a_watch_ends_with_the_merge()
    {
        Put(Golden.Cow(Vector), Golden.Old);
        SystemCallTrace trace = Serve([], "--merge-on-request", () =>
        {
            Assert.Equal(0, Ctl("merge").ExitCode);
            Assert.Equal(0, Ctl("watch").ExitCode);
        });
        TracedCall answer = trace.First("the answer", call => call.Name == "sendto" && call.Arguments.Contains("merged",
            StringComparison.Ordinal));
        _ = trace.IsDurable(Base, answer);
        _ = trace.IsDurable(Cow, answer);
        Assert.Contains(trace.Calls, call => call.Writes(Base) && call.End < answer.Begin);
    }

    /// <summary>
    /// A supervised server records a request in the supervisor's memory before it replies. These records do not survive a power cut.
    /// </summary>
    [Theory]
    [InlineData(0, "merge")]
    [InlineData(0, "pause")]
    [InlineData(0, "resume")]
    [InlineData(0, "rate", "1M")]
    [InlineData(10, "stop")]
    public void Request_is_recorded_before_its_reply(int at, params string[] command)
    {
        Put(Golden.Cow(Vector), Golden.Old);
        File.WriteAllBytes(_folder["noted"], new byte[20]);
        string[] note = ["/bin/sh", "-c", "exec 9<>\"$0\"; SNAPUSERD_REQUESTS=9 exec \"$@\"", _folder["noted"]];
        SystemCallTrace trace = Serve(note, "--merge-on-request", () =>
        {
            BinaryResult told = Ctl(command);
            Assert.True(told.ExitCode == 0, told.ToString());
        });
        // `ctl stop` first asks for the supervisor, and that reply ends in the same way.
        TracedCall noted = trace.First("the note", call => call.Writes(_folder["noted"]) && call.Offset == at);
        TracedCall[] answers = [.. trace.Calls.Where(call => call.Name == "sendto" && call.Arguments.Contains("\".\\n\"",
            StringComparison.Ordinal))];
        Assert.True(answers.Length > 0 && noted.End < answers[command[0] == "stop" ? ^1 : 0].Begin, trace.ToString());
    }

    /// <summary>When a device becomes ready, the base is the old image and the COW is untouched, so no write has to be durable.</summary>
    [Fact]
    public void Nothing_is_written_before_a_server_is_ready()
    {
        Put(Golden.Cow(Vector), Golden.Old, mark: true);
        SystemCallTrace trace = Serve([], "--merge", () =>
        {
            // The server requests its own merge when it is ready; the repeated request has no effect.
            Assert.Equal(0, Ctl("merge").ExitCode);
            Assert.Equal(0, Ctl("watch").ExitCode);
        });
        TracedCall ready = Result(trace);
        Assert.Contains(_folder["nbd"], ready.Arguments);
        Assert.DoesNotContain(trace.Calls,
            call => (call.Writes(Base) || call.Writes(Cow) || call.Writes(Marker)) && call.Begin < ready.End);
        Assert.Contains(trace.Calls, call => call.Writes(Base));
    }

    private static TracedCall Result(SystemCallTrace trace) => trace.First("the result", call => call.Name == "write"
        && call.Arguments.StartsWith("1<", StringComparison.Ordinal));

    private void Put(byte[] cow, byte[] image, bool mark = false)
    {
        File.WriteAllBytes(Cow, cow);
        File.WriteAllBytes(Base, image);
        if (mark) File.WriteAllText(Marker, "");
    }

    private void PutMerged()
    {
        Put(Golden.Cow(Vector), Golden.Old);
        BinaryResult merged = Binary.Run("merge", "--cow", Cow, "--base", Base, "--progress", "never");
        Assert.True(merged.ExitCode == 0, merged.ToString());
    }

    private SystemCallTrace Merge(int code) => SystemCallTrace.Of(Log, Calls, code, "merge", "--cow", Cow, "--base", Base, "--io", "sync",
        "--progress", "never");

    /// <summary>A boot of one row. Its base is a file, which cannot be mapped, so the boot fails in the end.</summary>
    private SystemCallTrace Boot()
    {
        File.WriteAllText(_folder["table"], $"snapuserd-test {Cow} {Base}\n");
        File.WriteAllText(_folder["cmdline"], "snapuserd.device=nbd");
        BinaryResult result = Run([], "boot", "--table", _folder["table"], "--cmdline", _folder["cmdline"], "--control-folder",
            _folder["run"], "--wait", "0");
        Assert.True(result.ExitCode is 64 or 69, result.ToString());
        return SystemCallTrace.Read(Log);
    }

    private BinaryResult Run(string[] more, params string[] arguments)
    {
        string[] command = SystemCallTrace.Command(Log, Calls, [.. more, Binary.Path, .. arguments]);
        return Binary.RunProgram(command[0], command[1..]);
    }

    private string[] Output(string verb, string output)
    {
        File.WriteAllBytes(_folder["old"], Golden.Old);
        File.WriteAllBytes(_folder["new"], Golden.New);
        Put(Golden.Cow(Vector), Golden.Old);
        return verb == "create" ? ["create", "--source", _folder["old"], "--target", _folder["new"], "--output", output, "--progress",
            "never"]
            : ["extract", "--cow", Cow, "--base", Base, "--output", output, "--progress", "never"];
    }

    /// <summary>Starts another program that uses the base until its standard input ends.</summary>
    private Process Hold()
    {
        Process holder = Binary.StartProgram("flock", [Base, "sh", "-c", "echo held; cat"]);
        Assert.Equal("held", holder.StandardOutput.ReadLine());
        return holder;
    }

    /// <summary>Traces a server until <paramref name="use"/> has used it and it was stopped.</summary>
    private SystemCallTrace Serve(string[] before, string merge, Action use)
    {
        string[] command = [.. before, .. SystemCallTrace.Command(Log, Calls, Binary.Path, "serve", "--cow", Cow, "--base", Base,
            "--device", "nbd", "--socket", _folder["nbd"],
            "--control", _folder["control"], "--io", "sync", "--progress", "never", merge)];
        Process server = Started(command);
        Assert.Equal(_folder["nbd"], server.StandardOutput.ReadLine());
        use();
        if (!server.HasExited) _ = Ctl("stop");
        Assert.True(server.WaitForExit(60_000));
        return SystemCallTrace.Read(Log);
    }

    private BinaryResult Ctl(params string[] words) => Binary.Run(["ctl", .. words, "--socket", _folder["control"]]);

    private Process Started(string[] command)
    {
        Process process = Binary.StartProgram(command[0], command[1..]);
        _servers.Add(process);
        return process;
    }
}
