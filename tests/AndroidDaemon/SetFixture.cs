using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.IO;
using System.Threading;
using Snapuserd.AndroidDaemon;
using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Merge;
using Snapuserd.Serve;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.AndroidDaemon;

/// <summary>A set of snapshots over files, with devices in memory and a control socket.</summary>
internal sealed class SetFixture : IDisposable
{
    internal const string Vector = "v3-lz4-descending";

    private const int PatienceMilliseconds = 60_000;

    private readonly TempFolder _folder = new();
    private readonly WakeUp _changed = new();
    private readonly MergeSlots _slots;
    private readonly ControlServer _server;

    internal SetFixture(bool foreign = true, int merges = 2, Func<string, StopFlag, bool>? verify = null, bool verifyFirst = true,
        Action<string>? check = null)
    {
        _slots = new MergeSlots(new MemoryBudget(merges * (16L << 20), merges), merges);
        Set = new SnapshotSet(new SnapshotSetOptions
        {
            Make = request => new SnapshotOptions
            {
                Name = request.Name,
                Devices = new DeviceOptions
                {
                    Cow = request.Cow,
                    Base = request.Base,
                    Source = request.Source == request.Base ? null : request.Source,
                    Writes = true,
                    Io = IoChoice.Sync,
                    ArenaBytes = _slots.MostBytes,
                    Threads = 1,
                },
                CacheBytes = 1 << 20,
                ServerBytes = 1 << 20,
                Slots = _slots,
                VerifyFirst = verifyFirst,
            },
            Server = name => (SnapshotView view, BlockDevice[] devices, int memory, WakeUp wakeUp, out string device) =>
            {
                if (Refused.ContainsKey(name)) throw new SnapuserdException(ExitCode.Unavailable, "as the test asked for");
                MemoryServer server = new(view, devices, wakeUp);
                Servers[name] = server;
                device = server.Start();
                return server;
            },
            DeviceIsForeign = foreign,
            Verify = verify,
            Check = check,
            Report = sentence => Reports.Enqueue(sentence),
        }, _changed);
        Socket = _folder["control"];
        _server = ControlServer.Start(Socket, new ControlOptions { Messages = new AndroidRequests(Set) });
    }

    internal SnapshotSet Set { get; }

    /// <summary>The wake-up that the set signals.</summary>
    internal WakeUp Changed => _changed;

    internal string Socket { get; }

    internal ConcurrentDictionary<string, MemoryServer> Servers { get; } = new();

    /// <summary>Names for which creating the device fails.</summary>
    internal ConcurrentDictionary<string, bool> Refused { get; } = new();

    internal ConcurrentQueue<string> Reports { get; } = new();

    internal string this[string file] => _folder[file];

    /// <summary>Creates the files of a snapshot with that name; returns the text of its init request.</summary>
    internal string Files(string name, byte[]? cow = null, byte[]? old = null)
    {
        File.WriteAllBytes(_folder[name + ".cow"], cow ?? Golden.Cow(Vector));
        File.WriteAllBytes(_folder[name + ".base"], old ?? Golden.Old);
        return Init(name);
    }

    /// <summary>A request for existing files.</summary>
    internal SnapshotRequest Request(string name) => new(name, _folder[name + ".cow"], _folder[name + ".base"], _folder[name + ".base"]);

    /// <summary>The text of the init request for existing files.</summary>
    internal string Init(string name) => $"init,{name},{_folder[name + ".cow"]},{_folder[name + ".base"]},{_folder[name + ".base"]}";

    /// <summary>Connects a client.</summary>
    internal Talker Client() => new(Socket);

    /// <summary>Opens and starts a snapshot.</summary>
    internal void Serve(Talker client, string name, byte[]? cow = null, byte[]? old = null)
    {
        Expect($"success,{(old ?? Golden.Old).Length / 512}", client.Ask(Files(name, cow, old)));
        Expect("success", client.Ask($"start,{name}"));
    }

    internal SnapshotStatus Status(string name) =>
        Array.Find(Set.Snapshots, one => one.Name == name)?.Status ?? throw new InvalidOperationException($"there is no {name}");

    /// <summary>Waits until another thread makes a condition true.</summary>
    internal static void Until(Func<bool> condition, string what)
    {
        long end = Environment.TickCount64 + PatienceMilliseconds;
        while (!condition())
        {
            if (Environment.TickCount64 > end) throw new TimeoutException($"in vain: {what}");
            Thread.Sleep(1);
        }
    }

    /// <summary>Waits until the snapshot reaches a state.</summary>
    internal void Until(string name, SnapshotState state) => Until(() => Status(name).State == state, $"{name} {state}");

    internal byte[] Base(string name) => Unlocked.Read(_folder[name + ".base"], (int)new FileInfo(_folder[name + ".base"]).Length);

    private static void Expect(string expected, string actual)
    {
        if (expected != actual) throw new InvalidOperationException($"'{actual}' instead of '{expected}'");
    }

    public void Dispose()
    {
        Set.Dispose();
        _server.Dispose();
        _changed.Dispose();
        _folder.Dispose();
    }
}
