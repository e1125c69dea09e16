using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Serve;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Control;

/// <summary>
/// The same merge with an observer, without one, and with one that throws. Each path on which a merge runs gives the same files at every
/// flush and at the end: marker, count, COW and base.
/// </summary>
public sealed class ThrowingObserverTests
{
    private const string Vector = "v3-lz4-descending", None = "none", Quiet = "quiet";

    /// <summary>Generous, because it only bounds a test that has failed.</summary>
    private const int PatienceMilliseconds = 60_000;

    private static readonly string[] s_paths =
    [
        "merge", "serve", "serve over NBD", "serve over ublk", "serve a mapped device", "daemon", "daemon over NBD",
    ];

    private static readonly string[] s_endings =
    [
        "merged", "stopped when begun", "mark not flushed", "mark of another COW", "merged before",
    ];

    /// <summary>What throws: a call by its number, every call, or one method.</summary>
    private static readonly string[] s_observers =
    [
        None, "1", "2", "5", "every", "Progress", "Checking", "Merged", "Stopped", "HandedOver",
    ];

    public static TheoryData<string, string, string> Cases
    {
        get
        {
            TheoryData<string, string, string> cases = [];
            foreach (string path in s_paths)
                foreach (string ending in s_endings)
                    foreach (string observer in s_observers)
                        if (!IsLike(path, ending) || observer is None or "1" or "every") cases.Add(path, ending, observer);
            return cases;
        }
    }

    /// <summary>
    /// A path that differs from another one only by its server, or an ending at which an observer is called once at most.
    /// </summary>
    private static bool IsLike(string path, string ending) => path.Contains("over", StringComparison.Ordinal)
        || ending is "mark of another COW" or "merged before";

    [Theory]
    [MemberData(nameof(Cases))]
    public void What_is_durable_does_not_depend_on_the_observer(string path, string ending, string observer)
    {
        using Case quiet = new(ending, Quiet), other = new(ending, observer);
        string expected = quiet.Run(path), actual = other.Run(path);
        Assert.Equal(expected, actual);
        Assert.Empty(quiet.Reports);
        // One sentence for the observer, however often it throws.
        Assert.Equal(other.Thrown > 0 ? 1 : 0, other.Reports.Count);
        Assert.True(observer == None || quiet.Calls > 0 == other.Calls > 0, $"{quiet.Calls} calls, {other.Calls} with one that throws");
        quiet.Check();
        other.Check();
    }

    /// <summary>The cases above would prove nothing if no observer threw in them.</summary>
    [Theory]
    [InlineData("merge", "merged", "Progress", "Checking")]
    [InlineData("serve", "merged", "Progress", "Checking", "Merged")]
    [InlineData("serve", "stopped when begun", "Stopped")]
    [InlineData("serve a mapped device", "merged", "HandedOver")]
    [InlineData("daemon", "merged", "Progress", "Checking", "Merged")]
    [InlineData("daemon", "mark not flushed", "Stopped")]
    public void Each_method_of_an_observer_is_called_and_throws(string path, string ending, params string[] methods)
    {
        foreach (string method in methods)
        {
            using Case one = new(ending, method);
            _ = one.Run(path);
            Assert.True(one.Thrown > 0, method);
        }
    }

    /// <summary>The files of one merge, and its observer.</summary>
    private sealed class Case : IDisposable
    {
        private readonly TempFolder _folder = new();
        private readonly WakeUp _wakeUp = new();
        private readonly List<string> _events = [];
        private readonly string _ending;
        private readonly Script? _script;
        private readonly List<IDisposable> _used = [];
        private Action _atBegun = () => { };
        private int _checked;
        private bool _served;

        internal Case(string ending, string observer)
        {
            _ending = ending;
            _script = observer == None ? null : new Script(observer);
            byte[] cow = Golden.Cow(Vector);
            if (ending == "merged before")
                BinaryPrimitives.WriteUInt64LittleEndian(cow.AsSpan(CowHeader.MergeCountOffset), (ulong)Golden.Row(Vector).MergeOps);
            File.WriteAllBytes(Cow, cow);
            File.WriteAllBytes(_folder["base"], ending == "merged before" ? Golden.New : Golden.Old);
            File.WriteAllText(Marker, ending == "mark of another COW" ? $"begun {new string('6', 64)} {0:x16}\n" : "");
            // A boot that was killed before its rename leaves this one.
            File.WriteAllText(Marker + ".new", "");
        }

        internal List<string> Reports { get; } = [];

        internal int Calls => _script?.Calls ?? 0;

        internal int Thrown => _script?.Thrown ?? 0;

        private string Cow => _folder["cow"];

        private string Marker => Cow + ".merging";

        private ulong Count => BinaryPrimitives.ReadUInt64LittleEndian(
            Unlocked.Read(Cow, CowHeader.MergeCountOffset + sizeof(ulong)).AsSpan(CowHeader.MergeCountOffset));

        /// <summary>Runs the merge; returns the files at each flush, the result, and the files at the end.</summary>
        internal string Run(string path)
        {
            string result;
            _served = path != "merge";
            try
            {
                result = path switch
                {
                    "merge" => Merge(),
                    "daemon" or "daemon over NBD" => Daemon(path),
                    _ => Serve(path),
                };
            }
            catch (SnapuserdException e)
            {
                result = $"{(int)e.Code} {e.Message}";
            }
            finally
            {
                FileFlush.Before = null;
            }
            // A client that cannot be notified is reported; with a quiet observer, each client is notified.
            _events.RemoveAll(line => line.Contains("could not be told", StringComparison.Ordinal));
            return $"{string.Join('\n', _events)}\n{result}\n{Files()}".Replace(_folder.Path, "", StringComparison.Ordinal);
        }

        /// <summary>The files that this ending must leave.</summary>
        internal void Check()
        {
            bool merged = _ending.StartsWith("merged", StringComparison.Ordinal);
            Assert.Equal(merged ? Golden.New : Golden.Old, File.ReadAllBytes(_folder["base"]));
            Assert.Equal(merged ? (ulong)Golden.Row(Vector).MergeOps : 0, Count);
            Assert.Equal((!merged, !merged), (File.Exists(Marker), File.Exists(Marker + ".new")));
            if (!merged) Assert.StartsWith("begun ", File.ReadAllText(Marker), StringComparison.Ordinal);
            Assert.True(File.Exists(Cow));
            // The checked ops are recorded for a later process, even if the observer throws.
            if (_served && _ending == "merged") Assert.Equal(Golden.Row(Vector).MergeOps, _checked);
        }

        public void Dispose()
        {
            foreach (IDisposable one in _used) one.Dispose();
            _wakeUp.Dispose();
            _folder.Dispose();
        }

        private string Merge()
        {
            StopFlag stop = new();
            _atBegun = stop.Request;
            Watch();
            using DeviceSet devices = new(Devices(16 << 20), stop, _wakeUp);
            using MergeLifecycle merge = MergeLifecycle.Open(devices.Setup with { Observer = _script }, Report);
            return $"{merge.Run().OpsTotal} ops";
        }

        private string Serve(string path)
        {
            Snapshot? made = null;
            // Without an observer, only the status tells that the merge has ended.
            StopFlag stop = new(() => made?.Status is { } now
                && (now.State is SnapshotState.Merged or SnapshotState.Failed or SnapshotState.Plain || now.EndedWith != ExitCode.Done));
            FakeMapper kernel = new();
            SnapshotOptions options = Options("root", 16 << 20, null) with
            {
                Mapper = path == "serve a mapped device" ? "root" : null,
                OpenMapped = name => MappedDevice.Open(name, kernel),
                TargetOf = (device, readOnly, bytes) => new MapperTarget(device, 259, device == "memory" ? 7u : 3u, bytes / 512, readOnly),
            };
            using Snapshot snapshot = made = new Snapshot(options, stop, _wakeUp);
            _atBegun = snapshot.EndMerge;
            Watch();
            snapshot.Open();
            _ = snapshot.Serve(Server(path));
            // A merge that is finished and flushed when the snapshot is opened has nothing left to ask for.
            if (_ending != "merged before") Assert.True(snapshot.RequestMerge());
            ExitCode code = snapshot.Run();
            snapshot.StopServing();
            return $"{code} {snapshot.Status.State} {snapshot.Status.EndedWith} "
                + $"{snapshot.Status.Error}{(kernel.Devices.TryGetValue("root", out var mapped) ? mapped.Active : "")}";
        }

        private string Daemon(string path)
        {
            MergeSlots slots = new(new MemoryBudget(16 << 20, 1), 1);
            using WakeUp changed = new();
            SnapshotSet set = new(new SnapshotSetOptions
            {
                Make = request => Options(request.Name, slots.MostBytes, slots),
                // On the snapshot's own thread.
                Server = name => Server(path),
                Check = _ => Watch(),
                Report = sentence =>
                {
                    _events.Add(sentence);
                    Throw();
                },
            }, changed);
            using ManualResetEventSlim told = new();
            string refused = "";
            SnapshotStatus status;
            using (set)
            {
                set.Attach(new SnapshotRequest("root", Cow, _folder["base"], _folder["base"]), why =>
                {
                    refused = why?.Message ?? "";
                    told.Set();
                    // A client that cannot be told must not end the snapshot.
                    Throw();
                });
                Assert.True(told.Wait(PatienceMilliseconds));
                if (refused.Length > 0) return refused;
                Snapshot snapshot = set.Snapshots[0];
                _atBegun = snapshot.EndMerge;
                if (_ending != "merged before") Assert.True(set.InitiateMerge("root"));
                Assert.True(SpinWait.SpinUntil(() => snapshot.Status is { State: SnapshotState.Merged or SnapshotState.Failed }
                    or { EndedWith: not ExitCode.Done }, PatienceMilliseconds));
                status = snapshot.Status;
            }
            return $"{status.State} {status.EndedWith} {status.Error} {set.MergePercent}";
        }

        private ServerStart Server(string path) =>
            (SnapshotView view, BlockDevice[] devices, int memory, WakeUp wakeUp, out string device) =>
            {
                IBlockServer server;
                if (path.EndsWith("NBD", StringComparison.Ordinal))
                {
                    server = new NbdServer(view, devices,
                        new NbdOptions { SocketPath = _folder["nbd"], ExportName = "root", MemoryBytes = 4 << 20 }, wakeUp);
                }
                else if (path.EndsWith("ublk", StringComparison.Ordinal))
                {
                    FakeUblk driver = new();
                    _used.Add(new Driver(driver));
                    server = new UblkServer(view, devices, new UblkOptions { Id = -1, MemoryBytes = 4 << 20 }, wakeUp, () => driver);
                }
                else
                {
                    MemoryServer memoryServer = new(view, devices, wakeUp);
                    device = memoryServer.Start();
                    return memoryServer;
                }
                device = server.Start();
                return server;
            };

        private SnapshotOptions Options(string name, int arena, MergeSlots? slots) => new()
        {
            Name = name,
            Devices = Devices(arena),
            CacheBytes = 1 << 20,
            ServerBytes = 4 << 20,
            Slots = slots,
            Observer = _script,
            ObserverFailed = Report,
            Checked = ops => _checked = ops,
        };

        private DeviceOptions Devices(int arena) =>
            new() { Cow = Cow, Base = _folder["base"], Writes = true, Io = IoChoice.Sync, ArenaBytes = arena, Threads = 1 };

        private void Report(string sentence)
        {
            Reports.Add(sentence);
            Throw();
        }

        private void Throw()
        {
            if (_script is { What: "every" }) throw new InvalidOperationException("a report that throws");
        }

        /// <summary>Records the files at each flush of this thread.</summary>
        private void Watch() => FileFlush.Before = fd =>
        {
            string name = Path.GetFileName(DescriptorPath.Of(fd));
            if (name == Path.GetFileName(_folder.Path)) name = "folder";
            _events.Add($"flush {name}: {Files()}");
            if (name != "cow.merging") return 0;
            if (_ending == "stopped when begun") _atBegun();
            return _ending == "mark not flushed" ? -Errno.EIO : 0;
        };

        private string Files()
        {
            byte[] now = Unlocked.Read(_folder["base"], Golden.Old.Length);
            string content = now.AsSpan().SequenceEqual(Golden.Old) ? "old" : now.AsSpan().SequenceEqual(Golden.New) ? "new" : "between";
            string marker = File.Exists(Marker) ? $"'{File.ReadAllText(Marker).Trim()}'" : "none";
            return $"mark {marker}, new {File.Exists(Marker + ".new")}, COW {File.Exists(Cow)}, count {Count}, base {content}";
        }

        private sealed class Driver(FakeUblk driver) : IDisposable
        {
            public void Dispose()
            {
                Assert.Empty(driver.Faults);
                driver.Free();
            }
        }
    }

    /// <summary>An observer that throws in the calls that <paramref name="what"/> names; "quiet" for none.</summary>
    private sealed class Script(string what) : ISnapshotObserver
    {
        internal string What => what;

        internal int Calls { get; private set; }

        internal int Thrown { get; private set; }

        public void Progress(in MergeProgress progress) => Call(nameof(Progress));

        public void Checking(in MergeProgress progress) => Call(nameof(Checking));

        public void Merged(Snapshot snapshot, MergeResult result) => Call(nameof(Merged));

        public void Stopped(Snapshot snapshot, Exception reason) => Call(nameof(Stopped));

        public void HandedOver(Snapshot snapshot) => Call(nameof(HandedOver));

        private void Call(string method)
        {
            Calls++;
            if (what != "every" && what != method && what != Calls.ToString(System.Globalization.CultureInfo.InvariantCulture)) return;
            Thrown++;
            // The worst kinds: one that would count as a stop of the merge, one as a failed device, one as too little memory.
            throw (Calls % 3) switch
            {
                0 => new OutOfMemoryException("an observer that throws"),
                1 => new SnapuserdException(ExitCode.Interrupted, "an observer that throws"),
                _ => new SnapuserdException(ExitCode.InputOutput, "an observer that throws"),
            };
        }
    }
}
