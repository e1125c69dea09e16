using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>A lock on a range of bytes; a length of 0 extends to the largest offset.</summary>
[CType("struct flock", FieldPrefix = "l_")]
[LibraryHeader("fcntl.h")]
[StructLayout(LayoutKind.Sequential)]
public struct FileLock
{
    /// <summary>F_RDLCK, F_WRLCK or F_UNLCK.</summary>
    public short Type;
    /// <summary>0: the start is relative to the beginning of the file.</summary>
    public short Whence;
    public long Start;
    [CName("l_len")]
    public long Length;
    /// <summary>0 for locks of open files.</summary>
    public int Pid;
}

public static unsafe partial class Libc
{
    public const short F_RDLCK = 0;
    public const short F_WRLCK = 1;
    public const short F_UNLCK = 2;
    public const int F_OFD_GETLK = 36;
    public const int F_OFD_SETLK = 37;

    /// <summary>
    /// fcntl(2) with F_OFD_SETLK: locks, converts or unlocks a range for the open file of <paramref name="fd"/>, shared by every
    /// inherited, duplicated or passed descriptor. Returns 0, -EAGAIN or -EACCES when another open file holds a conflicting lock, or
    /// another negative errno.
    /// </summary>
    public static int LockRange(int fd, FileLock range) => fcntl(fd, F_OFD_SETLK, (nint)(&range)) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    /// <summary>
    /// fcntl(2) with F_OFD_GETLK: tests whether another open file's lock conflicts with <paramref name="range"/>; locks nothing. Returns
    /// 1, 0, or a negative errno.
    /// </summary>
    public static int IsRangeLocked(int fd, FileLock range) => fcntl(fd, F_OFD_GETLK, (nint)(&range)) < 0 ? -Marshal.GetLastPInvokeError()
        : range.Type == F_UNLCK ? 0 : 1;
}
