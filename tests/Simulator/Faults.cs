using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// Makes the k-th request of a merge fail, for every k and in every way, and compares the outcome with the expected one. If the merge can
/// absorb every fault, it must reach the target. Otherwise it must stop with the right exit code and a message that names device and errno.
/// After a stop, a run without faults must reach the target. This must hold in three cases: the machine keeps running; the power fails and
/// all unflushed data is lost; the power fails and none is lost.
/// </summary>
public sealed class FaultSweep : IDisposable
{
    private static readonly int[] Lengths = [0, 1, 511, 512, 513, 4095, 4096, 4097, -1, -511, -512, -4095, -4096];
    private static readonly int[] Errnos = [Errno.EIO, Errno.ENOSPC, Errno.EAGAIN, Errno.EINTR, Errno.ECANCELED, Errno.ENODEV];
    private static readonly string[] Devices = ["cow", "base", "source"];

    private readonly MergeCase _case;
    private readonly SimDisk[] _start;
    private readonly ulong _seed;
    private readonly Arena _arena;
    private readonly HashSet<ulong> _recovered = [];

    /// <summary>
    /// A sweep over a merge that begins with the case's own devices, or with those that a crash left in <paramref name="start"/>.
    /// </summary>
    public FaultSweep(MergeCase merge, ulong seed, SimDisk[]? start = null)
    {
        _case = merge;
        _start = start ?? merge.Disks();
        _seed = seed;
        _arena = new Arena(merge.ArenaBytes);
    }

    /// <summary>Runs that met a fault.</summary>
    public long Runs { get; private set; }
    /// <summary>Runs that reached the target in spite of the fault.</summary>
    public long Absorbed { get; private set; }
    /// <summary>Runs that the fault stopped.</summary>
    public long Stopped { get; private set; }
    /// <summary>States after a stop, and after a crash that follows the stop, each recovered once.</summary>
    public long Recovered => _recovered.Count;

    public string Counts => $"{_case.Name}: {Runs} runs with a fault, {Absorbed} absorbed, {Stopped} stopped, {Recovered} states recovered";

    /// <summary>Every fault that makes a difference to at least one request, by granule.</summary>
    public static IEnumerable<FaultKind> Kinds(int granule)
    {
        if (granule == 1)
        {
            foreach (int errno in Errnos)
            {
                foreach (FaultReach reach in new[] { FaultReach.Once, FaultReach.Device, FaultReach.All })
                    yield return new FaultKind(errno, 0, reach);
                if (errno is Errno.EAGAIN or Errno.EINTR or Errno.ECANCELED) yield return new FaultKind(errno, 0, FaultReach.Queued);
                if (errno != Errno.ECANCELED) yield return new FaultKind(errno, 0, FaultReach.Plain);
            }
            yield return new FaultKind(Errno.EIO, 0, FaultReach.Once, DropsDirty: true);
            foreach (int length in new[] { 0, 1, -1 }) yield return new FaultKind(0, length, FaultReach.Plain);
        }
        foreach (int length in Lengths)
        {
            if (length == 0 && granule > 1) continue;
            yield return new FaultKind(0, length, FaultReach.Once);
            // One byte at a time would be thousands of requests per block; 511 exercises the same path.
            if (length != 1 || granule > 1) yield return new FaultKind(0, length, FaultReach.All);
        }
    }

    /// <summary>
    /// A start state in which the window at the count is claimed and durable, so that a run begins by replaying it. Null for a case that
    /// never reaches such a state.
    /// </summary>
    public static SimDisk[]? ClaimedWindow(MergeCase merge, ulong seed)
    {
        using Arena arena = new(merge.ArenaBytes);
        SimDisk[] disks = merge.Disks();
        CowHeader header = Header(merge);
        SimDisk[]? claimed = null;
        SimMerge.Run(merge, disks, arena, seed, () =>
        {
            if (claimed is null && header.ScratchBytes > 0 && disks[0].Durable[0].Bytes[header.HeaderBytes] == ScratchLayout.Valid)
                claimed = Array.ConvertAll(disks, disk => disk.AfterDeath(_ => true));
        });
        return claimed;
    }

    private static CowHeader Header(MergeCase merge)
    {
        using CowFile cow = CowFile.Read(new MemorySource(merge.Cow.ToArray()));
        return cow.Header;
    }

    /// <summary>All faults at all requests, or every <paramref name="stride"/>-th of them starting at <paramref name="phase"/>.</summary>
    public void Sweep(int stride = 1, int phase = 0)
    {
        long number = phase;
        foreach (int granule in new[] { 1, 512, 4096 })
        {
            FaultyQueue clean = Run(granule, -1, default);
            Must(clean.Delivered == 0, "without a fault", "a fault was delivered");
            for (int k = 0; k < clean.Requests.Count; k++)
                foreach (FaultKind kind in Kinds(granule))
                    if (Matters(kind, clean.Requests[k]) && number++ % stride == 0) Check(granule, k, kind);
        }
    }

    /// <summary>The queue itself fails at each wait in turn, and some waits end without a completion.</summary>
    public void SweepWaits(int stride = 1)
    {
        FaultyQueue woken = Run(1, -1, default, wakesUp: true);
        for (int wait = 0; wait < woken.Waits; wait += stride)
        {
            string history = $"the queue breaks at wait {wait}";
            SimDisk[] disks = Start();
            using FaultyQueue queue = new(disks, _arena, _case.QueueDepth, 1, _seed, int.MaxValue, default) { BreaksAtWait = wait };
            try
            {
                Merge(queue, disks, null);
                // Without waits that end without a completion, a merge has fewer waits.
                Must(queue.Waits <= wait, history, "the merge ended as if nothing had happened");
            }
            catch (SnapuserdException e)
            {
                Runs++;
                Stopped++;
                Must(e.Code == ExitCode.InputOutput && e.Message.Contains("EBADF", StringComparison.Ordinal), history,
                    $"code {(int)e.Code}: {e.Message}");
                Recover(disks, history);
            }
        }
    }

    /// <summary>The k-th job of a worker fails as if by a defect. The hostile files cover bad payloads.</summary>
    public void SweepWork()
    {
        foreach (bool verify in new[] { false, true })
        {
            for (int k = 0; ; k++)
            {
                string history = $"job {k} fails{(verify ? ", payloads checked first" : "")}";
                SimDisk[] disks = Start();
                using FaultyQueue queue = new(disks, _arena, _case.QueueDepth, 1, _seed, int.MaxValue, default);
                FailingWorker? worker = null;
                try
                {
                    Merge(queue, disks, () => worker = new FailingWorker(new DecodeWorker(), k), verify);
                    if (!worker!.Failed) break;
                    Must(false, history, "the merge ended as if nothing had happened");
                }
                catch (SnapuserdException e)
                {
                    Runs++;
                    Stopped++;
                    Must(e.Code == ExitCode.Internal && e.Message.Contains("op ", StringComparison.Ordinal)
                        && e.Message.StartsWith("cow:", StringComparison.Ordinal), history, $"code {(int)e.Code}: {e.Message}");
                    // Payloads are decoded before the first write, so the first job decodes a payload if there is one.
                    if (verify && k == 0 && worker!.PayloadsIn(_case) > 0)
                        Must(!queue.Wrote, history, "something was written although a payload is bad");
                    Recover(disks, history);
                }
            }
        }
    }

    /// <summary>Reads of the merged image: one error fails one read, and everything else is right.</summary>
    public void SweepReads(int stride = 1)
    {
        foreach (int granule in new[] { 1, 512 })
        {
            int requests = Read(granule, -1, default).Requests.Count;
            long number = 0;
            for (int k = 0; k < requests; k++)
                foreach (FaultKind kind in Kinds(granule))
                    if (number++ % stride == 0) Read(granule, k, kind);
        }
    }

    public void Dispose() => _arena.Dispose();

    private static bool Matters(in FaultKind kind, in BlockRequest request) => request.Verb is BlockVerb.Flush or BlockVerb.WriteBack
        ? kind.Errno != 0 && kind.Reach != FaultReach.Plain
        : !kind.DropsDirty && (kind.Errno != 0 || kind.Moved(request.Buffer.Length) < request.Buffer.Length);

    private SimDisk[] Start() => Array.ConvertAll(_start, disk => disk.AfterDeath(_ => true));

    private void Check(int granule, int k, FaultKind kind)
    {
        Runs++;
        string history = $"request {k}: {kind}, granule {granule}";
        try
        {
            FaultyQueue queue = Run(granule, k, kind);
            Must(queue.Delivered > 0, history, "the request that must fail was never made");
        }
        catch (Exception e) when (e is not LostDataException)
        {
            throw new LostDataException($"{_case.Name}: seed {_seed}, {history}: {e.Message}", e);
        }
    }

    private FaultyQueue Run(int granule, int k, FaultKind kind, bool wakesUp = false)
    {
        string history = $"request {k}: {kind}, granule {granule}";
        SimDisk[] disks = Start();
        using FaultyQueue queue =
            new(disks, _arena, _case.QueueDepth, granule, _seed, k < 0 ? int.MaxValue : k, kind) { WakesUp = wakesUp };
        SnapuserdException? stop = null;
        try
        {
            Merge(queue, disks, null, granule: granule);
        }
        catch (SnapuserdException e)
        {
            stop = e;
        }
        if (stop is null)
        {
            if (k >= 0) Absorbed++;
            Must(queue.Fatal.Count == 0, history, "the merge ended as if nothing had happened");
            Reached(disks, history);
        }
        else
        {
            Stopped++;
            Must(queue.Fatal.Count > 0 || queue.BelowGranule, history, $"no fault justified stopping this merge: {stop.Message}");
            Names(queue, stop, history);
            Recover(disks, history);
        }
        return queue;
    }

    private void Names(FaultyQueue queue, SnapuserdException stop, string history)
    {
        bool named = stop.Code == ExitCode.InputOutput && queue.BelowGranule && stop.Message.Contains("EIO", StringComparison.Ordinal);
        foreach ((int device, int errno) in queue.Fatal)
            named |= stop.Code == ExitCode.InputOutput && stop.Message.StartsWith(Devices[device] + ":", StringComparison.Ordinal)
                && stop.Message.Contains(Errno.Name(errno), StringComparison.Ordinal);
        Must(named, history, $"the message must name the failed device and errno, code {(int)stop.Code}: {stop.Message}");
    }

    private void Merge(IBlockQueue queue, SimDisk[] disks, Func<IWorker<DecodeJob>>? worker, bool verify = false, int granule = 1)
    {
        SimMerge.Clean(_arena);
        MergeCase merge =
            _case with { Granule = granule, Options = _case.Options with { VerifyFirst = verify || _case.Options.VerifyFirst } };
        using SimWorkers workers = new(worker?.Invoke() ?? new DecodeWorker(), _seed);
        using MergeEngine engine = MergeEngine.Open(SimMerge.Setup(merge, disks, _arena, _seed, queue, workers));
        try
        {
            MergeResult result = engine.Run();
            if (SimMerge.DurableCount(disks[0]) != result.OpsTotal)
                throw new LostDataException($"{_case.Name}: the merge ended before its count was durable");
        }
        catch (SnapuserdException) when (engine.DurableCount > SimMerge.DurableCount(disks[0]))
        {
            throw new LostDataException($"{_case.Name}: the stopped engine believes that {engine.DurableCount} ops are durable, but the "
                + $"medium has {SimMerge.DurableCount(disks[0])}");
        }
    }

    private FaultyQueue Read(int granule, int k, FaultKind kind)
    {
        string history = $"reading, request {k}: {kind}, granule {granule}";
        SimDisk[] disks = Start();
        SimMerge.Clean(_arena);
        using FaultyQueue queue = new(disks, _arena, _case.QueueDepth, granule, _seed, k < 0 ? int.MaxValue : k, kind);
        using SimWorkers workers = new(new DecodeWorker(), _seed);
        Runs++;
        int errors = 0;
        try
        {
            using MergedImage image =
                MergedImage.Open(SimMerge.Setup(_case with { Granule = granule }, disks, _arena, _seed, queue, workers));
            for (long offset = 0; offset < image.Length;)
            {
                int length = Page.Size;
                try
                {
                    ReadOnlySpan<byte> chunk = image.Read(offset);
                    length = chunk.Length;
                    for (int at = 0; at < length; at += Page.Size)
                    {
                        int count = Math.Min(Page.Size, length - at);
                        Must(chunk.Slice(at, count).SequenceEqual(_case.Target[(int)((offset + at) / Page.Size)].Bytes[..count]), history,
                            $"a read returns a wrong block {(offset + at) / Page.Size}");
                    }
                }
                catch (SnapuserdException e)
                {
                    Names(queue, e, history);
                    errors++;
                    // A fault that happens once does not repeat: the same read again must be right.
                    if (kind.Reach is FaultReach.Once or FaultReach.Plain)
                    {
                        Must(errors == 1 || kind.Reach == FaultReach.Plain, history, $"a second read failed: {e.Message}");
                        if (kind.Reach == FaultReach.Once) continue;
                    }
                }
                offset += length;
            }
        }
        catch (SnapuserdException e)
        {
            Names(queue, e, history);
            errors++;
        }
        Must(!queue.Wrote, history, "a reader issued a write");
        Must(errors > 0 || queue.Fatal.Count == 0, history, "no read failed although a request had to");
        if (errors > 0) Stopped++;
        else Absorbed++;
        return queue;
    }

    /// <summary>
    /// Recovers from the point where a fault stopped the merge. Either the process restarts, or the power fails first and the unflushed
    /// data is kept or lost.
    /// </summary>
    private void Recover(SimDisk[] disks, string history)
    {
        RunOn(Array.ConvertAll(disks, disk => disk.AfterDeath(_ => true)), $"{history}; then the next run");
        RunOn(Array.ConvertAll(disks, disk => new SimDisk(disk.Durable)), $"{history}; then a power cut that loses what was unflushed");
        RunOn(Array.ConvertAll(disks, WithPending), $"{history}; then a power cut that loses nothing");
    }

    private static SimDisk WithPending(SimDisk disk)
    {
        Image image = disk.Durable.Copy();
        foreach (PendingPage page in disk.Pending) image.Set(page.Number, page.Contents);
        return new SimDisk(image);
    }

    private void RunOn(SimDisk[] disks, string history)
    {
        ulong hash = 0;
        foreach (SimDisk disk in disks) hash = Chance.Mix(hash + disk.Hash);
        if (!_recovered.Add(hash)) return;
        try
        {
            int wrong = SimMerge.FirstWrongPage(_case, disks, _arena, _seed);
            Must(wrong < 0, history, $"a read of the merged image returns a wrong block {wrong}");
            SimMerge.Run(_case, disks, _arena, _seed, () => { });
        }
        catch (SnapuserdException e) when (_case.MayBeLost && e.Code == ExitCode.CowCorrupt
            && e.Message.Contains("lost", StringComparison.Ordinal))
        {
            return;
        }
        catch (Exception e) when (e is not LostDataException)
        {
            throw new LostDataException($"{_case.Name}: seed {_seed}, {history}: {e.Message}", e);
        }
        Reached(disks, history);
    }

    private void Reached(SimDisk[] disks, string history)
    {
        int wrong = disks[1].Durable.FirstDifference(_case.Target);
        Must(wrong < 0, history, $"block {wrong} of the base is wrong, or not durable, after the merge");
    }

    private void Must(bool holds, string history, string what)
    {
        if (!holds) throw new LostDataException($"{_case.Name}: seed {_seed}, {history}: {what}");
    }

    private sealed class FailingWorker(IWorker<DecodeJob> inner, int first) : IWorker<DecodeJob>
    {
        private int _jobs;

        public bool Failed { get; private set; }

        public int PayloadsIn(MergeCase merge)
        {
            using CowFile cow = CowFile.Read(new MemorySource(merge.Cow.ToArray()));
            int payloads = 0;
            for (int op = 0; op < cow.OpCount; op++)
                if (cow[op].HasData && !cow.IsRaw(cow[op])) payloads++;
            return payloads;
        }

        public int Do(in DecodeJob job)
        {
            if (_jobs++ != first) return inner.Do(job);
            Failed = true;
            return WorkQueue<DecodeJob>.Crashed;
        }

        public void Dispose() => inner.Dispose();
    }
}

/// <summary>
/// `simulator faults [CASE …]`: every fault at every request of the small cases, then of the golden COWs at a stride, until the time is up.
/// </summary>
public static class Faults
{
    /// <summary>
    /// The golden COWs whose requests are sampled, each with the stride through the faults that one round uses: one run takes a tenth of a
    /// second.
    /// </summary>
    public static IEnumerable<(string Name, int Stride)> GoldenStrides =>
    [
        ("v3-lz4-64k-xor", 2003), ("v2-lz4-xor", 2503), ("v2-zstd-noscratch", 3001), ("v3-zstd-nocopy", 151),
    ];

    public static int Simulate(Budget budget)
    {
        double until = budget.Tally.Seconds + budget.Seconds;
        void Count(FaultSweep sweep)
        {
            Console.Error.WriteLine(sweep.Counts);
            budget.Tally.Add(cases: 1, runs: sweep.Runs, states: sweep.Recovered, distinct: sweep.Recovered);
        }
        try
        {
            foreach (string name in SmallCases.Names)
                if ((budget.Words.Length == 0 || budget.Words.Contains(name)) && budget.Tally.Seconds < until)
                    Small(name, 2, budget.Seed, 1, Count);
            if (budget.Words is [] or ["stream"])
            {
                using FaultSweep stream = new(Stream(), budget.Seed);
                stream.Sweep();
                stream.SweepReads();
                Count(stream);
            }
            foreach ((string name, int stride) in GoldenStrides)
            {
                if (budget.Words.Length > 0 || budget.Tally.Seconds >= until) continue;
                using FaultSweep sweep = new(Golden(name), budget.Seed);
                sweep.Sweep(stride, (int)(budget.Seed % (ulong)stride));
                Count(sweep);
            }
        }
        catch (LostDataException e)
        {
            return Program.Failed("faults", budget,
                Program.Lost("faults", $"--seed {budget.Seed} {string.Join(' ', budget.Words)}".TrimEnd(), e));
        }
        Console.WriteLine($"faults, seed {budget.Seed}: {budget.Tally}");
        return 0;
    }

    /// <summary>
    /// Every fault of a small case, from its beginning and from a claimed window; of the faults of requests every
    /// <paramref name="stride"/>-th.
    /// </summary>
    public static void Small(string name, int window, ulong seed, int stride, Action<FaultSweep> count)
    {
        MergeCase merge = SmallCases.Make(name, window);
        using (FaultSweep sweep = new(merge, seed))
        {
            sweep.Sweep(stride);
            sweep.SweepWaits(stride);
            sweep.SweepWork();
            sweep.SweepReads(stride);
            count(sweep);
        }
        using (FaultSweep verified = new(
            merge with { Name = merge.Name + ", payloads checked first", Options = merge.Options with { VerifyFirst = true } }, seed + 2))
        {
            verified.Sweep(stride * 3, 2);
            count(verified);
        }
        if (FaultSweep.ClaimedWindow(merge, seed) is not { } claimed) return;
        using FaultSweep replay = new(merge with { Name = merge.Name + ", replayed" }, seed + 1, claimed);
        replay.Sweep(stride, 1);
        replay.SweepWaits(stride);
        replay.SweepReads(stride);
        count(replay);
    }

    /// <summary>
    /// Unordered Copies and Replaces all over the device, several times the engine's memory. The engine may write some ops while it reads
    /// others, and while it counts earlier writes.
    /// </summary>
    public static MergeCase Stream()
    {
        const int Ops = 96 + 1;
        byte[] old = SmallCases.Random(77, 2 * Ops);
        CowBuilder cow = new() { ScratchBytes = SmallCases.ScratchFor(2), MaxUnitBytes = 8192 };
        for (uint i = 0; i < Ops; i++)
        {
            if (i % 3 == 2) cow.Replace((i * 7) % Ops, SmallCases.Random(i, 1));
            else cow.Copy((i * 7) % Ops, i + Ops);
        }
        return new MergeCase("stream", new Image(cow.Build()), new Image(old), new Image(NaiveMerger.Merge(cow, old)))
        {
            Options = new MergeOptions { VerifyFirst = false, CheckpointBytes = 10 * CowOp.BlockSize },
        };
    }

    /// <summary>
    /// Unordered ops in a row, forty times the engine's memory, so that the data in memory does not hide how late a checkpoint is. A
    /// checkpoint is due every <paramref name="blocks"/> blocks.
    /// </summary>
    public static MergeCase LongStream(int blocks)
    {
        const int Ops = 1280;
        byte[] old = SmallCases.Random(8, 2 * Ops);
        CowBuilder cow = new() { ScratchBytes = SmallCases.ScratchFor(2) };
        for (uint i = 0; i < Ops; i++) cow.Copy(i, i + Ops);
        return new MergeCase("long stream", new Image(cow.Build()), new Image(old), new Image(NaiveMerger.Merge(cow, old)))
        {
            ArenaBytes = 128 << 10,
            SlowFlushes = true,
            Options = new MergeOptions { VerifyFirst = false, CheckpointBytes = blocks * Page.Size, CheckpointMilliseconds = 1 << 30 },
        };
    }

    /// <summary>
    /// <see cref="LongStream"/> with flushes that take no longer than other requests and with six intervals allowed, as in the program. The
    /// limit on uncounted writes is then never the reason for a checkpoint, so checkpoints come by bytes.
    /// </summary>
    public static MergeCase QuickStream(int blocks) => LongStream(blocks) with { SlowFlushes = false, UncountedIntervals = 6 };

    /// <summary>
    /// Runs <see cref="QuickStream"/> with intervals longer than a batch. Throws unless there is at least one checkpoint for every three
    /// intervals. Returns the number of checkpoints.
    /// </summary>
    public static int CheckpointsByBytes(int blocks, ulong seed)
    {
        MergeCase merge = QuickStream(blocks);
        using Arena arena = new(merge.ArenaBytes);
        MergeResult result = SimMerge.Run(merge, merge.Disks(), arena, seed, () => { });
        // A checkpoint may cover three intervals: the one that makes it due, the writes during the previous checkpoint, and one batch.
        if (result.Checkpoints < result.OpsTotal / (3 * blocks))
            throw new LostDataException(
                $"{merge.Name}: {result.OpsTotal} blocks got only {result.Checkpoints} checkpoints; one is due every {blocks} blocks");
        return result.Checkpoints;
    }

    /// <summary>
    /// Runs the long stream beside another merge that comes and goes, on systems of each page size. Throws unless everything given back is
    /// whole pages, none of which is still in use.
    /// </summary>
    public static void GivesPagesBack()
    {
        foreach (int page in SimulatedPages.All)
        {
            for (ulong seed = 1; seed <= 3; seed++)
            {
                MergeCase merge = QuickStream(64) with
                {
                    Name = $"pages of {page} bytes",
                    ArenaBytes = 2 << 20,
                    SystemPage = page,
                    SharesMemory = true,
                    GivesPagesBack = true,
                };
                using Arenas arenas = new();
                SimDisk[] disks = merge.Disks();
                SimMerge.Run(merge, disks, arenas[merge], seed, () => { });
                int wrong = disks[1].Durable.FirstDifference(merge.Target);
                if (wrong >= 0)
                    throw new LostDataException($"{merge.Name}, seed {seed}: block {wrong} of the base is wrong after the merge");
            }
        }
    }

    /// <summary>
    /// The long stream on a device that takes <paramref name="stepMilliseconds"/> ms for each operation: checkpoints come by the clock,
    /// long before the byte limit.
    /// </summary>
    public static MergeCase SlowStream(int stepMilliseconds)
    {
        MergeCase merge = LongStream(1);
        return merge with
        {
            Name = "slow stream",
            SlowFlushes = false,
            StepMilliseconds = stepMilliseconds,
            Options = merge.Options with { CheckpointBytes = 1L << 40, CheckpointMilliseconds = new MergeOptions().CheckpointMilliseconds },
        };
    }

    /// <summary>The merge of a golden COW from its beginning.</summary>
    public static MergeCase Golden(string name)
    {
        bool noScratch = name.EndsWith("noscratch", StringComparison.Ordinal);
        return new MergeCase(name, new Image(Support.Golden.Cow(name)), new Image(Support.Golden.Old), new Image(Support.Golden.New))
        {
            ArenaBytes = 8 << 20,
            QueueDepth = 32,
            MayBeLost = noScratch,
            Options = new MergeOptions { VerifyFirst = false, CheckpointBytes = 256 << 10, AllowUnsafe = noScratch },
        };
    }
}
