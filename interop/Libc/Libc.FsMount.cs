using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("sys/mount.h")]
public static unsafe partial class Libc
{
    public const uint FSOPEN_CLOEXEC = 1;
    public const uint FSMOUNT_CLOEXEC = 1;
    public const uint FSCONFIG_SET_FLAG = 0;
    public const uint FSCONFIG_SET_STRING = 1;
    public const uint FSCONFIG_CMD_CREATE = 6;
    public const uint MOUNT_ATTR_RDONLY = 1;
    public const uint MOUNT_ATTR_NOATIME = 0x10;

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

    /// <summary>fsconfig(2) with FSCONFIG_SET_FLAG: an option without a value. Returns 0 or a negative errno.</summary>
    public static int FsFlag(int context, string option)
    {
        byte* key = stackalloc byte[32];
        int encoded = CPath.Encode(option, new Span<byte>(key, 32));
        if (encoded < 0) return encoded;
        return fsconfig(context, FSCONFIG_SET_FLAG, key, null, 0) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    /// <summary>fsconfig(2) with FSCONFIG_SET_STRING: an option with a value. Returns 0 or a negative errno.</summary>
    public static int FsString(int context, string option, string value)
    {
        byte* key = stackalloc byte[32];
        byte* text = stackalloc byte[CPath.Capacity];
        int encoded = CPath.Encode(option, new Span<byte>(key, 32));
        if (encoded == 0) encoded = CPath.Encode(value, new Span<byte>(text, CPath.Capacity));
        if (encoded < 0) return encoded;
        return fsconfig(context, FSCONFIG_SET_STRING, key, text, 0) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    /// <summary>
    /// fsmount(2): a detached mount with <paramref name="attributes"/> (MOUNT_ATTR_*), which ends with its descriptor. Returns a
    /// descriptor for the *at calls or a negative errno.
    /// </summary>
    public static int FsMount(int context, uint flags, uint attributes = 0)
    {
        int fd = fsmount(context, flags, attributes);
        return fd < 0 ? -Marshal.GetLastPInvokeError() : fd;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int fsopen(byte* fsname, uint flags);

    [DllImport("libc", SetLastError = true)]
    private static extern int fsconfig(int fd, uint cmd, byte* key, void* value, int aux);

    [DllImport("libc", SetLastError = true)]
    private static extern int fsmount(int fd, uint flags, uint attributes);
}
