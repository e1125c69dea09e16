using System;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Create;
using Snapuserd.Host;
using Snapuserd.Images;
using Snapuserd.Merge;
using Snapuserd.Text;

namespace Snapuserd.Cli;

/// <summary>`create`.</summary>
internal static class CreateVerb
{
    /// <summary>
    /// Default of `--memory`: windows of two threads and enough anchors for a system image. A comparison cannot work with less than 8 MiB.
    /// </summary>
    internal const long DefaultMemory = 64L << 20;

    // The writer's part of the memory while it compresses. A unit is at most 256 KiB, so a few dozen units are in flight.
    private const long MostBatch = 32L << 20;

    // The check decodes one unit per worker at a time and reads 1 MiB at once.
    private const long SmallestArena = 4L << 20;
    private const long LargestArena = 32L << 20;

    // An xored block needs its own v3 op of 16 bytes, while a replaced block inside a larger unit does not.
    private const int XorOverheadInUnits = 16;

    private sealed record Job(Invocation Invocation, IImageReader Source, IImageReader Target, CowWriterOptions Options, StopFlag Stop)
    {
        internal Arguments Arguments => Invocation.Arguments;
    }

    internal static ExitCode Run(Invocation invocation)
    {
        Arguments arguments = invocation.Arguments;
        CowWriterOptions options = Options(arguments);
        using var stop = new StopSignals();
        using FileImageReader source = FileImageReader.Open(arguments.Required("--source")),
            target = FileImageReader.Open(arguments.Required("--target"));
        if (source.Device.SameFileAs(target.Device))
            throw new SnapuserdException(ExitCode.Usage, $"{source.Name} and {target.Name} are the same; there is nothing to update");
        foreach (FileImageReader image in (ReadOnlySpan<FileImageReader>)[source, target])
            if (image.Device.NotLocked is { } sentence) invocation.Output.Write(Priority.Warning, "devices", sentence);
        Job job = new(invocation, SparseImageReader.Of(source, stop.Flag), SparseImageReader.Of(target, stop.Flag), options, stop.Flag);
        var clock = new ProgressObserver(invocation, "create");

        // Claim the output before the comparison, which takes time: meanwhile no other process may use or merge the file to be replaced.
        using AtomicFile output = AtomicFile.Create(arguments.Required("--output"), arguments.Has("--no-lock"), source.Device,
            target.Device);
        using DiffPlan plan = Compare(job);
        (long ops, long bytes) = Write(job, plan, output);
        MergeForecast forecast = Check(job, output);
        output.Finish(sentence => invocation.Output.Write(Priority.Warning, "output", sentence));
        Tell(job, plan, output, ops, bytes, forecast, clock.Seconds);
        return ExitCode.Done;
    }

    private static CowWriterOptions Options(Arguments arguments)
    {
        (CowCompression algorithm, int? level) = CowWriterOptions.ParseCompression(arguments.Text("--compression") ?? "lz4");
        int format = arguments.Choice("--format") == "2" ? 2 : 3;
        int unit = (int)arguments.Number("--block-factor", CowOp.BlockSize);
        if (format == 2 && unit != CowOp.BlockSize)
            throw new SnapuserdException(ExitCode.Usage,
                "create: format 2 has units of one block only; leave --block-factor out or take --format 3");
        if (format == 3 && arguments.Has("--cluster-ops"))
            throw new SnapuserdException(ExitCode.Usage, "create: format 3 has no clusters; leave --cluster-ops out or take --format 2");
        int cluster = (int)arguments.Number("--cluster-ops", CowCreation.CallBlocks);
        if (cluster == 1)
            throw new SnapuserdException(ExitCode.Usage,
                "create: --cluster-ops 1 leaves no room for an op in a cluster; take 0 or 2 and more");
        if (!int.IsPow2(unit))
            throw new SnapuserdException(ExitCode.Usage, $"create: --block-factor {unit} is not 4k, 8k, 16k, 32k, 64k, 128k or 256k");
        long memory = arguments.Number("--memory", DefaultMemory);
        CowWriterOptions options = new()
        {
            Version = format,
            Compression = algorithm,
            Level = level,
            MaxUnitBytes = unit,
            ClusterOps = cluster,
            Threads = Threads(arguments),
            BatchBytes = (int)Math.Min(memory / 4, MostBatch),
        };
        // Fails now, not after a long comparison, if the encoder refuses its level.
        new UnitEncoder(algorithm, level, unit).Dispose();
        return options;
    }

    private static int Threads(Arguments arguments) => (int)arguments.Number("--threads", Math.Clamp(Environment.ProcessorCount, 1, 16));

    private static DiffPlan Compare(Job job)
    {
        DiffStage? stage = null;
        ProgressObserver? observer = null;
        return Differ.Compare(job.Source, job.Target, new DiffOptions
        {
            Xor = job.Arguments.Has("--xor"),
            // Inside a larger unit, a replaced block shares its op with its neighbours, and compresses better together with them.
            XorOverhead = job.Options.MaxUnitBytes == CowOp.BlockSize ? 0 : XorOverheadInUnits,
            MaxUnitBytes = job.Options.MaxUnitBytes,
            MemoryBytes = job.Arguments.Number("--memory", DefaultMemory),
            Threads = job.Options.Threads,
            Estimator = () => new CodecEstimator(job.Options),
            Stop = job.Stop,
            Progress = now =>
            {
                if (observer == null || stage != now.Stage)
                    (stage, observer) = (now.Stage, new ProgressObserver(job.Invocation, StageName(now.Stage), isPart: true));
                observer.Progress(new MergeProgress(0, 0, now.Done, now.Total));
            },
        });
    }

    private static string StageName(DiffStage stage) => stage switch
    {
        DiffStage.Compare => "compare",
        DiffStage.FindMoved => "moved blocks",
        DiffStage.FindAnchors => "anchors",
        DiffStage.FindPlaces => "places",
        DiffStage.FindSimilar => "similar blocks",
        _ => "order",
    };

    private static (long Ops, long Bytes) Write(Job job, DiffPlan plan, AtomicFile output)
    {
        long ops = CowCreation.CountOps(plan, job.Options.MaxUnitBytes);
        // This is the limit of this program's reader, which is lower than the format's. Do not write a COW that could not be read again.
        if (ops > int.MaxValue)
            throw new SnapuserdException(ExitCode.Usage,
                $"{job.Target.Name}: the update takes {ops} ops, more than a COW can have here; try a larger --block-factor");
        CowWriterOptions options =
            job.Options with { Stop = job.Stop, OpCountMax = (ulong)Math.Max(Math.Max(ops, 1), job.Arguments.Number("--op-slots", 0)) };
        var observer = new ProgressObserver(job.Invocation, "write", isPart: true);
        long blocks = plan.CopyBlocks + plan.XorBlocks + plan.ReplaceBlocks + plan.ZeroBlocks;
        using CowWriter writer = CowWriter.Create(output.Output, options);
        CowCreation.Write(plan, job.Source, job.Target, writer, job.Stop,
            done => observer.Progress(new MergeProgress(0, 0, done * CowOp.BlockSize, blocks * CowOp.BlockSize)));
        writer.Finish();
        long bytes = output.Output.Capacity is null ? output.Output.Length : writer.Size;
        output.Written();
        return (ops, bytes);
    }

    /// <summary>
    /// Reads the file again. Always verifies its order. Unless `--no-check` is given, also compares every byte that the merge would produce
    /// with the target.
    /// </summary>
    private static MergeForecast Check(Job job, AtomicFile output)
    {
        using FileImageReader cow = FileImageReader.OpenUnlocked(output.Output.Name);
        using Arena arena = new((int)Math.Clamp(job.Arguments.Number("--memory", DefaultMemory) / 2, SmallestArena, LargestArena));
        using ImageQueue queue = new([cow, job.Source], arena, 32);
        using WakeUp wakeUp = new();
        using WorkQueue<DecodeJob> workers = new(job.Options.Threads, 64, () => new DecodeWorker(), wakeUp);
        // If the target is longer than the source, the base must be extended before the merge.
        MergeDevice image = new(1, job.Source.Name, Math.Max(job.Source.Length, job.Target.Length));
        MergeSetup setup = new()
        {
            Io = new IoScheduler(queue, [1, 1]),
            Arena = arena,
            Workers = workers,
            Time = new MonotonicClock(),
            Cow = new MergeDevice(0, output.Name, cow.Length),
            Base = image,
            Source = image,
            Stop = job.Stop,
        };
        using MergedImage merged = MergedImage.Open(setup);
        if (!job.Arguments.Has("--no-check")) Compare(job, merged);
        return MergeForecast.Of(merged.Cow);
    }

    private static void Compare(Job job, MergedImage merged)
    {
        var observer = new ProgressObserver(job.Invocation, "check", isPart: true);
        byte[] wanted = new byte[1 << 20];
        for (long offset = 0; offset < job.Target.Length;)
        {
            if (job.Stop.Requested) throw new SnapuserdException(ExitCode.Interrupted, "stopped; no COW was written");
            long holeEnd = SameHole(job, merged, offset);
            if (holeEnd > offset)
            {
                offset = holeEnd;
                continue;
            }
            ReadOnlySpan<byte> chunk = merged.Read(offset);
            int length = (int)Math.Min(chunk.Length, job.Target.Length - offset);
            job.Target.Read(offset, wanted.AsSpan(0, length));
            int differs = chunk[..length].CommonPrefixLength(wanted.AsSpan(0, length));
            if (differs < length)
                throw new SnapuserdException(ExitCode.InputOutput, $"the COW gives another byte at {offset + differs} than "
                    + $"{job.Target.Name} has: an image changed while it was read, or cannot be read reliably");
            offset += length;
            observer.Progress(new MergeProgress(0, 0, offset, job.Target.Length));
        }
    }

    /// <summary>
    /// The end of the range at <paramref name="offset"/> that is a hole in both images and that no op writes; <paramref name="offset"/>
    /// itself if there is no such range. Sparse images consist mostly of such ranges.
    /// </summary>
    private static long SameHole(Job job, MergedImage merged, long offset)
    {
        if (!job.Target.TrySkipHole(offset, out long target)) return offset;
        if (offset >= job.Source.Length || !job.Source.TrySkipHole(offset, out long source)) return offset;
        long written = merged.Cow.Order.NextWritten(offset / CowOp.BlockSize);
        long end =
            Math.Min(Math.Min(source, target), written > long.MaxValue / CowOp.BlockSize ? long.MaxValue : written * CowOp.BlockSize);
        return Math.Max(offset, end & -CowOp.BlockSize);
    }

    private static void Tell(Job job, DiffPlan plan, AtomicFile output, long ops, long bytes, in MergeForecast forecast, double seconds)
    {
        double ratio = job.Target.Length == 0 ? 0 : (double)bytes / job.Target.Length;
        if (job.Arguments.Has("--json"))
        {
            job.Invocation.Output.Result(JsonLine.Event("done").Add("output", output.Name).Add("bytes", bytes).Add("ops", ops)
                .Add("copy", plan.CopyBlocks).Add("xor", plan.XorBlocks).Add("replace_blocks", plan.ReplaceBlocks)
                .Add("replace", ops - plan.CopyBlocks - plan.XorBlocks - plan.ZeroBlocks).Add("zero", plan.ZeroBlocks)
                .Add("unchanged_blocks", plan.UnchangedBlocks)
                .Add("cycles_broken", plan.CyclesBroken).Add("journaled", forecast.Journaled).Add("windows", forecast.Windows)
                .Add("ratio", ratio).Add("seconds", seconds).Add("checked", !job.Arguments.Has("--no-check"))
                .Add("peak_memory", ProcessMemory.Peak()).ToString());
            return;
        }
        job.Invocation.Output.Result(string.Create(CultureInfo.InvariantCulture,
            $"{output.Name}: {Units.Bytes(bytes)} for an image of {Units.Bytes(job.Target.Length)}: {ops} ops ({plan.CopyBlocks} copied, "
            + $"{plan.XorBlocks} xored, "
            + $"{plan.ReplaceBlocks} replaced and {plan.ZeroBlocks} zeroed blocks; {plan.UnchangedBlocks} unchanged), {forecast.Journaled} "
            + $"ops will need the journal, {seconds:0.0} s"));
    }
}

/// <summary>Estimates the size of a unit with the codec of the COW.</summary>
internal sealed class CodecEstimator(CowWriterOptions options) : ICostEstimator
{
    private readonly UnitEncoder _encoder = new(options.Compression, options.Level, options.MaxUnitBytes);
    private readonly byte[] _room = new byte[UnitEncoder.Bound(options.MaxUnitBytes)];

    public int Cost(ReadOnlySpan<byte> blocks)
    {
        int length = _encoder.Encode(blocks, _room);
        return length < 0 ? blocks.Length : length;
    }

    public void Dispose() => _encoder.Dispose();
}
