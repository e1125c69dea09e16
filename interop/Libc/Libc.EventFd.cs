using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("sys/eventfd.h")]
public static unsafe partial class Libc
{
    public const int EFD_CLOEXEC = 0x80000;
    public const int EFD_NONBLOCK = 0x800;

    /// <summary>eventfd(2). Returns a descriptor or a negative errno.</summary>
    public static int EventFd(uint initial, int flags)
    {
        int fd = eventfd(initial, flags);
        return fd < 0 ? -Marshal.GetLastPInvokeError() : fd;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int eventfd(uint initval, int flags);
}
