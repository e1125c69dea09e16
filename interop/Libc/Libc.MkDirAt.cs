using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>mkdirat(2). Returns 0 or a negative errno.</summary>
    public static int MkDirAt(int directory, string path, uint mode)
    {
        byte* buffer = stackalloc byte[CPath.Capacity];
        int encoded = CPath.Encode(path, new Span<byte>(buffer, CPath.Capacity));
        if (encoded < 0) return encoded;
        return mkdirat(directory, buffer, mode) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int mkdirat(int dirfd, byte* pathname, uint mode);
}
