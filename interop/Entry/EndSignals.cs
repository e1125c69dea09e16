using System.Runtime.InteropServices;
using System.Threading;

namespace Snapuserd.Interop;

/// <summary>
/// SIGTERM, SIGINT and SIGHUP, handled by interop/Entry/signals.c. That handler needs neither a thread nor a pipe; the .NET runtime's
/// needs both, and it aborts the process if the system has no thread left.
/// </summary>
public static unsafe class EndSignals
{
    /// <summary>True if one of the signals has arrived since the first call of <see cref="Listen"/>.</summary>
    public static bool HaveCome => Volatile.Read(ref *snapuserd_stopped()) != 0;

    /// <summary>
    /// From now on the signals are stop requests and do not end the process, except that an ignored signal stays ignored. Each adds 1 to
    /// the eventfd <paramref name="wakeUp"/>; −1 for none. When this method has returned, no handler signals the previous eventfd. Returns
    /// 0 or a negative errno.
    /// </summary>
    public static int Listen(int wakeUp) => snapuserd_listen(wakeUp);

    /// <summary>
    /// From now on each of the signals also sends SIGTERM to <paramref name="child"/>. Sends it at once if one has already arrived. The
    /// caller must call this method with 0 before it reaps the child, because another process may get the PID afterwards.
    /// </summary>
    public static void Forward(int child) => snapuserd_forward(child);

    [DllImport("entry")]
    private static extern int snapuserd_listen(int wakeUp);

    [DllImport("entry")]
    private static extern void snapuserd_forward(int child);

    [DllImport("entry")]
    [SuppressGCTransition]
    private static extern int* snapuserd_stopped();
}
