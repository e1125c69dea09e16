using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("sys/mman.h")]
public static unsafe partial class Libc
{
    private const uint MFD_CLOEXEC = 1;

    // MFD_EXEC, since Linux 6.3. The headers of an older C library do not have it.
    private const uint Executable = 0x10;

    /// <summary>
    /// memfd_create(2): a file in memory that may be executed and is closed by exec. Returns a descriptor or a negative errno.
    /// </summary>
    public static int MemFdCreate()
    {
        byte name = 0;
        int fd = memfd_create(&name, MFD_CLOEXEC | Executable);
        if (fd < 0 && Marshal.GetLastPInvokeError() == Errno.EINVAL) fd = memfd_create(&name, MFD_CLOEXEC);
        return fd < 0 ? -Marshal.GetLastPInvokeError() : fd;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int memfd_create(byte* name, uint flags);
}
