using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>rename(2): atomically replaces <paramref name="to"/> if it exists. Returns 0 or a negative errno.</summary>
    public static int Rename(string from, string to)
    {
        byte* source = stackalloc byte[CPath.Capacity];
        byte* target = stackalloc byte[CPath.Capacity];
        int encoded = CPath.Encode(from, new Span<byte>(source, CPath.Capacity));
        if (encoded == 0) encoded = CPath.Encode(to, new Span<byte>(target, CPath.Capacity));
        if (encoded < 0) return encoded;
        return rename(source, target) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int rename(byte* oldpath, byte* newpath);
}
