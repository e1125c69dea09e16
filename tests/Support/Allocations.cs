using System;

namespace Snapuserd.Tests.Support;

/// <summary>Measures the managed memory that a piece of code allocates.</summary>
public static class Allocations
{
    // With this many runs, at least one is not disturbed by a garbage collection, even with a collection every few milliseconds.
    private const int Runs = 20;

    /// <summary>
    /// Bytes that <paramref name="action"/> allocates on this thread: the minimum of several runs, after one warm-up run. Other tests can
    /// cause a garbage collection at any time. It discards the rest of the thread's allocation buffer, so up to 8 KiB count as allocated
    /// although no object uses them.
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
