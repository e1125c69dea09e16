using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("sys/mman.h")]
public static unsafe partial class Libc
{
    public const int PROT_READ = 1;
    public const int PROT_WRITE = 2;
    public const int MAP_SHARED = 1;
    public const int MAP_PRIVATE = 2;
    public const int MAP_ANONYMOUS = 0x20;
    public const int MAP_NORESERVE = 0x4000;
    public const int MAP_POPULATE = 0x8000;

    /// <summary>mmap(2). Returns the address, or a negative errno.</summary>
    public static nint MMap(nint address, nint length, int protection, int flags, int fd, long offset)
    {
        nint mapped = mmap(address, length, protection, flags, fd, offset);
        return mapped == -1 ? -Marshal.GetLastPInvokeError() : mapped;
    }

    /// <summary>munmap(2). Returns 0 or a negative errno.</summary>
    public static int MUnmap(nint address, nint length) => munmap(address, length) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    [DllImport("libc", SetLastError = true)]
    private static extern nint mmap(nint addr, nint length, int prot, int flags, int fd, long offset);

    [DllImport("libc", SetLastError = true)]
    private static extern int munmap(nint addr, nint length);
}
