using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>chdir(2). Returns 0 or a negative errno.</summary>
    public static int ChDir(string path)
    {
        byte* buffer = stackalloc byte[CPath.Capacity];
        int encoded = CPath.Encode(path, new Span<byte>(buffer, CPath.Capacity));
        if (encoded < 0) return encoded;
        return chdir(buffer) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    /// <summary>chroot(2). Returns 0 or a negative errno.</summary>
    public static int ChRoot(string path)
    {
        byte* buffer = stackalloc byte[CPath.Capacity];
        int encoded = CPath.Encode(path, new Span<byte>(buffer, CPath.Capacity));
        if (encoded < 0) return encoded;
        return chroot(buffer) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int chdir(byte* path);

    [DllImport("libc", SetLastError = true)]
    private static extern int chroot(byte* path);
}
