using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>The address of a Unix socket: a path of at most 107 bytes and a closing zero.</summary>
[CType("struct sockaddr_un", FieldPrefix = "sun_")]
[LibraryHeader("sys/un.h")]
[StructLayout(LayoutKind.Sequential)]
public unsafe struct UnixAddress
{
    /// <summary>Bytes that a path may have.</summary>
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
}
