using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>The address of a Unix socket: a path of at most 107 bytes and a closing zero.</summary>
[CType("struct sockaddr_un", FieldPrefix = "sun_")]
[LibraryHeader("sys/un.h")]
[StructLayout(LayoutKind.Sequential)]
public unsafe struct UnixAddress
{
    /// <summary>Longest path in bytes.</summary>
    public const int LongestPath = 107;

    public ushort Family;
    public fixed byte Path[LongestPath + 1];

    /// <summary>The address of a path. Returns 0, -ENAMETOOLONG, or -EINVAL for a path that is empty or has a zero inside.</summary>
    internal static int Of(string path, out UnixAddress address)
    {
        address = new UnixAddress { Family = Libc.AF_UNIX };
        if (path.Length == 0 || path.Contains('\0')) return -Errno.EINVAL;
        fixed (byte* target = address.Path)
            return ByteText.Encode(path, new Span<byte>(target, LongestPath)) >= 0 ? 0 : -Errno.ENAMETOOLONG;
    }

    /// <summary>
    /// The abstract address of a name: a zero, then the name's bytes, and no file (unix(7)). <paramref name="length"/> is the length of
    /// the address, which ends with the name. Returns 0, -ENAMETOOLONG, or -EINVAL for an empty name.
    /// </summary>
    internal static int OfAbstract(string name, out UnixAddress address, out uint length)
    {
        (address, length) = (new UnixAddress { Family = Libc.AF_UNIX }, 0);
        if (name.Length == 0) return -Errno.EINVAL;
        fixed (byte* target = address.Path)
        {
            int bytes = ByteText.Encode(name, new Span<byte>(target + 1, LongestPath));
            if (bytes < 0) return -Errno.ENAMETOOLONG;
            length = (uint)(sizeof(ushort) + 1 + bytes);
            return 0;
        }
    }
}
