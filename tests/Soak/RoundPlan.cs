using System;
using System.Globalization;
using System.Linq;
using Snapuserd.Tests.Simulator;

namespace Snapuserd.Tests.Soak;

/// <summary>The kind of storage of a COW or a base.</summary>
internal enum Place
{
    Tmpfs,
    Ext4,
    Xfs,
    /// <summary>A loop device over a file in memory.</summary>
    Loop,
    /// <summary>A loop device with a volatile write cache (<see cref="Support.CutDisk"/>).</summary>
    CutDisk,
}

/// <summary>How a merge is interrupted.</summary>
internal enum Interruption
{
    /// <summary>SIGKILL at a system call.</summary>
    Kill,
    /// <summary>SIGTERM at a system call.</summary>
    Term,
    /// <summary>SIGKILL at a system call, followed by the loss of all unflushed data.</summary>
    PowerCut,
    /// <summary>The disks lose power at a system call, and the program continues without them.</summary>
    DisksVanish,
}

/// <summary>The program that completes the merge.</summary>
internal enum Finisher
{
    Merge,
    Serve,
    /// <summary>The daemon, which runs during all rounds.</summary>
    Daemon,
}

/// <summary>Options of a merge.</summary>
internal sealed record MergeWay(string Io, int QueueDepth, int MemoryMiB, int Threads, bool VerifyFirst, int RateMiB)
{
    public static MergeWay By(Chance chance) => new(
        chance.Percent(50) ? "uring" : "sync", 1 << chance.Below(8), 8 << chance.Below(3), 1 + chance.Below(4), chance.Percent(60),
            chance.Percent(10) ? 32 : 0);

    /// <summary>The options for both `merge` and `serve`.</summary>
    public string[] Arguments =>
    [
        "--io", Io, "--queue-depth", Text(QueueDepth), "--memory", $"{MemoryMiB}M", "--threads", Text(Threads), .. VerifyFirst
            ? Array.Empty<string>() : ["--no-verify-first"],
    ];

    /// <summary>The options for `merge` only.</summary>
    public string[] Rate => RateMiB > 0 ? ["--rate", $"{RateMiB}M"] : [];

    internal static string Text(int number) => number.ToString(CultureInfo.InvariantCulture);
}

/// <summary>Options of `create`, and the number of the system call at which a first attempt is killed (0: none).</summary>
internal sealed record CreateWay(int Format, string Compression, int BlockFactorKiB, int ClusterOps, bool Xor, int Threads,
    bool Check, int KilledAt)
{
    public static CreateWay By(Chance chance)
    {
        int format = chance.Percent(30) ? 2 : 3;
        string[] codecs = ["none", "gz", "brotli", "lz4", "zstd", "gz,9", "zstd,1", "brotli,3"];
        int[] clusters = [0, 2, 200, 1024];
        return new CreateWay(format, codecs[chance.Below(codecs.Length)], 4 << chance.Below(7), clusters[chance.Below(clusters.Length)],
            chance.Percent(60), 1 + chance.Below(3), chance.Percent(70),
                chance.Percent(25) ? 1 + chance.Below(1 << (3 + chance.Below(6))) : 0);
    }

    public string[] Arguments =>
    [
        "--format", MergeWay.Text(Format), "--compression", Compression, "--threads", MergeWay.Text(Threads),
        .. Format == 3 ? new[] { "--block-factor", $"{BlockFactorKiB}k" } : ["--cluster-ops", MergeWay.Text(ClusterOps)],
        .. Xor ? new[] { "--xor" } : [],
        .. Check ? Array.Empty<string>() : ["--no-check"],
    ];
}

/// <summary>
/// An interruption of a merge, or of a server that merges (<paramref name="Serving"/>), after the share <paramref name="After"/> of its
/// system calls. <paramref name="Look"/>: the image is read afterwards.
/// </summary>
internal sealed record Break(Interruption How, bool Serving, double After, bool Look, MergeWay Way);

/// <summary>
/// One update: created by `create` or by the tests' own writer, staged on the COW's device, interrupted, and merged to the end.
/// <paramref name="StagedTwice"/> is the step of a first staging attempt after which the power fails; 0 for no such attempt.
/// <paramref name="Held"/>: the daemon's merge is paused before it begins.
/// </summary>
internal sealed record UpdatePlan(
    ulong Seed, CreateWay? Create, int StagedTwice, bool Marker, bool Verify, bool Extract, Break[] Breaks, Finisher Finisher, MergeWay Way,
        bool CutAfter, bool Held);

/// <summary>All random choices of a round. They depend only on its seed.</summary>
internal sealed record RoundPlan(ulong Seed, int Blocks, Place Cow, Place Base, UpdatePlan[] Updates)
{
    public static RoundPlan From(ulong seed)
    {
        Chance chance = new(Chance.Mix(seed));
        int blocks = 64 + chance.Below(1 << (6 + chance.Below(6)));
        Place cow = (Place)chance.Below(5), target = (Place)chance.Below(5);
        // Power cuts are possible only if both devices support them. Make that so in at least half of the rounds.
        if (chance.Percent(50))
        {
            Place[] cuttable = [Place.Ext4, Place.Xfs, Place.CutDisk, Place.CutDisk];
            (cow, target) = (cuttable[chance.Below(4)], cuttable[chance.Below(4)]);
        }
        bool cuts = LosesCache(cow) && LosesCache(target);
        UpdatePlan[] updates = new UpdatePlan[1 + chance.Below(3)];
        for (int i = 0; i < updates.Length; i++) updates[i] = Update(new Chance(chance.Next()), cow, target, cuts);
        return new RoundPlan(seed, blocks, cow, target, updates);
    }

    /// <summary>The seed of the next round. It has only 32 bits, so that it is easy to type.</summary>
    public static ulong Next(ulong seed) => Chance.Mix(seed + 0x9e3779b97f4a7c15) >> 32;

    /// <summary>True if unflushed data on this storage can be lost.</summary>
    public static bool LosesCache(Place place) => place is Place.Ext4 or Place.Xfs or Place.CutDisk;

    /// <summary>True if the storage is a file, which can have a marker beside it.</summary>
    public static bool IsFile(Place place) => place is Place.Tmpfs or Place.Ext4 or Place.Xfs;

    public override string ToString() =>
        $"seed {Seed}: {Blocks} blocks, COW on {Cow}, base on {Base}; {string.Join("; ", Updates.Select(Text))}";

    private static string Text(UpdatePlan update)
    {
        string made = update.Create is { } create ? string.Join(' ', create.Arguments) : "own writer";
        string breaks = string.Concat(update.Breaks.Select(one =>
            $"{one.How}{(one.Serving ? " while served" : "")} at {one.After:F2} ({one.Way.Io}), "));
        return $"{made}, {breaks}then {update.Finisher} ({update.Way.Io})";
    }

    private static UpdatePlan Update(Chance chance, Place cow, Place target, bool cuts)
    {
        Break[] breaks = new Break[chance.Below(4)];
        for (int i = 0; i < breaks.Length; i++)
        {
            Interruption how = (Interruption)chance.Below(4);
            if (cuts && chance.Percent(50)) how = Interruption.PowerCut;
            if (how == Interruption.DisksVanish && cow != Place.CutDisk && target != Place.CutDisk) how = Interruption.PowerCut;
            // As in a real machine, the power must fail for both disks; if that is impossible, kill the program instead.
            if (how is Interruption.PowerCut or Interruption.DisksVanish && !cuts) how = Interruption.Kill;
            double after = chance.Below(1000) / 1000.0;
            // Prefer the last two thirds of the calls, in which the merge writes.
            if (chance.Percent(60)) after = (1 + (2 * after)) / 3;
            breaks[i] = new Break(how, how != Interruption.Term && how != Interruption.DisksVanish && chance.Percent(35), after,
                chance.Percent(50), MergeWay.By(chance));
        }
        return new UpdatePlan(chance.Next(), chance.Percent(60) ? CreateWay.By(chance) : null, chance.Percent(30) ? 1 + chance.Below(2)
            : 0, IsFile(cow) && chance.Percent(40),
            chance.Percent(60), chance.Percent(25), breaks, (Finisher)chance.Below(3), MergeWay.By(chance), cuts && chance.Percent(70),
            chance.Percent(40));
    }
}
