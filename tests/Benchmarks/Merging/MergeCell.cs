using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>One COW merged at one place, warm or cold: three ceilings, the peer and the program, in turns.</summary>
internal sealed class MergeCell
{
    private const double CeilingTarget = 0.9, IdealTarget = 0.7;

    private readonly string _name;
    private readonly string _place;
    private readonly int _journaled;
    private readonly int _ops;
    private readonly Times _replay;
    private readonly Times _ideal;
    private readonly bool _idealDirect;
    private readonly Times _codec;
    private readonly Times _peer;
    private readonly Times _ours;
    private readonly Times _inside;
    private readonly Times _check;

    private MergeCell(
        string name, string place, EngineRun traced, double[] replay, double[] ideal, bool idealDirect, double[] codec, double[] peer,
        double[] ours, double[] inside, double[] check)
    {
        (_name, _place, _journaled, _ops, _idealDirect) = (name, place, traced.Result.Journaled, traced.Result.OpsTotal, idealDirect);
        (_replay, _ideal, _codec, _peer) = (Times.Of(replay), Times.Of(ideal), Times.Of(codec), Times.Of(peer));
        (_ours, _inside, _check) = (Times.Of(ours), Times.Of(inside), Times.Of(check));
    }

    internal static void PrintHead(TextWriter output) => output.WriteLine(
        "\nMerges: seconds, median [range]; ratios of medians, + where a target is reached, - where it is missed (README)\n\n"
        + "| COW | place | journaled | (a) replay | (b) ideal | (c) codec | peer | ours | ours inside | payload check | max(a,c) / ours | "
        + "b / ours | peer / ours |\n"
        + "|---|---|---|---|---|---|---|---|---|---|---|---|---|");

    internal static MergeCell Measure(CowVariant variant, Place place, bool cold, string cowPath, string newImage, BenchOptions options)
    {
        string snapuserd = options.Snapuserd!;
        EngineChoices choices = new();
        int runs = options.Runs, threads = Environment.ProcessorCount;

        IdealTrace ideal;
        List<CowOp> units = [];
        CowCompression algorithm;
        byte[] file = File.ReadAllBytes(cowPath);
        using (Devices devices = new(cowPath))
        using (CowFile cow = devices.ReadCow())
        {
            ideal = new IdealTrace(cow);
            algorithm = cow.Compression;
            for (int i = 0; i < cow.OpCount; i++)
                if (cow[i].HasData && !cow.IsRaw(cow[i])) units.Add(cow[i]);
        }

        // The first turn is not measured: it records the trace, chooses the kind of I/O for (b), and checks the results of the engine and
        // the peer.
        Trace trace = new();
        place.Restore(cold);
        EngineRun traced = EngineRun.Of(place.Base, place.Cow, choices, trace);
        place.Compare(newImage);
        bool direct = false;
        if (place.CanBeCold)
        {
            place.Restore(cold);
            double buffered = Ceilings.Ideal(place, ideal, direct: false);
            place.Restore(cold);
            direct = Ceilings.Ideal(place, ideal, direct: true) < buffered;
        }
        place.Restore(cold);
        AndroidPattern.Merge(place);
        place.Compare(newImage);

        double[] a = new double[runs], b = new double[runs], c = new double[runs], peer = new double[runs], ours = new double[runs],
            inside = new double[runs], check = new double[runs];
        Action<int>[] turns =
        [
            run => a[run] = Ceilings.Replay(place, trace, choices),
            run => b[run] = Ceilings.Ideal(place, ideal, direct),
            run => peer[run] = AndroidPattern.Merge(place),
            run =>
            {
                ProgramRun merge = ProgramRun.Run(snapuserd,
                    ["merge", "--cow", place.Cow, "--base", place.Base, "--no-verify-first", "--json", "--progress", "never"]);
                (ours[run], inside[run]) = (merge.Seconds, merge["seconds"]);
            },
        ];
        for (int run = 0; run < runs; run++)
        {
            // The order rotates, so that each measurement comes first in some runs.
            for (int i = 0; i < turns.Length; i++)
            {
                place.Restore(cold);
                turns[(run + i) % turns.Length](run);
            }
            c[run] = Ceilings.Codec(file, units, algorithm, threads);
            place.Cool(cold);
            check[run] = ProgramRun.Run(snapuserd, ["verify", "--cow", place.Cow, "--json", "--progress", "never"]).Seconds;
        }
        return new MergeCell(variant.Name, $"{place.Name} {(cold ? "cold" : "warm")}", traced, a, b, direct, c, peer, ours, inside, check);
    }

    internal void Print(TextWriter output, List<string> missed)
    {
        // Every mix has a few blocks that depend on one another, because some files occur twice. So below 1 % a COW counts as one without a
        // journal.
        bool plain = _journaled < 0.01 * _ops;
        double ceiling = Math.Max(_replay.Median, _codec.Median) / _ours.Median, ideal = _ideal.Median / _ours.Median,
            peer = _peer.Median / _ours.Median;
        double? idealTarget = plain ? IdealTarget : null;
        double? peerTarget = _place.StartsWith("tmpfs", StringComparison.Ordinal) ? 1.5
            : _place.StartsWith("loop", StringComparison.Ordinal) ? null : plain ? 3 : 2;
        output.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"| {_name} | {_place} | {100.0 * _journaled / Math.Max(1, _ops):0.0} % | {_replay.Text} | "
            + $"{_ideal.Text}{(_idealDirect ? " direct" : "")} | {_codec.Text} | {_peer.Text} | {_ours.Text} | {_inside.Text} | "
            + $"{_check.Median:0.000} | "
            + $"{Mark(ceiling, CeilingTarget, "max(a,c) / ours")} | {Mark(ideal, idealTarget, "b / ours")} | "
            + $"{Mark(peer, peerTarget, "peer / ours")} |"));

        string Mark(double ratio, double? target, string what)
        {
            string text = ratio.ToString("0.00", CultureInfo.InvariantCulture);
            if (target is not { } least) return text;
            if (ratio >= least) return text + " +";
            missed.Add(string.Create(CultureInfo.InvariantCulture, $"{_name} on {_place}: {what} is {ratio:0.00}, the target is {least}"));
            return text + " -";
        }
    }
}
