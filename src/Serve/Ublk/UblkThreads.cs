using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>What the driver requires of the threads that fetch tags.</summary>
internal static class UblkThreads
{
    private const int LookMilliseconds = 1, EndMilliseconds = 5_000;

    /// <summary>
    /// Waits until the kernel thread of that number has ended, which happens some time after the managed thread ends. START_USER_RECOVERY
    /// expects the recorded threads to be dead, and otherwise warns in the kernel's log.
    /// </summary>
    public static void WaitForEnd(int thread)
    {
        int process = Libc.GetPid();
        for (int wait = 0; thread > 0 && wait < EndMilliseconds && Libc.TgKill(process, thread, 0) == 0; wait += LookMilliseconds)
            Libc.Sleep(LookMilliseconds);
    }
}
