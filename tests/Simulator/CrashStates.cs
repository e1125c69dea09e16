using System;
using System.Collections.Generic;

namespace Snapuserd.Tests.Simulator;

/// <summary>The states that a crash leaves on devices without requests in flight: a process death leaves exactly the cache.</summary>
public static class CrashStates
{
    /// <summary>The process dies: the cache survives, and a later power cut can still lose what was not flushed.</summary>
    public static SimDisk[] Death(SimDisk[] disks) => Array.ConvertAll(disks, disk => disk.AfterDeath(_ => true));

    /// <summary>
    /// The power fails. Yields every combination of versions of the pending pages, or of their sectors if <paramref name="grain"/> is 512,
    /// if there are at most <paramref name="most"/>. Otherwise yields nothing kept, everything kept, and a sample of
    /// <paramref name="most"/>.
    /// </summary>
    public static IEnumerable<SimDisk[]> PowerCuts(SimDisk[] disks, int grain, int most, Chance chance)
    {
        List<Choice> choices = Choices(disks, grain);
        long combinations = 1;
        foreach (Choice choice in choices) combinations = Math.Min(combinations * choice.Versions.Count, 1L << 40);
        if (combinations <= most)
        {
            for (long number = 0; number < combinations; number++)
            {
                long rest = number;
                yield return Cut(disks, choices, choice =>
                {
                    int pick = (int)(rest % choice.Versions.Count);
                    rest /= choice.Versions.Count;
                    return pick;
                });
            }
            yield break;
        }
        yield return Cut(disks, choices, _ => 0);
        yield return Cut(disks, choices, choice => choice.Versions.Count - 1);
        for (int i = 0; i < most; i++) yield return PowerCut(disks, choices, chance);
    }

    /// <summary>One random combination.</summary>
    public static SimDisk[] PowerCut(SimDisk[] disks, int grain, Chance chance) => PowerCut(disks, Choices(disks, grain), chance);

    private static SimDisk[] PowerCut(SimDisk[] disks, List<Choice> choices, Chance chance)
    {
        int percent = chance.Below(101);
        return Cut(disks, choices, choice => chance.Percent(percent) ? 1 + chance.Below(choice.Versions.Count - 1) : 0);
    }

    /// <summary>The versions of a page or sector that may be on the medium; the first is the durable one.</summary>
    private readonly record struct Choice(int Disk, int Page, int Sector, List<Page> Versions);

    private static List<Choice> Choices(SimDisk[] disks, int grain)
    {
        List<Choice> choices = [];
        int sectors = grain == Page.Size ? 1 : Page.Sectors, length = Page.Size / sectors;
        for (int disk = 0; disk < disks.Length; disk++)
        {
            SortedDictionary<int, List<Page>> byPage = [];
            foreach (PendingPage pending in disks[disk].Pending)
            {
                if (!byPage.TryGetValue(pending.Number, out List<Page>? versions))
                    byPage.Add(pending.Number, versions = [disks[disk].Durable[pending.Number]]);
                versions.Add(pending.Contents);
            }
            foreach ((int page, List<Page> versions) in byPage)
            {
                for (int sector = 0; sector < sectors; sector++)
                {
                    List<Page> different = [];
                    foreach (Page version in versions)
                        if (!different.Exists(other =>
                            other.Bytes.Slice(sector * length, length).SequenceEqual(version.Bytes.Slice(sector * length, length))))
                            different.Add(version);
                    if (different.Count > 1) choices.Add(new Choice(disk, page, sectors == 1 ? -1 : sector, different));
                }
            }
        }
        return choices;
    }

    private static SimDisk[] Cut(SimDisk[] disks, List<Choice> choices, Func<Choice, int> pick)
    {
        Image[] images = Array.ConvertAll(disks, disk => disk.Durable.Copy());
        Span<byte> mixed = stackalloc byte[Page.Size];
        foreach (Choice choice in choices)
        {
            int version = pick(choice);
            if (version == 0) continue;
            Page contents = choice.Versions[version];
            if (choice.Sector >= 0)
            {
                images[choice.Disk][choice.Page].Bytes.CopyTo(mixed);
                contents.SectorBytes(choice.Sector).CopyTo(mixed[(choice.Sector * Page.Sector)..]);
                contents = new Page(mixed);
            }
            images[choice.Disk].Set(choice.Page, contents);
        }
        return Array.ConvertAll(images, image => new SimDisk(image));
    }
}
