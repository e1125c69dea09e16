using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>symlink(2): makes <paramref name="path"/> a link to <paramref name="target"/>. Returns 0 or a negative errno.</summary>
    public static int SymLink(string target, string path)
    {
        byte* from = stackalloc byte[CPath.Capacity];
        byte* to = stackalloc byte[CPath.Capacity];
        int encoded = CPath.Encode(target, new Span<byte>(to, CPath.Capacity));
        if (encoded == 0) encoded = CPath.Encode(path, new Span<byte>(from, CPath.Capacity));
        if (encoded < 0) return encoded;
        return symlink(to, from) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int symlink(byte* target, byte* linkpath);
}
