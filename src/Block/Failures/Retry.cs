using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>Which results of a read or write call are not a failure yet.</summary>
public static class Retry
{
    /// <summary>
    /// How often a call that fails with EAGAIN is repeated; a queue then makes the synchronous call. EAGAIN from a ring means that the block
    /// layer is out of requests. A few waits give it time; the synchronous call sleeps until a request is free. Too few attempts cost one
    /// blocking call.
    /// </summary>
    public const int AttemptsBeforePlain = 16;

    /// <summary>
    /// True if the call must be repeated: it was interrupted (EINTR), or the file system was temporarily short of a resource (EAGAIN).
    /// <paramref name="tries"/> counts EAGAIN, at most <see cref="AttemptsBeforePlain"/> times.
    /// </summary>
    public static bool Again(nint result, ref int tries) => result == -Errno.EINTR || (result == -Errno.EAGAIN && ++tries <= AttemptsBeforePlain);
}
