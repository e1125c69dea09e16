using Snapuserd.Interop;

namespace Snapuserd.Cli;

/// <summary>
/// Descriptors 0 to 2 under an init that started us with some of them closed. A device opened later would get the free number, and the
/// next message would be written into the device; so something harmless takes every free one first.
/// </summary>
internal static class StandardDescriptors
{
    /// <summary>Takes every number below 3 that is free. Returns a mask with the bit of each that was.</summary>
    internal static int Reserve()
    {
        int wereClosed = 0;
        for (int fd = 0; fd <= 2; fd++)
        {
            if (Libc.Fcntl(fd, Libc.F_GETFD, 0) != -Errno.EBADF) continue;
            wereClosed |= 1 << fd;
            // The lowest free number is this one. Without a /dev an event counter does: it needs no file, and nothing is ever written to it.
            if (Libc.OpenAt(Libc.AT_FDCWD, "/dev/null", Libc.O_RDWR) < 0) _ = Libc.EventFd(0, Libc.EFD_NONBLOCK);
        }
        return wereClosed;
    }
}
