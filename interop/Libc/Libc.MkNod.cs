using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>
    /// mknod(2): a node for a device; <paramref name="mode"/> includes its kind (S_IFBLK, S_IFCHR). Returns 0 or a negative errno.
    /// </summary>
    public static int MkNod(string path, uint mode, uint major, uint minor)
    {
        byte* buffer = stackalloc byte[CPath.Capacity];
        int encoded = CPath.Encode(path, new Span<byte>(buffer, CPath.Capacity));
        if (encoded < 0) return encoded;
        // gnu_dev_makedev: the C library takes a wider number than the kernel.
        ulong device = ((ulong)(major & 0xfffff000) << 32) | ((major & 0xfff) << 8) | ((ulong)(minor & 0xffffff00) << 12) | (minor & 0xff);
        return mknod(buffer, mode, device) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int mknod(byte* pathname, uint mode, ulong dev);
}
