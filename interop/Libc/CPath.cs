using System;

namespace Snapuserd.Interop;

/// <summary>A path for the C library: its bytes by <see cref="ByteText"/> and a closing zero, on the caller's stack.</summary>
internal static class CPath
{
    /// <summary>Bytes of the longest path, including the closing zero. The kernel itself rejects longer ones.</summary>
    internal const int Capacity = Libc.PATH_MAX;

    /// <summary>
    /// Writes <paramref name="path"/> to <paramref name="buffer"/>. Returns 0, -ENAMETOOLONG, or -EINVAL for a path with a zero inside.
    /// </summary>
    internal static int Encode(ReadOnlySpan<char> path, Span<byte> buffer)
    {
        if (path.Contains('\0')) return -Errno.EINVAL;
        int written = ByteText.Encode(path, buffer[..^1]);
        if (written < 0) return -Errno.ENAMETOOLONG;
        buffer[written] = 0;
        return 0;
    }
}
