using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>
    /// readlink(2): the target of a symbolic link, as stored. Returns 0 or a negative errno; -EINVAL for a path that is not a link.
    /// </summary>
    public static int ReadLink(string path, out string target)
    {
        target = "";
        byte* buffer = stackalloc byte[CPath.Capacity];
        int encoded = CPath.Encode(path, new Span<byte>(buffer, CPath.Capacity));
        if (encoded < 0) return encoded;
        byte* link = stackalloc byte[CPath.Capacity];
        nint length = readlink(buffer, link, CPath.Capacity);
        if (length < 0) return -Marshal.GetLastPInvokeError();
        if (length == CPath.Capacity) return -Errno.ENAMETOOLONG;
        target = ByteText.Decode(new ReadOnlySpan<byte>(link, (int)length));
        return 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern nint readlink(byte* pathname, byte* buffer, nint size);
}
