using System.Collections.Generic;

namespace Snapuserd.Tests.Simulator;

/// <summary>A page on its way to the medium: written to the device, not yet covered by a completed flush.</summary>
public sealed record PendingPage(int Number, Page Contents, long Write)
{
    /// <summary>The request has not completed: a dying process may or may not get it into the cache.</summary>
    public bool InFlight { get; set; } = true;
}

/// <summary>
/// A device with a volatile cache. Readers see <see cref="Cache"/>; a power cut leaves <see cref="Durable"/> with any subset of what is
/// <see cref="Pending"/> on top, sector by sector. What a failed flush dropped is in the cache and nowhere else.
/// </summary>
public sealed class SimDisk
{
    public SimDisk(Image contents) : this(contents.Copy(), contents.Copy(), []) { }

    private SimDisk(Image durable, Image cache, List<PendingPage> pending)
    {
        Durable = durable;
        Cache = cache;
        Pending = pending;
    }

    /// <summary>A device after a flush that failed and dropped its data: <paramref name="cache"/> is what readers see and nothing will write back.</summary>
    public static SimDisk AfterDroppedFlush(Image durable, Image cache) => new(durable.Copy(), cache.Copy(), []);

    public Image Durable { get; }
    public Image Cache { get; }
    public List<PendingPage> Pending { get; }

    /// <summary>Hash of everything a later run could notice.</summary>
    public ulong Hash
    {
        get
        {
            ulong hash = (Durable.Hash * 3) + (Cache.Hash * 5);
            foreach (PendingPage page in Pending) hash = Chance.Mix(hash + Image.Weight(page.Number, page.Contents));
            return hash;
        }
    }

    public void Flush(HashSet<long> writes)
    {
        foreach (PendingPage page in Pending)
            if (writes.Contains(page.Write)) Durable.Set(page.Number, page.Contents);
        Pending.RemoveAll(page => writes.Contains(page.Write));
    }

    /// <summary>A flush that fails as Linux lets it: the data is marked clean, stays visible, and never reaches the medium by itself.</summary>
    public void DropDirty() => Pending.RemoveAll(page => !page.InFlight);

    /// <summary>The process dies: of the requests in flight, those pages for which <paramref name="lands"/> says so get into the cache.</summary>
    public SimDisk AfterDeath(System.Func<PendingPage, bool> lands)
    {
        Image cache = Cache.Copy();
        List<PendingPage> pending = [];
        foreach (PendingPage page in Pending)
        {
            if (page.InFlight)
            {
                if (!lands(page)) continue;
                cache.Set(page.Number, page.Contents);
            }
            pending.Add(page with { InFlight = false, Write = 0 });
        }
        return new SimDisk(Durable.Copy(), cache, pending);
    }
}
