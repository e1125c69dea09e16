using System;

namespace Snapuserd.Interop;

/// <summary>A path as the C library wants it: the bytes that <see cref="ByteText"/> has for it and a closing zero, in memory of the caller's stack.</summary>
internal static class CPath
{
    /// <summary>Bytes of the longest path, the closing zero included. The kernel refuses longer ones itself.</summary>
    internal const int Capacity = Libc.PATH_MAX;

    /// <summary>Writes <paramref name="path"/> to <paramref name="buffer"/>. Returns 0, -ENAMETOOLONG, or -EINVAL for a path with a zero inside.</summary>
    internal static int Encode(ReadOnlySpan<char> path, Span<byte> buffer)
    {
        if (path.Contains('\0')) return -Errno.EINVAL;
        int written = ByteText.Encode(path, buffer[..^1]);
        if (written < 0) return -Errno.ENAMETOOLONG;
        buffer[written] = 0;
        return 0;
    }
}
