using System;
using System.Collections.Generic;
using System.Threading;
using Snapuserd.Block;

namespace Snapuserd.Tests.Simulator;

/// <summary>As many own threads as the machine has processors, each with an arena of its own, that share out work.</summary>
public static class Crew
{
    /// <summary>Memory of each thread, in bytes: what the simulator gives an engine.</summary>
    public const int ArenaBytes = 256 << 10;

    /// <summary>
    /// Does <paramref name="work"/> for every item until the items or <paramref name="seconds"/> are over. The first exception ends all
    /// and is thrown. Returns how many items were begun. Which thread does what is open: an item's outcome must not depend on it.
    /// </summary>
    public static long Share<T>(IEnumerable<T> items, Action<T, Arena> work, double seconds = double.PositiveInfinity)
    {
        Tally clock = new();
        using IEnumerator<T> source = items.GetEnumerator();
        object turn = new();
        Exception? failed = null;
        long begun = 0;

        void Work()
        {
            using Arena arena = new(ArenaBytes);
            while (true)
            {
                T item;
                lock (turn)
                {
                    if (failed is not null || clock.Seconds >= seconds || !source.MoveNext()) return;
                    item = source.Current;
                    begun++;
                }
                try
                {
                    work(item, arena);
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
