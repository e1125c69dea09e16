using Snapuserd.Interop;

namespace Snapuserd.Host;

/// <summary>
/// Protects descriptors 0 to 2 if init started this process with some of them closed. Otherwise a device opened later would get the free
/// descriptor, and the next message would be written into the device. So a harmless file takes every free descriptor first.
/// </summary>
public static class StandardDescriptors
{
    /// <summary>Opens every closed descriptor below 3. Returns a mask with a bit for each that was closed.</summary>
    public static int Reserve()
    {
        int wereClosed = 0;
        for (int fd = 0; fd <= 2; fd++)
        {
            if (Libc.Fcntl(fd, Libc.F_GETFD, 0) != -Errno.EBADF) continue;
            wereClosed |= 1 << fd;
            // open returns the lowest free descriptor, which is this one. Without /dev, use an eventfd, which needs no file.
            if (Libc.OpenAt(Libc.AT_FDCWD, "/dev/null", Libc.O_RDWR) < 0) _ = Libc.EventFd(0, Libc.EFD_NONBLOCK);
        }
        return wereClosed;
    }
}
