using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>Which answers to a plain read or write are no failure yet.</summary>
public static class Retry
{
    /// <summary>
    /// The same call is to be made again: it was interrupted (EINTR), or the file system was short of something (EAGAIN) and has been asked no more than
    /// <see cref="Transfers.AttemptsBeforePlain"/> times, which <paramref name="tries"/> counts.
    /// </summary>
    public static bool Again(nint result, ref int tries) => result == -Errno.EINTR || (result == -Errno.EAGAIN && ++tries <= Transfers.AttemptsBeforePlain);
}
