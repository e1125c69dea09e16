using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>What the driver wants of the threads that fetch tags.</summary>
internal static class UblkThreads
{
    private const int LookMilliseconds = 1, EndMilliseconds = 5_000;

    /// <summary>
    /// Waits until the kernel's thread of that number has ended, which is a while after the runtime's has. START_USER_RECOVERY expects that the threads it has recorded are dead, and warns in the kernel's log otherwise.
    /// </summary>
    public static void WaitForEnd(int thread)
    {
        int process = Libc.GetPid();
        for (int wait = 0; thread > 0 && wait < EndMilliseconds && Libc.TgKill(process, thread, 0) == 0; wait += LookMilliseconds) _ = Libc.Poll(default, LookMilliseconds);
    }
}
