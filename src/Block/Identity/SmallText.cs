using System;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>Text files of the kernel, whose length is unknown before they are read.</summary>
internal static class SmallText
{
    private const int MostBytes = 4 << 20;

    /// <summary>Bytes of the first read: a file in /sys is no longer than a page of the system.</summary>
    private static int FirstBytes => Sizes.SystemPage;

    /// <summary>The whole text of a file by its path; empty if it cannot be read.</summary>
    internal static string Read(string path) =>
        Read(Scarcity.Check(Libc.OpenAt(Libc.AT_FDCWD, path, Libc.O_RDONLY | Libc.O_CLOEXEC), path)) ?? "";

    /// <summary>
    /// Reads the whole text of an open file and closes it. Null if it cannot be read or <paramref name="fd"/> is negative.
    /// </summary>
    internal static string? Read(int fd)
    {
        if (fd < 0) return null;
        byte[] buffer = new byte[FirstBytes];
        int length = 0;
        nint got;
        while (true)
        {
            got = Libc.Read(fd, buffer.AsSpan(length));
            if (Retry.Interrupted(got)) continue;
            if (got <= 0) break;
            length += (int)got;
            if (length == MostBytes) break;
            if (length == buffer.Length) Array.Resize(ref buffer, length * 2);
        }
        _ = Libc.Close(fd);
        return got < 0 ? null : ByteText.Decode(buffer.AsSpan(0, length));
    }
}
