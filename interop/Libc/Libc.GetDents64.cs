using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>Bytes of struct dirent64 before its name: d_ino, d_off, d_reclen, d_type.</summary>
    private const int NameOffset = 19;

    /// <summary>
    /// The names in the folder that <paramref name="fd"/> is open on, by getdents64(2), without "." and "..". Returns 0 or a negative
    /// errno.
    /// </summary>
    public static int NamesIn(int fd, List<string> names)
    {
        byte[] buffer = new byte[8192];
        while (true)
        {
            nint got;
            fixed (byte* start = buffer) got = getdents64(fd, start, buffer.Length);
            if (got <= 0) return got == 0 ? 0 : -Marshal.GetLastPInvokeError();
            for (ReadOnlySpan<byte> rest = buffer.AsSpan(0, (int)got); rest.Length > 0;)
            {
                int length = BinaryPrimitives.ReadUInt16LittleEndian(rest[16..]);
                ReadOnlySpan<byte> name = rest[NameOffset..length];
                string text = ByteText.Decode(name[..name.IndexOf((byte)0)]);
                if (text is not ("." or "..")) names.Add(text);
                rest = rest[length..];
            }
        }
    }

    [DllImport("libc", SetLastError = true)]
    private static extern nint getdents64(int fd, byte* dirp, nint count);
}
