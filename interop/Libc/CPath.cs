using System;
using System.Text;

namespace Snapuserd.Interop;

/// <summary>A path as the C library wants it: UTF-8 with a closing zero, in memory of the caller's stack.</summary>
internal static class CPath
{
    /// <summary>PATH_MAX of Linux in bytes, the closing zero included. The kernel refuses longer ones itself.</summary>
    internal const int Capacity = 4096;

    /// <summary>Writes <paramref name="path"/> to <paramref name="buffer"/>. Returns 0, -ENAMETOOLONG, or -EINVAL for a path with a zero inside.</summary>
    internal static int Encode(ReadOnlySpan<char> path, Span<byte> buffer)
    {
        if (path.Contains('\0')) return -Errno.EINVAL;
        if (!Encoding.UTF8.TryGetBytes(path, buffer[..^1], out int written)) return -Errno.ENAMETOOLONG;
        buffer[written] = 0;
        return 0;
    }
}
