using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("sys/xattr.h")]
public static unsafe partial class Libc
{
    /// <summary>
    /// flistxattr(2): the names of a file's extended attributes, each with its closing zero. Returns their bytes or a negative errno:
    /// ERANGE if they do not fit.
    /// </summary>
    public static nint FListXAttr(int fd, Span<byte> names)
    {
        fixed (byte* start = names)
        {
            nint bytes = flistxattr(fd, start, names.Length);
            return bytes < 0 ? -Marshal.GetLastPInvokeError() : bytes;
        }
    }

    /// <summary>
    /// fgetxattr(2): the value of the attribute <paramref name="name"/>, which has its closing zero. Returns its bytes or a negative errno:
    /// ERANGE if it does not fit.
    /// </summary>
    public static nint FGetXAttr(int fd, ReadOnlySpan<byte> name, Span<byte> value)
    {
        fixed (byte* key = name)
        fixed (byte* start = value)
        {
            nint bytes = fgetxattr(fd, key, start, value.Length);
            return bytes < 0 ? -Marshal.GetLastPInvokeError() : bytes;
        }
    }

    /// <summary>
    /// fsetxattr(2): sets the attribute <paramref name="name"/>, which has its closing zero. Returns 0 or a negative errno.
    /// </summary>
    public static int FSetXAttr(int fd, ReadOnlySpan<byte> name, ReadOnlySpan<byte> value)
    {
        fixed (byte* key = name)
        fixed (byte* start = value)
            return fsetxattr(fd, key, start, value.Length, 0) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern nint flistxattr(int fd, byte* list, nint size);

    [DllImport("libc", SetLastError = true)]
    private static extern nint fgetxattr(int fd, byte* name, byte* value, nint size);

    [DllImport("libc", SetLastError = true)]
    private static extern int fsetxattr(int fd, byte* name, byte* value, nint size, int flags);
}
