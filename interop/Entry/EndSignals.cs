using System.Runtime.InteropServices;
using System.Threading;

namespace Snapuserd.Interop;

/// <summary>
/// SIGTERM, SIGINT and SIGHUP, which interop/Entry/signals.c takes: without a thread or a pipe, which a system may have no more of.
/// </summary>
public static unsafe class EndSignals
{
    /// <summary>One of them has come since <see cref="Listen"/>.</summary>
    public static bool HaveCome => Volatile.Read(ref *snapuserd_stopped()) != 0;

    /// <summary>
    /// They are requests from now on, not ends, and each adds 1 to the eventfd <paramref name="bell"/>; −1 for none. When this has returned,
    /// no handler rings the one before. Returns 0 or a negative errno.
    /// </summary>
    public static int Listen(int bell) => snapuserd_listen(bell);

    /// <summary>They end <paramref name="child"/> too, also those that have come already. 0 for none any more: before it is collected.</summary>
    public static void Forward(int child) => snapuserd_forward(child);

    [DllImport("entry")]
    private static extern int snapuserd_listen(int bell);

    [DllImport("entry")]
    private static extern void snapuserd_forward(int child);

    [DllImport("entry")]
    [SuppressGCTransition]
    private static extern int* snapuserd_stopped();
}
