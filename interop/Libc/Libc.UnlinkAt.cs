using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>unlinkat(2) of a file. Returns 0 or a negative errno.</summary>
    public static int UnlinkAt(int directory, string path)
    {
        byte* buffer = stackalloc byte[CPath.Capacity];
        int encoded = CPath.Encode(path, new Span<byte>(buffer, CPath.Capacity));
        if (encoded < 0) return encoded;
        return unlinkat(directory, buffer, 0) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int unlinkat(int dirfd, byte* pathname, int flags);
}
