using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("sys/mount.h")]
public static unsafe partial class Libc
{
    public const uint FSOPEN_CLOEXEC = 1;
    public const uint FSMOUNT_CLOEXEC = 1;
    public const uint FSCONFIG_CMD_CREATE = 6;

    /// <summary>
    /// fsopen(2), since Linux 5.2: a context for mounting a file system of <paramref name="type"/>. Returns a descriptor or a negative
    /// errno.
    /// </summary>
    public static int FsOpen(string type, uint flags)
    {
        byte* name = stackalloc byte[32];
        int encoded = CPath.Encode(type, new Span<byte>(name, 32));
        if (encoded < 0) return encoded;
        int fd = fsopen(name, flags);
        return fd < 0 ? -Marshal.GetLastPInvokeError() : fd;
    }

    /// <summary>fsconfig(2) with FSCONFIG_CMD_CREATE: finds or makes the superblock. Returns 0 or a negative errno.</summary>
    public static int FsCreate(int context) =>
        fsconfig(context, FSCONFIG_CMD_CREATE, null, null, 0) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    /// <summary>
    /// fsmount(2): a detached mount, which ends with its descriptor. Returns a descriptor for the *at calls or a negative errno.
    /// </summary>
    public static int FsMount(int context, uint flags)
    {
        int fd = fsmount(context, flags, 0);
        return fd < 0 ? -Marshal.GetLastPInvokeError() : fd;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int fsopen(byte* fsname, uint flags);

    [DllImport("libc", SetLastError = true)]
    private static extern int fsconfig(int fd, uint cmd, byte* key, void* value, int aux);

    [DllImport("libc", SetLastError = true)]
    private static extern int fsmount(int fd, uint flags, uint attributes);
}
