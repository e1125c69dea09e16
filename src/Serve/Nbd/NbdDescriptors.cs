using System;
using System.Threading;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>
/// Distributes the descriptors that RLIMIT_NOFILE allows among the NBD servers of this process. The soft limit, often 1024, is raised as
/// far as the servers need, but at most to the hard limit.
/// </summary>
internal static class NbdDescriptors
{
    /// <summary>The number of descriptors that are reserved for devices, rings, control sockets and their clients.</summary>
    private const int Others = 256;

    private static readonly Lock s_gate = new();
    private static int s_promised;

    /// <summary>Reserves up to <paramref name="wanted"/> descriptors for a server, but at least one, and returns their number.</summary>
    public static int Promise(int wanted)
    {
        lock (s_gate)
        {
            int promised = Share(Raise((ulong)s_promised + (ulong)wanted + Others), s_promised, wanted);
            s_promised += promised;
            return promised;
        }
    }

    /// <summary>Releases a reservation.</summary>
    public static void Release(int promised)
    {
        lock (s_gate) s_promised -= promised;
    }

    /// <summary>
    /// The number of descriptors that a server gets if it wants <paramref name="wanted"/> and <paramref name="promised"/> are reserved for
    /// other servers. If the limit is small, half of it is kept for the rest of the process.
    /// </summary>
    internal static int Share(ulong limit, int promised, int wanted)
    {
        ulong free = limit - Math.Min(Others, limit / 2);
        return free <= (ulong)promised ? 1 : (int)Math.Max(1, Math.Min((ulong)wanted, free - (ulong)promised));
    }

    /// <summary>Raises the soft limit to <paramref name="needed"/>, or as far as possible, and returns it.</summary>
    private static ulong Raise(ulong needed)
    {
        if (Libc.GetLimit(Libc.RLIMIT_NOFILE, out ResourceLimit limit) < 0) return needed;
        if (limit.Current >= needed || limit.Current >= limit.Maximum) return limit.Current;
        ResourceLimit raised = limit;
        raised.Current = Math.Min(needed, limit.Maximum);
        return Libc.SetLimit(Libc.RLIMIT_NOFILE, raised) >= 0 ? raised.Current : limit.Current;
    }
}
