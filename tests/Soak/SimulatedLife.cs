using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Tests.Simulator;

namespace Snapuserd.Tests.Soak;

/// <summary>
/// The life of a machine with simulated disks, determined by a seed: several successive updates. Each is staged over the previous one on
/// the COW's device. The real engine merges it, interrupted by power cuts, kills and stops.
/// </summary>
internal static class SimulatedLife
{
    /// <summary>Simulates up to three updates; throws at the first wrong block.</summary>
    public static void Live(ulong seed, Arenas arenas, Totals totals)
    {
        Chance chance = new(Chance.Mix(seed ^ 0x51));
        byte[]? image = null;
        SimDisk? target = null;
        byte[] cowDevice = [];
        for (int updates = 1 + chance.Below(3), update = 0; update < updates; update++)
        {
            MergeCase merge;
            do merge = new RandomUpdate(chance, image).ToCase($"simulated update {update}");
            while (merge.MayBeLost);
            byte[] fresh = merge.Cow.ToArray();
            byte[] staged = new byte[Math.Max(fresh.Length, cowDevice.Length)];
            cowDevice.CopyTo(staged, 0);
            fresh.CopyTo(staged, 0);
            // The half-staged state: the beginning is still zero, because it is zeroed first and written last.
            byte[] half = (byte[])staged.Clone();
            half.AsSpan(0, Math.Min(4096, half.Length)).Clear();
            SimDisk[] disks = (merge with { Cow = new Image(staged) }).Disks();
            if (target is not null) disks[1] = target;
            if (chance.Percent(30)) Refused(merge, [new SimDisk(new Image(half)), .. disks[1..]], chance, arenas);
            RandomRuns.Leg done = Merge(merge, disks, chance, arenas, totals);
            image = merge.Target.ToArray();
            target = done.Disks[1].AfterDeath(_ => false);
            cowDevice = done.Disks[0].Durable.ToArray();
        }
    }

    private static RandomRuns.Leg Merge(MergeCase merge, SimDisk[] disks, Chance chance, Arenas arenas, Totals totals)
    {
        int legs = chance.Below(5), steps = 0, count = 0;
        string history = "start";
        try
        {
            for (int leg = 0; ; leg++)
            {
                merge = RandomRuns.OtherWays(merge, chance);
                RandomRuns.Leg run = new(merge with
                {
                    Readers = chance.Percent(50),
                    Paced = chance.Percent(30),
                    SharesMemory = chance.Percent(60)
                }, chance, arenas, disks, count);
                int wrong = run.FirstWrongPage();
                if (wrong >= 0) throw new SoakException($"block {wrong} of the merged image, read without merging, is wrong");
                run.Merge(leg > 0 && leg < legs && chance.Percent(25) ? 1 + chance.Below(steps) : 0);
                if (leg > 0) totals.Resumes++;
                if (leg >= legs && !run.Stopped) return run;
                steps = Math.Max(run.Steps, 1);
                // A merge without work to do takes no step and makes no new state.
                if (run.Left is not { } left) return run;
                disks = left;
                count = SimMerge.DurableCount(disks[0]);
                history += $", {run.How}";
                if (run.How.Contains("cut", StringComparison.Ordinal)) totals.PowerCuts++;
                else if (run.How.StartsWith("death", StringComparison.Ordinal)) totals.Kills++;
            }
        }
        catch (Exception e)
        {
            throw new SoakException($"{merge.Name}, history: {history}: {e.Message}", e);
        }
    }

    /// <summary>Checks that a COW without its beginning is refused, and that nothing is written.</summary>
    private static void Refused(MergeCase merge, SimDisk[] disks, Chance chance, Arenas arenas)
    {
        try
        {
            SimMerge.Run(merge, disks, arenas[merge], chance.Next(), () =>
                throw new SoakException($"{merge.Name}: a half-staged COW is merged"));
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.CowCorrupt)
        {
            if (disks[1].Cache.FirstDifference(merge.Base) < 0) return;
        }
        throw new SoakException($"{merge.Name}: a half-staged COW is not refused, or the base has changed");
    }
}
