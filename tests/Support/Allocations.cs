using System;

namespace Snapuserd.Tests.Support;

/// <summary>Managed memory that a piece of code takes.</summary>
public static class Allocations
{
    // A collection every few milliseconds would have to fall into each of these runs.
    private const int Runs = 20;

    /// <summary>
    /// Bytes that <paramref name="action"/> allocates on this thread: the least of several runs, the first of which is a rehearsal. A collection, which other tests cause
    /// at any time, takes what is left of a thread's buffer from it, and up to 8 KiB then count as allocated although nobody has them.
    /// </summary>
    public static long Least(Action action)
    {
        action();
        long least = long.MaxValue;
        for (int run = 0; run < Runs && least > 0; run++)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            action();
            least = Math.Min(least, GC.GetAllocatedBytesForCurrentThread() - before);
        }
        return least;
    }
}
