using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>Recognizes results of system calls that must be repeated.</summary>
public static class Retry
{
    /// <summary>
    /// Largest number of repetitions of a call that fails with EAGAIN. After them, a queue makes the synchronous call. EAGAIN from a ring
    /// means that the block layer is out of requests. A few waits give it time; the synchronous call sleeps until a request is free. With
    /// too small a number, the only cost is a blocking call.
    /// </summary>
    public const int AttemptsBeforeSync = 16;

    /// <summary>
    /// True if the call must be repeated: it was interrupted (EINTR), or the file system was temporarily short of a resource (EAGAIN).
    /// <paramref name="tries"/> counts EAGAIN, at most <see cref="AttemptsBeforeSync"/> times.
    /// </summary>
    public static bool Again(nint result, ref int tries) => Interrupted(result)
        || (result == -Errno.EAGAIN && ++tries <= AttemptsBeforeSync);

    /// <summary>True if a signal interrupted the call (EINTR) before it did anything, so that it can be repeated.</summary>
    public static bool Interrupted(nint result) => result == -Errno.EINTR;

    /// <summary>openat(2), repeated while it is interrupted. A descriptor or a negative errno.</summary>
    public static int OpenAt(int folder, string path, int flags, uint mode = 0)
    {
        int fd;
        do fd = Libc.OpenAt(folder, path, flags, mode);
        while (Interrupted(fd));
        return fd;
    }
}
