using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>The size of a terminal in characters.</summary>
[CType("struct winsize", FieldPrefix = "ws_")]
[LibraryHeader("sys/ioctl.h")]
[StructLayout(LayoutKind.Sequential)]
public struct WindowSize
{
    public ushort Row;
    public ushort Col;
    [CName("ws_xpixel")]
    public ushort XPixel;
    [CName("ws_ypixel")]
    public ushort YPixel;
}

[LibraryHeader("sys/ioctl.h")]
[LibraryHeader("linux/fs.h")]
public static unsafe partial class Libc
{
    /// <summary>Reads a 32-bit 1 if the block device is read-only.</summary>
    public const uint BLKROGET = 0x125e;
    /// <summary>Writes back the page cache of a block device, and drops it.</summary>
    public const uint BLKFLSBUF = 0x1261;
    /// <summary>Reads the logical sector size as 32 bits.</summary>
    public const uint BLKSSZGET = 0x1268;
    /// <summary>Reads a block device's size in bytes as 64 bits.</summary>
    public const uint BLKGETSIZE64 = 0x80081272;
    /// <summary>Reads a <see cref="WindowSize"/>.</summary>
    public const uint TIOCGWINSZ = 0x5413;
    /// <summary>
    /// Reads, as 32 bits, how many bytes the peer of a socket has not received yet (SIOCOUTQ). A Unix socket counts its memory, which is
    /// more than the payload.
    /// </summary>
    public const uint TIOCOUTQ = 0x5411;

    /// <summary>
    /// ioctl(2) with a structure or number passed by reference as <paramref name="argument"/>. Returns the request's value or a negative
    /// errno.
    /// </summary>
    public static int Ioctl<T>(int fd, uint request, ref T argument) where T : unmanaged
    {
        fixed (T* pointer = &argument)
        {
            int result = ioctl(fd, request, pointer);
            return result < 0 ? -Marshal.GetLastPInvokeError() : result;
        }
    }

    /// <summary>ioctl(2) with a number. Returns the request's value or a negative errno.</summary>
    public static int Ioctl(int fd, uint request, nint argument)
    {
        int result = ioctl(fd, request, (void*)argument);
        return result < 0 ? -Marshal.GetLastPInvokeError() : result;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int ioctl(int fd, nuint request, void* arg);
}
