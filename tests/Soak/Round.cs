using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Security.Cryptography;
using System.Text.Json;
using System.Threading;
using Snapuserd.Interop;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Soak;

/// <summary>One round: creates a base and applies several updates to it, according to the plan. Throws at the first error.</summary>
internal sealed class Round : IDisposable
{
    private const int Block = 4096;

    private readonly RoundPlan _plan;
    private readonly Machine _machine;
    private readonly Totals _totals;
    private readonly Store _cow, _base;
    private byte[] _image;
    private byte[] _target = [];
    private string? _source;
    private bool _hasScratch;
    private bool _interrupted;
    private bool _leavesSocket;

    private Round(RoundPlan plan, Machine machine, Totals totals)
    {
        (_plan, _machine, _totals) = (plan, machine, totals);
        _image = Images.By(new Chance(plan.Seed), plan.Blocks);
        _base = Store.Make(plan.Base, machine, "base", _image.Length);
        try
        {
            _cow = Store.Make(plan.Cow, machine, "cow", ((_image.Length * 3L / 2 / Block) + 1280) * Block);
        }
        catch
        {
            _base.Dispose();
            throw;
        }
    }

    public static void Run(RoundPlan plan, Machine machine, Totals totals)
    {
        using Round round = new(plan, machine, totals);
        round._base.Put(round._image);
        foreach (UpdatePlan update in plan.Updates) round.Update(update);
        foreach (Store store in new[] { round._cow, round._base }) Locks.Free(store.Path);
    }

    public void Dispose()
    {
        try
        {
            // A failed round may have left a marker.
            File.Delete(Marker);
            _cow.Dispose();
        }
        finally
        {
            _base.Dispose();
            // A killed server leaves its socket for the next one. A server that is stopped removes it.
            if (_leavesSocket) File.Delete(_machine["serve"]);
            foreach (string file in new[] { "old.img", "new.img", "source.img", "system.cow" }) File.Delete(_machine[file]);
        }
    }

    private string Marker => _cow.Path + ".merging";

    private void Update(UpdatePlan update)
    {
        Make(update);
        Stage(update);
        if (update.Verify) Expect(0, Binary.Run(["verify", .. Devices, "--sha256", Convert.ToHexStringLower(SHA256.HashData(_target))]),
            "verify");
        _interrupted = false;
        Dictionary<string, int> calls = [];
        foreach (Break one in update.Breaks)
        {
            Interrupt.Check();
            if (!calls.TryGetValue(one.Way.Io, out int count)) calls[one.Way.Io] = count = Count(one.Way.Io);
            Break(one, 1 + (int)(one.After * count));
            _interrupted = true;
            if (one.Look) Look();
        }
        if (update.Extract) Extract();
        Interrupt.Check();
        if (_interrupted) _totals.Resumes++;
        Finish(update);
        _image = _target;
    }

    private string[] Devices => ["--cow", _cow.Path, "--base", _base.Path, .. Source];

    /// <summary>The options for an update with a separate source file. The order of its ops is valid only with that source.</summary>
    private string[] Source => _source is { } source ? ["--source", source, "--source-separate"] : [];

    /// <summary>Creates the COW in a file.</summary>
    private void Make(UpdatePlan update)
    {
        Chance chance = new(update.Seed);
        _source = null;
        string made = _machine["system.cow"];
        if (update.Create is not { } create)
        {
            MergeCase merge;
            do merge = new RandomUpdate(chance, _image).ToCase("own");
            while (merge.MayBeLost);
            _target = merge.Target.ToArray();
            File.WriteAllBytes(made, merge.Cow.ToArray());
            if (merge.Source is { } source)
            {
                _source = _machine["source.img"];
                File.WriteAllBytes(_source, source.ToArray());
            }
        }
        else
        {
            _target = Images.Edited(chance, _image);
            File.WriteAllBytes(_machine["old.img"], _image);
            File.WriteAllBytes(_machine["new.img"], _target);
            string[] arguments = ["create", "--source", _machine["old.img"], "--target", _machine["new.img"], "--output", made,
                "--progress", "never", .. create.Arguments];
            if (create.KilledAt > 0)
            {
                BinaryResult killed = Run(KillAt.Command(MergeWay.Text(create.KilledAt), arguments));
                Expect(killed, "create that may be killed", 137, 0);
                if (killed.ExitCode == 137) _totals.Kills++;
                Unlocked.Settle(_machine["old.img"], _machine["new.img"]);
            }
            Expect(0, Binary.Run(arguments), "create");
        }
        // The scratch size is in the same place in formats 2 and 3.
        using FileStream file = File.OpenRead(made);
        byte[] head = new byte[38];
        file.ReadExactly(head);
        _hasScratch = BitConverter.ToUInt32(head, 34) > 0;
    }

    /// <summary>Writes the COW to its device as in docs/boot-setup.md: the beginning is zeroed first and written last.</summary>
    private void Stage(UpdatePlan update)
    {
        string[] steps =
        [
            "dd if=/dev/zero of=\"$1\" bs=4096 count=1 conv=fsync,notrunc",
            "tail -c +4097 \"$2\" | dd of=\"$1\" bs=4096 seek=1 conv=fsync,notrunc",
            "head -c 4096 \"$2\" | dd of=\"$1\" bs=4096 conv=fsync,notrunc",
        ];
        void RunSteps(int count)
        {
            foreach (string step in steps[..count]) Expect(0, Binary.RunProgram("/bin/sh", ["-ec", step, "sh", _cow.Path,
                _machine["system.cow"]]), "staging");
        }

        if (update.StagedTwice > 0)
        {
            RunSteps(update.StagedTwice);
            CutPower();
            Expect(65, Binary.Run(["merge", .. Devices, "--progress", "never"]), "merge of a half-staged COW");
            Same(_image, _base.See(_image.Length), "the base after the refused merge of a half-staged COW");
        }
        RunSteps(steps.Length);
        if (!update.Marker) return;
        File.WriteAllBytes(Marker, []);
        LoopDevice.Call("sync", Marker, Path.GetDirectoryName(Marker)!);
    }

    /// <summary>The number of system calls that killat counts in a whole merge of copies in memory.</summary>
    private int Count(string io)
    {
        try
        {
            File.Copy(_machine["system.cow"], _machine["count.cow"]);
            File.WriteAllBytes(_machine["count.img"], _image);
            BinaryResult counted = Run(KillAt.Command("0",
                ["merge", "--cow", _machine["count.cow"], "--base", _machine["count.img"], .. Source, "--io", io, "--progress", "never"]));
            Expect(0, counted, "merge of copies");
            Same(_target, File.ReadAllBytes(_machine["count.img"]), "the copy of the base after the merge");
            return int.Parse(counted.Error.Trim().Split('\n')[^1], CultureInfo.InvariantCulture);
        }
        finally
        {
            foreach (string file in new[] { "count.cow", "count.img" }) File.Delete(_machine[file]);
        }
    }

    private void Break(Break one, int call)
    {
        string number = MergeWay.Text(call);
        string[] merge = ["merge", .. Devices, "--progress", "never", .. one.Way.Arguments, .. one.Way.Rate];
        if (one.Serving && _hasScratch)
        {
            Served served = new(this, KillAt.Command(number, [.. ServeArguments, "--merge", "--json", .. one.Way.Arguments]), killed: true);
            served.Run();
            _totals.Kills++;
        }
        else
        {
            switch (one.How)
            {
                case Interruption.Term:
                    string[] command = KillAt.SignalledAt(Libc.SIGTERM, 1 + (call / 6), one.Way.Io == "uring" ? "io_uring_enter"
                        : "pwrite64", merge);
                    Expect(Run(command), "merge that gets SIGTERM", 75, 0);
                    break;
                case Interruption.DisksVanish:
                    string plugs = string.Concat(_cow.Plugs.Concat(_base.Plugs).Select(plug => $",{plug}"));
                    Expect(Run(KillAt.Command(number + plugs, merge)), "merge whose disks disappear", 74, 0);
                    break;
                default:
                    BinaryResult killed = Run(KillAt.Command(number, merge));
                    Expect(killed, "merge that is killed", 137, 0);
                    if (killed.ExitCode == 137) _totals.Kills++;
                    break;
            }
        }
        if (one.How != Interruption.DisksVanish) Unlocked.Settle(_cow.Path, _base.Path);
        if (one.How is Interruption.PowerCut or Interruption.DisksVanish) CutPower();
    }

    /// <summary>Discards all unflushed data of the COW and the base. Does nothing unless both support it.</summary>
    private void CutPower()
    {
        if (_cow.Power is null || _base.Power is null) return;
        foreach (ICuttable power in new[] { _cow.Power, _base.Power }.Distinct()) power.Cut();
        _totals.PowerCuts++;
    }

    private string[] ServeArguments => ["serve", .. Devices, "--device", "nbd", "--socket", _machine["serve"], "--progress", "never"];

    /// <summary>Reads the image from a server that does not merge.</summary>
    private void Look()
    {
        Served served = new(this, [Binary.Path, .. ServeArguments, "--json"], killed: false);
        served.Run();
    }

    private void Extract()
    {
        string output = _machine["extracted.img"];
        Expect(0, Binary.Run(["extract", .. Devices, "--output", output, "--progress", "never"]), "extract");
        Same(_target, File.ReadAllBytes(output), "the output of extract");
        File.Delete(output);
    }

    private void Finish(UpdatePlan update)
    {
        string what = "merge";
        // Without a scratch area a COW cannot be served and merged at the same time. The daemon has no option for a source on separate
        // storage.
        switch (_hasScratch && (_source is null || update.Finisher != Finisher.Daemon) ? update.Finisher : Finisher.Merge)
        {
            case Finisher.Serve:
                what = "serve --merge";
                new Served(this, [Binary.Path, .. ServeArguments, "--merge", "--json", .. update.Way.Arguments],
                    killed: false)
                { Merges = true }.Run();
                break;
            case Finisher.Daemon:
                what = "the daemon";
                MergeInDaemon(update);
                break;
            default:
                Expect(0, Binary.Run(["merge", .. Devices, "--progress", "never", .. update.Way.Arguments, .. update.Way.Rate]), "merge");
                break;
        }
        if (update.CutAfter)
        {
            Unlocked.Settle(_cow.Path, _base.Path);
            CutPower();
        }
        Same(_target, _base.See(_target.Length), $"the base after {what}");
        BinaryResult again = Binary.Run(["merge", .. Devices, "--json"]);
        Expect(0, again, "merge of a merged COW");
        if (!again.Output.Contains("\"already_merged\":true",
            StringComparison.Ordinal)) throw new SoakException($"after {what} the COW is not merged completely: {again}");
        Same(_target, _base.See(_target.Length), "the base after another merge");
        if (File.Exists(Marker)) throw new SoakException($"{Marker} still exists after {what}");
    }

    private void MergeInDaemon(UpdatePlan update)
    {
        string name = $"u{update.Seed:x}";
        using (Talker talker = _machine.Talk())
        {
            Answer(talker, $"init,{name},{_cow.Path},{_base.Path},{_base.Path}", "success,");
            Answer(talker, $"start,{name}", "success");
            string device = _machine[$"devices/{name}"];
            ReadAll(device);
            if (update.Held) HoldInDaemon(talker, name, device);
            else Answer(talker, $"initiate_merge,{name}", "success");
            ReadAll(device);
            try
            {
                Expect(0, Binary.Run("ctl", "watch", name, "--socket", _machine.DaemonSocket), "ctl watch");
            }
            catch (TimeoutException e)
            {
                throw new SoakException($"{e.Message}; {_machine.DescribeDaemon(talker.Ask($"getstatus,{name}"))}");
            }
            Answer(talker, $"getstatus,{name}", "snapshot-merge-complete");
            ReadAll(device);
            Answer(talker, $"delete,{name}", "success");
        }
        if (_machine.DaemonEnd is { } end) throw new SoakException(end);
    }

    /// <summary>Checks that a merge that is paused before it begins does not change the base. Then sets a rate and resumes it.</summary>
    private void HoldInDaemon(Talker talker, string name, string device)
    {
        byte[] before = _base.See(_image.Length);
        Tell("pause", name);
        Answer(talker, $"initiate_merge,{name}", "success");
        Answer(talker, $"getstatus,{name}", "snapshot-merge");
        ReadAll(device);
        Same(before, _base.See(_image.Length), "the base during a paused merge");
        Tell("rate", "64M", name);
        Tell("resume", name);
    }

    private void Tell(params string[] words) =>
        Expect(0, Binary.Run(["ctl", .. words, "--socket", _machine.DaemonSocket]), $"ctl {words[0]}");

    private static void Answer(Talker talker, string message, string begins)
    {
        string answer = talker.Ask(message);
        if (!answer.StartsWith(begins, StringComparison.Ordinal)) throw new SoakException($"the daemon replies '{answer}' to '{message}'");
    }

    /// <summary>Reads the whole served image. The length of the reads depends on the round.</summary>
    private void ReadAll(string socket)
    {
        using NbdClient client = NbdClient.Ready(socket, structured: _target.Length % 8192 == 0);
        int length = 4096 << (_plan.Blocks % 7);
        for (int offset = 0; offset < _target.Length; offset += length) ReadPart(client, offset, Math.Min(length, _target.Length - offset));
        client.SendRequest(2, 0, 0, 0);
    }

    private void ReadPart(NbdClient client, int offset, int length)
    {
        byte[] bytes = client.Read(offset, length, structured: _target.Length % 8192 == 0);
        if (!bytes.AsSpan().SequenceEqual(_target.AsSpan(offset,
            length))) throw new SoakException($"a served read of {length} bytes at {offset} is wrong");
    }

    private static BinaryResult Run(string[] command) => Binary.RunProgram(command[0], command[1..]);

    private static void Expect(int code, BinaryResult result, string what) => Expect(result, what, code);

    private static void Expect(BinaryResult result, string what, params int[] codes)
    {
        Interrupt.Check();
        if (!codes.Contains(result.ExitCode)) throw new SoakException($"{what}: {result}");
    }

    private static void Same(byte[] expected, byte[] found, string what)
    {
        Interrupt.Check();
        int at = expected.AsSpan().CommonPrefixLength(found);
        if (at == expected.Length && found.Length == expected.Length) return;
        throw new SoakException($"{what} is wrong from byte {at} on, in block {at / Block} of {expected.Length / Block}");
    }

    /// <summary>Runs a server and reads its image: repeatedly until it is killed or has merged, or once if it does neither.</summary>
    private sealed class Served(Round round, string[] command, bool killed)
    {
        private const int Longest = 60_000, LongestMerge = 300_000;

        private readonly Process _process = Binary.StartProgram(command[0], command[1..]);
        private readonly ManualResetEventSlim _ready = new(), _ended = new();
        private string? _error, _output;
        private Exception? _parseError;
        private bool _usable, _done;

        /// <summary>True if this server must complete the merge.</summary>
        public bool Merges { get; init; }

        public void Run()
        {
            Thread output = new(Listen), error = new(() => _error = _process.StandardError.ReadToEnd());
            output.Start();
            error.Start();
            try
            {
                if (!_ready.Wait(Longest)) throw new SoakException($"a server is neither ready nor ended after a minute: {_output}");
                if (_usable) Read();
                // Kill a server that was not killed because it made fewer calls than the merge of the copies.
                if (killed && !_ended.IsSet) _process.Kill();
                else if (!killed) _ = Libc.Kill(_process.Id, Libc.SIGTERM);
                round._leavesSocket = killed;
                if (!_process.WaitForExit(Longest)) throw new SoakException("a server still runs a minute after its stop signal");
            }
            finally
            {
                if (!_process.HasExited) _process.Kill();
                output.Join();
                error.Join();
                _process.WaitForExit();
                _process.Dispose();
                _ready.Dispose();
                _ended.Dispose();
            }
            Interrupt.Check();
            if (_parseError is { } cause) throw new SoakException($"a server printed a line that is not an event: {_output}", cause);
        }

        private void Read()
        {
            long end = Environment.TickCount64 + LongestMerge;
            try
            {
                bool last;
                do
                {
                    if (Environment.TickCount64 > end) throw new SoakException($"a served merge takes more than five minutes: {_output}");
                    last = Volatile.Read(ref _done) || !(killed || Merges);
                    round.ReadAll(round._machine["serve"]);
                    if (!killed && !Merges
                        && !Locks.IsUsed(round._base.Path)) throw new SoakException("the base of a server has no lock file");
                }
                while (!last && !_ended.IsSet);
                if (!killed && _ended.IsSet) throw new SoakException($"a server ended: {_output}{_error}");
            }
            catch (Exception e) when (killed && e is not SoakException && _ended.Wait(Longest))
            {
                // The server was killed while the image was read.
            }
        }

        private void Listen()
        {
            while (_process.StandardOutput.ReadLine() is { } line)
            {
                _output += line + "\n";
                try
                {
                    string what = JsonDocument.Parse(line).RootElement.GetProperty("event").GetString()!;
                    if (what == "ready") _usable = true;
                    if (what == "done") Volatile.Write(ref _done, true);
                    if (what is "ready" or "error") _ready.Set();
                }
                catch (Exception e) when (e is JsonException or KeyNotFoundException or InvalidOperationException)
                {
                    _parseError ??= e;
                }
            }
            _ended.Set();
            _ready.Set();
        }
    }
}
