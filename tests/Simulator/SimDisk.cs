using System;
using System.Collections.Generic;

namespace Snapuserd.Tests.Simulator;

/// <summary>A page on its way to the medium: written to the device, not yet covered by a completed flush.</summary>
public sealed record PendingPage(int Number, Page Contents, long Write)
{
    /// <summary>The request has not completed: if the process dies, the write may or may not reach the cache.</summary>
    public bool InFlight { get; set; } = true;

    /// <summary>Number of the queue event at which its completion was reaped; 0 for a page that an earlier run left.</summary>
    public long Reaped { get; set; }
}

/// <summary>
/// A device with a volatile cache. Readers see <see cref="Cache"/>; a power cut leaves <see cref="Durable"/> plus any subset of
/// <see cref="Pending"/>, sector by sector. Data that a failed flush dropped is only in the cache.
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

    /// <summary>
    /// A device after a flush that failed and dropped its data: readers see <paramref name="cache"/>, and it is never written back.
    /// </summary>
    public static SimDisk AfterDroppedFlush(Image durable, Image cache) => new(durable.Copy(), cache.Copy(), []);

    /// <summary>
    /// A device with the durable contents <paramref name="durable"/>, to which another program wrote <paramref name="cache"/> without a
    /// flush.
    /// </summary>
    public static SimDisk Unflushed(Image durable, Image cache)
    {
        SimDisk disk = new(durable.Copy(), cache.Copy(), []);
        for (int page = 0; page < cache.Pages; page++)
        {
            if (cache[page].Bytes.SequenceEqual(durable[page].Bytes)) continue;
            disk.Pending.Add(new PendingPage(page, cache[page], 0) { InFlight = false });
        }
        return disk;
    }

    public Image Durable { get; }
    public Image Cache { get; }
    public List<PendingPage> Pending { get; }

    /// <summary>Incremented with every change of the states that a power cut could leave.</summary>
    public int Changes { get; set; }

    /// <summary>
    /// Hash of everything that a later run could notice: the durable contents, the visible contents, and the other contents that each page
    /// could have after a power cut. Independent of the order of the writes.
    /// </summary>
    public ulong Hash
    {
        get
        {
            ulong hash = (Durable.Hash * 3) + (Cache.Hash * 5);
            for (int i = 0; i < Pending.Count; i++)
            {
                PendingPage page = Pending[i];
                bool known = page.Contents.Hash == Durable[page.Number].Hash;
                for (int earlier = 0; earlier < i && !known; earlier++)
                    known = Pending[earlier].Number == page.Number && Pending[earlier].Contents.Hash == page.Contents.Hash;
                if (!known) hash += PendingWeight(page);
            }
            return hash;
        }
    }

    /// <summary>A pending page's contribution to the hash of its disk.</summary>
    public static ulong PendingWeight(PendingPage page) => Chance.Mix(Image.Weight(page.Number, page.Contents) ^ 0x6a09e667f3bcc909);

    /// <summary>Completes a flush that was queued at event <paramref name="queued"/>: every write reaped before that is durable.</summary>
    public void Flush(long queued)
    {
        foreach (PendingPage page in Pending)
            if (!page.InFlight && page.Reaped <= queued) Durable.Set(page.Number, page.Contents);
        Pending.RemoveAll(page => !page.InFlight && page.Reaped <= queued);
        Changes++;
    }

    /// <summary>
    /// A flush that fails as Linux permits: the data is marked clean, stays visible, and never reaches the medium by itself.
    /// </summary>
    public void DropDirty()
    {
        Pending.RemoveAll(page => !page.InFlight);
        Changes++;
    }

    /// <summary>The process dies: of the requests in flight, the pages that <paramref name="lands"/> selects reach the cache.</summary>
    public SimDisk AfterDeath(Func<PendingPage, bool> lands)
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
            pending.Add(new PendingPage(page.Number, page.Contents, 0) { InFlight = false });
        }
        return new SimDisk(Durable.Copy(), cache, pending);
    }
}
