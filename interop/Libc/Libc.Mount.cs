using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("sched.h")]
[LibraryHeader("sys/mount.h")]
public static unsafe partial class Libc
{
    public const int CLONE_NEWNS = 0x20000;
    public const uint MS_BIND = 4096;
    public const uint MS_REC = 16384;
    public const uint MS_SLAVE = 1 << 19;

    /// <summary>unshare(2), for the calling thread. Returns 0 or a negative errno.</summary>
    public static int Unshare(int flags) => unshare(flags) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    /// <summary>
    /// mount(2) without data; pass "none" for arguments that a kind of mount does not need. Returns 0 or a negative errno.
    /// </summary>
    public static int Mount(string source, string target, string type, uint flags)
    {
        byte* from = stackalloc byte[CPath.Capacity];
        byte* to = stackalloc byte[CPath.Capacity];
        byte* kind = stackalloc byte[16];
        int encoded = CPath.Encode(source, new Span<byte>(from, CPath.Capacity));
        if (encoded == 0) encoded = CPath.Encode(target, new Span<byte>(to, CPath.Capacity));
        if (encoded == 0) encoded = CPath.Encode(type, new Span<byte>(kind, 16));
        if (encoded < 0) return encoded;
        return mount(from, to, kind, flags, null) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int unshare(int flags);

    [DllImport("libc", SetLastError = true)]
    private static extern int mount(byte* source, byte* target, byte* filesystemtype, nuint mountflags, void* data);
}
