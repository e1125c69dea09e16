using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>Waits for the kernel's end of threads that fetch tags.</summary>
internal static class UblkThreads
{
    private const int LookMilliseconds = 1, EndMilliseconds = 5_000;

    /// <summary>
    /// Waits until the thread with that kernel ID (TID) has ended, which happens some time after the managed thread ends.
    /// START_USER_RECOVERY warns in the kernel's log if a recorded thread is not dead.
    /// </summary>
    public static void WaitForEnd(int thread)
    {
        int process = Libc.GetPid();
        for (int wait = 0; thread > 0 && wait < EndMilliseconds && Libc.TgKill(process, thread, 0) == 0; wait += LookMilliseconds)
            Libc.Sleep(LookMilliseconds);
    }
}
