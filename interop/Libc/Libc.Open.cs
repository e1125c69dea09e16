using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("fcntl.h")]
public static unsafe partial class Libc
{
    public const int AT_FDCWD = -100;
    public const int O_RDONLY = 0;
    public const int O_WRONLY = 1;
    public const int O_RDWR = 2;
    public const int O_ACCMODE = 3;
    public const int O_CREAT = 0x40;
    public const int O_EXCL = 0x80;
    public const int O_NOCTTY = 0x100;
    public const int O_TRUNC = 0x200;
    public const int O_APPEND = 0x400;
    public const int O_NONBLOCK = 0x800;
    /// <summary>Reads leave the access time as it is; EPERM if the file belongs to another user.</summary>
    public const int O_NOATIME = 0x40000;
    public const int O_CLOEXEC = 0x80000;
    public const int O_PATH = 0x200000;

    public static int O_DIRECT => PerArchitecture(OpenFlagsX64.O_DIRECT, OpenFlagsArm64.O_DIRECT);
    public static int O_DIRECTORY => PerArchitecture(OpenFlagsX64.O_DIRECTORY, OpenFlagsArm64.O_DIRECTORY);
    public static int O_NOFOLLOW => PerArchitecture(OpenFlagsX64.O_NOFOLLOW, OpenFlagsArm64.O_NOFOLLOW);

    /// <summary>openat(2); <paramref name="mode"/> applies only with O_CREAT. Returns a descriptor or a negative errno.</summary>
    public static int OpenAt(int directory, string path, int flags, uint mode = 0)
    {
        byte* buffer = stackalloc byte[CPath.Capacity];
        int encoded = CPath.Encode(path, new Span<byte>(buffer, CPath.Capacity));
        if (encoded < 0) return encoded;
        int fd = openat(directory, buffer, flags, mode);
        return fd < 0 ? -Marshal.GetLastPInvokeError() : fd;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int openat(int dirfd, byte* pathname, int flags, uint mode);
}
