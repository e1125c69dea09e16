using System;
using System.Collections.Generic;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Simulator;

/// <summary>The arenas of one thread, one of each size. They are reused, because mapping an arena takes longer than most runs.</summary>
public sealed class Arenas : IDisposable
{
    private readonly Dictionary<(int Bytes, int Page), Arena> _bySize = [];

    /// <summary>The arena with the given size and page size in bytes. Each run clears it first (<see cref="SimMerge"/>).</summary>
    public Arena this[int bytes, int page]
    {
        get
        {
            if (!_bySize.TryGetValue((bytes, page), out Arena? arena))
                _bySize.Add((bytes, page), arena = new Arena(bytes, new SimulatedPages(page)));
            return arena;
        }
    }

    /// <summary>The arena that a case needs.</summary>
    public Arena this[MergeCase merge] => this[merge.ArenaBytes, merge.SystemPage];

    public void Dispose()
    {
        foreach (Arena arena in _bySize.Values) arena.Dispose();
    }
}

/// <summary>Distributes work over as many dedicated threads as the machine has processors, each with its own arenas.</summary>
public static class Crew
{
    /// <summary>
    /// Calls <paramref name="work"/> for every item until the items or the <paramref name="seconds"/> run out. The first exception ends the
    /// work of all threads and is thrown. Returns how many items were begun. The assignment of items to threads is undefined: an item's
    /// outcome must not depend on it.
    /// </summary>
    public static long Share<T>(IEnumerable<T> items, Action<T, Arenas> work, double seconds = double.PositiveInfinity)
    {
        Tally clock = new();
        using IEnumerator<T> source = items.GetEnumerator();
        object turn = new();
        Exception? failed = null;
        long begun = 0;

        void Work()
        {
            using Arenas arenas = new();
            while (true)
            {
                try
                {
                    T item;
                    lock (turn)
                    {
                        if (failed is not null || clock.Seconds >= seconds || !source.MoveNext()) return;
                        item = source.Current;
                        begun++;
                    }
                    work(item, arenas);
                }
                catch (Exception e)
                {
                    lock (turn) failed ??= e;
                    return;
                }
            }
        }

        Thread[] crew = new Thread[Environment.ProcessorCount];
        for (int i = 0; i < crew.Length; i++) (crew[i] = new Thread(Work)).Start();
        foreach (Thread one in crew) one.Join();
        return failed is null ? begun : throw failed;
    }
}
