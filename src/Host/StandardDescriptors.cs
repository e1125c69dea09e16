using Snapuserd.Interop;

namespace Snapuserd.Host;

/// <summary>
/// Protects descriptors 0 to 2 if init started this process with some of them closed. A device opened later would get the free number, and
/// the next message would be written into the device. So a harmless file takes every free number first.
/// </summary>
public static class StandardDescriptors
{
    /// <summary>Fills every free number below 3. Returns a mask with a bit for each that was free.</summary>
    public static int Reserve()
    {
        int wereClosed = 0;
        for (int fd = 0; fd <= 2; fd++)
        {
            if (Libc.Fcntl(fd, Libc.F_GETFD, 0) != -Errno.EBADF) continue;
            wereClosed |= 1 << fd;
            // The lowest free number is this one. Without /dev an event counter serves: it needs no file, and nothing is ever written to
            // it.
            if (Libc.OpenAt(Libc.AT_FDCWD, "/dev/null", Libc.O_RDWR) < 0) _ = Libc.EventFd(0, Libc.EFD_NONBLOCK);
        }
        return wereClosed;
    }
}
