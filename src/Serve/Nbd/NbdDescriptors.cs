using System;
using System.Threading;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>
/// Shares the descriptors that RLIMIT_NOFILE allows among the NBD servers of this process. The soft limit, often 1024, is raised towards the hard one as far as they need.
/// </summary>
internal static class NbdDescriptors
{
    /// <summary>Descriptors for all else: devices, rings, control sockets and their clients, and some more.</summary>
    private const int Others = 256;

    private static readonly Lock s_gate = new();
    private static int s_promised;

    /// <summary>Promises a server up to <paramref name="wanted"/> descriptors, at least one, and returns how many.</summary>
    public static int Promise(int wanted)
    {
        lock (s_gate)
        {
            int promised = Math.Clamp(Limit((ulong)s_promised + (ulong)wanted + Others) - s_promised, 1, wanted);
            s_promised += promised;
            return promised;
        }
    }

    /// <summary>Takes a promise back.</summary>
    public static void Release(int promised)
    {
        lock (s_gate) s_promised -= promised;
    }

    /// <summary>Raises the limit to <paramref name="needed"/> if that can be done, and returns how many descriptors servers may have.</summary>
    private static int Limit(ulong needed)
    {
        if (Libc.GetLimit(Libc.RLIMIT_NOFILE, out ResourceLimit limit) < 0) return int.MaxValue;
        if (limit.Current < needed && limit.Current < limit.Maximum)
        {
            ResourceLimit raised = limit;
            raised.Current = Math.Min(needed, limit.Maximum);
            if (Libc.SetLimit(Libc.RLIMIT_NOFILE, raised) >= 0) limit = raised;
        }
        // With a limit this small, half of it: the rest of the process needs some as well.
        ulong others = Math.Min(Others, limit.Current / 2);
        return (int)Math.Min(limit.Current - others, int.MaxValue);
    }
}
