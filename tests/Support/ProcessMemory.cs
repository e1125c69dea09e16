using System;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Runtime;

namespace Snapuserd.Tests.Support;

/// <summary>Measures the memory of this process. Tests that use it run alone.</summary>
public static class ProcessMemory
{
    private const long Quiet = 64 << 20;

    /// <summary>Anonymous memory in use, in bytes. Memory that was mapped and never touched does not count.</summary>
    public static long Used => Of("RssAnon:");

    /// <summary>Writable memory in bytes, touched or not. Each thread adds a stack of 8 MiB.</summary>
    public static long Writable => Of("VmData:");

    /// <summary>
    /// Bytes by which <paramref name="measure"/> grows while <paramref name="action"/> runs the given number of times. Prevents garbage
    /// collections, and thus finalizers, meanwhile. Other threads of the test host take memory too, but not again and again: of growth
    /// that is more than little, the smallest of three measurements counts. A leak is in all of them.
    /// </summary>
    public static long Growth(Func<long> measure, int times, Action action)
    {
        const long little = 1 << 20;
        for (int i = 0; i < 3; i++) action();
        long smallest = GrowthOnce(measure, times, action);
        for (int again = 0; again < 2 && smallest > little; again++) smallest = Math.Min(smallest, GrowthOnce(measure, times, action));
        return smallest;
    }

    private static long GrowthOnce(Func<long> measure, int times, Action action)
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
        bool quiet = GC.TryStartNoGCRegion(Quiet);
        try
        {
            long before = measure();
            for (int i = 0; i < times; i++) action();
            return measure() - before;
        }
        finally
        {
            if (quiet && GCSettings.LatencyMode == GCLatencyMode.NoGCRegion) GC.EndNoGCRegion();
        }
    }

    private static long Of(string field)
    {
        string line = File.ReadLines("/proc/self/status").First(line => line.StartsWith(field, StringComparison.Ordinal));
        return long.Parse(line[field.Length..^"kB".Length], CultureInfo.InvariantCulture) * 1024;
    }
}
