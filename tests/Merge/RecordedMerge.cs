using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Merge;

/// <summary>
/// A real engine over byte arrays as devices. It records each external action as one line, in order: requests, progress, reservations, and
/// calls of the marker and of the readers' gate. The base is device 0, the COW 1 and the source 2. By default, each wait completes all
/// requests, in the order in which they were queued.
/// </summary>
internal sealed class RecordedMerge : IBlockQueue, IWorkQueue<DecodeJob>, IMergeObserver, IMergeMarker, IStorageReserver, ITimeSource
{
    private const int BaseNumber = 0, CowNumber = 1, SourceNumber = 2;
    private static readonly string[] s_names = ["base", "cow", "source"];

    private readonly List<BlockRequest> _flights = [];
    private readonly List<int> _numbers = [];
    private readonly Queue<(DecodeJob Job, uint Tag)> _jobs = [];
    private readonly List<string> _lines = [];
    private readonly byte[][] _devices;
    private readonly byte[] _target;
    private readonly long _firstPayload;
    private readonly WakeUp _wakeUp = new();
    private readonly DecodeWorker _worker = new();
    private Arena? _arena;
    private OpLocations _locations;
    private int _published;

    /// <summary>Merges <paramref name="cow"/> into random blocks. Its ops read <paramref name="source"/> if given, else the base.</summary>
    internal RecordedMerge(CowBuilder cow, int blocks, byte[]? source = null)
    {
        byte[] old = SmallCases.Random(7, blocks);
        _devices = source is null ? [old, cow.Build()] : [old, cow.Build(), source];
        _target = NaiveMerger.Merge(cow.Ops, source ?? old, old);
        _firstPayload = cow.DataOffsets.Where(offset => offset >= 0).DefaultIfEmpty(long.MaxValue).Min();
        Gate = new ReaderGate(_wakeUp);
    }

    internal MergeOptions Options { get; init; } = new() { VerifyFirst = false, WriteBackBytes = 0 };

    internal int ArenaBytes { get; init; } = 256 << 10;

    public int Depth { get; init; } = 8;

    /// <summary>Number of jobs that the workers accept at a time.</summary>
    public int Capacity { get; init; } = 4;

    internal ReaderGate Gate { get; }

    internal MergeThrottle Throttle { get; } = new();

    internal StopFlag Stop { get; } = new();

    public long Milliseconds { get; set; }

    internal MemoryQuota? Share { get; init; }

    internal SharedRange[]? Overlap { get; init; }

    internal bool SharedBlocks { get; init; } = true;

    /// <summary>Kinds of lines to record, by their first word; empty for all kinds.</summary>
    internal string[] Only { get; set; } = [];

    /// <summary>A flush completes only when nothing else is in flight.</summary>
    internal bool SlowFlushes { get; init; }

    /// <summary>Number of waits during which a request for write-back stays in flight beside other requests.</summary>
    internal int SlowWriteBack { get; set; }

    /// <summary>Number of requests that complete in one wait.</summary>
    internal int EndAtATime { get; init; } = int.MaxValue;

    /// <summary>Number of the request, counted from 0, that fails with EIO.</summary>
    internal int FailAt { get; set; } = -1;

    /// <summary>All requests so far.</summary>
    internal List<string> Requests { get; } = [];

    /// <summary>The recorded lines so far.</summary>
    internal IReadOnlyList<string> Lines => _lines;

    /// <summary>Called for each line.</summary>
    internal Action<string> Seen { get; set; } = _ => { };

    /// <summary>Called by a wait with nothing in flight.</summary>
    internal Action Idle { get; set; } = () => throw new ContractViolationException("a wait with nothing in flight would never end");

    internal byte[] Cow => _devices[CowNumber];

    internal byte[] Base => _devices[BaseNumber];

    internal MergeResult? Result { get; private set; }

    /// <summary>Runs the merge, and compares the base with the target and the lines with the expected ones.</summary>
    internal MergeResult Expect(string lines)
    {
        MergeResult result = Run();
        Assert.Equal(_target, Base);
        AssertLines(lines);
        return result;
    }

    /// <summary>Runs the merge, which must fail with this exit code, message and lines.</summary>
    internal SnapuserdException Refused(ExitCode code, string sentence, string lines = "")
    {
        SnapuserdException e = Assert.Throws<SnapuserdException>(() => Run());
        Assert.Equal(sentence, e.Message);
        Assert.Equal(code, e.Code);
        AssertLines(lines);
        return e;
    }

    internal MergeResult Run()
    {
        MergeResult? result = null;
        With(engine => result = new MergeLifecycle(engine, this).Run(Share));
        return result!;
    }

    internal void With(Action<MergeEngine> use)
    {
        using Arena arena = _arena = new(ArenaBytes);
        // The reads of Open are not recorded.
        int failAt = FailAt;
        FailAt = -1;
        using MergeEngine engine = MergeEngine.Open(Setup(arena));
        FailAt = failAt;
        _lines.Clear();
        Requests.Clear();
        try
        {
            use(engine);
        }
        finally
        {
            Line(Describe(Result = engine.Result));
            Assert.Empty(_flights);
            Assert.Empty(_jobs);
        }
    }

    internal MergeSetup Setup(Arena arena) => new()
    {
        Io = new IoScheduler(this, [1, 1, 1]),
        Arena = _arena = arena,
        Workers = this,
        Time = this,
        Cow = new MergeDevice(CowNumber, "cow", Cow.Length),
        Base = new MergeDevice(BaseNumber, "base", Base.Length),
        Source = _devices.Length > SourceNumber ? new MergeDevice(SourceNumber, "source", _devices[SourceNumber].Length)
            : new MergeDevice(BaseNumber, "base", Base.Length),
        SharedBlocks = _devices.Length == SourceNumber && SharedBlocks,
        Overlap = Overlap is { } ranges ? new ReadOnlyMemory<SharedRange>(ranges) : default(ReadOnlyMemory<SharedRange>?),
        Options = Options,
        Stop = Stop,
        Throttle = Throttle,
        Observer = this,
        Storage = this,
        Marker = this,
        Readers = Gate,
    };

    internal void AssertLines(string lines) => AssertSame(lines, string.Join('\n', _lines));

    /// <summary>On a difference, shows the complete actual text; xunit's own assertion shows only the first difference.</summary>
    internal static void AssertSame(string expected, string seen) =>
        Assert.True(expected.ReplaceLineEndings("\n").Trim() == seen, $"something else was seen:\n{seen}\n");

    private void Line(string line)
    {
        if (Only.Length == 0 || Only.Contains(line.Split(' ', ':')[0])) _lines.Add(line);
        Seen(line);
    }

    private static string Blocks(int device, long offset, long length) =>
        offset % CowOp.BlockSize == 0 && length % CowOp.BlockSize == 0 && device != CowNumber
            ? $"{s_names[device]} {offset / CowOp.BlockSize}+{length / CowOp.BlockSize}" : $"{s_names[device]} {offset}+{length} bytes";

    private string Name(in BlockRequest request)
    {
        string verb = request.Verb switch
        {
            BlockVerb.Read => "read",
            BlockVerb.Write => "write",
            BlockVerb.Flush => "flush",
            _ => "write-back",
        };
        if (request.Verb is BlockVerb.Flush or BlockVerb.WriteBack) return $"{verb} {s_names[request.Device]}";
        if (request.Device == CowNumber && request.Offset >= _firstPayload)
            return $"{verb} payload {request.Offset - _firstPayload}+{request.Buffer.Length} bytes";
        return $"{verb} {Blocks(request.Device, request.Offset, request.Buffer.Length)}";
    }

    private static string Describe(MergeResult result) =>
        $"result: {result.OpsTotal} ops, {result.ResumedFrom} before, {result.Replayed} replayed, {result.Journaled} journaled; "
        + $"{result.Blocks} blocks, "
        + $"{result.BaseBytesWritten} + {result.CowBytesWritten} bytes, {result.Flushes} flushes, {result.Checkpoints} checkpoints"
        + $"{(result.WasResumed ? "; resumed" : "")}{(result.AlreadyMerged ? "; already merged" : "")}";

    private void LookAtLocations()
    {
        OpLocations locations = Gate.Locations;
        if (locations == _locations) return;
        _locations = locations;
        _published++;
        Line($"locations {locations.Counted}+{locations.Window}");
    }

    bool IBlockQueue.TryQueue(in BlockRequest request)
    {
        if (_flights.Count == Depth) return false;
        LookAtLocations();
        if (request.Verb is BlockVerb.Read or BlockVerb.Write && request.Offset + request.Buffer.Length > _devices[request.Device].Length)
            throw new ContractViolationException($"{Name(request)} goes beyond the end");
        Line(Name(request));
        Requests.Add(Name(request));
        _flights.Add(request);
        _numbers.Add(Requests.Count - 1);
        return true;
    }

    int IBlockQueue.Wait(Span<BlockCompletion> completions)
    {
        if (_flights.Count == 0)
        {
            Idle();
            return 0;
        }
        bool flushes = !SlowFlushes || _flights.TrueForAll(flight => flight.Verb == BlockVerb.Flush);
        bool writeBacks = _flights.TrueForAll(flight => flight.Verb == BlockVerb.WriteBack)
            || (_flights.Exists(flight => flight.Verb == BlockVerb.WriteBack) && SlowWriteBack-- <= 0);
        int count = 0;
        for (int i = 0; i < _flights.Count && count < Math.Min(EndAtATime, completions.Length);)
        {
            BlockRequest request = _flights[i];
            int number = _numbers[i];
            if (request.Verb switch { BlockVerb.Flush => flushes, BlockVerb.WriteBack => writeBacks, _ => true })
            {
                _flights.RemoveAt(i);
                _numbers.RemoveAt(i);
                completions[count++] = new BlockCompletion(request.Tag, Complete(request, number));
            }
            else
            {
                i++;
            }
        }
        return count;
    }

    int IBlockQueue.Perform(in BlockRequest request) => throw new ContractViolationException("a plain call");

    private int Complete(in BlockRequest request, int number)
    {
        if (number == FailAt) return -Errno.EIO;
        if (request.Verb is BlockVerb.Flush or BlockVerb.WriteBack) return 0;
        Span<byte> buffer = _arena![request.Buffer], place = _devices[request.Device].AsSpan((int)request.Offset, buffer.Length);
        if (request.Verb == BlockVerb.Read) place.CopyTo(buffer);
        else buffer.CopyTo(place);
        return buffer.Length;
    }

    bool IWorkQueue<DecodeJob>.TryPost(in DecodeJob job, uint tag)
    {
        if (_jobs.Count == Capacity) return false;
        Line("job");
        _jobs.Enqueue((job, tag));
        return true;
    }

    bool IWorkQueue<DecodeJob>.TryReap(out uint tag, out int result)
    {
        (tag, result) = (0, 0);
        if (!_jobs.TryDequeue(out (DecodeJob Job, uint Tag) job)) return false;
        (tag, result) = (job.Tag, _worker.Do(job.Job));
        return true;
    }

    void IWorkQueue<DecodeJob>.WaitForEnd() => Assert.NotEmpty(_jobs);

    void IMergeObserver.Progress(in MergeProgress progress) =>
        Line($"progress: {progress.OpsDone} of {progress.OpsTotal} ops, {progress.BytesDone} of {progress.BytesTotal} bytes");

    void IMergeObserver.Checking(in MergeProgress progress) =>
        Line($"checked: {progress.OpsDone} of {progress.OpsTotal} ops, {progress.BytesDone} of {progress.BytesTotal} bytes");

    void IMergeMarker.Check(CowFile cow) => Line("marker checked");

    void IMergeMarker.Begin(CowFile cow, int count) => Line($"marker begins at {count}");

    void IMergeMarker.End() => Line("marker ends");

    void IStorageReserver.Reserve(MergeDevice device, IEnumerable<ByteRange> ranges) =>
        Line($"reserve:{string.Concat(ranges.Select(range => $" {Blocks(device.Number, range.Offset, range.Length)}"))}");

    public void Dispose()
    {
        _worker.Dispose();
        _wakeUp.Dispose();
    }
}
