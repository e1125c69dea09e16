using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Recovery;

/// <summary>Writes of a few bytes by system calls.</summary>
internal static class Transfer
{
    /// <summary>Writes all of <paramref name="bytes"/> at <paramref name="offset"/>. Returns 0 or a negative errno.</summary>
    internal static int WriteAll(int fd, ReadOnlySpan<byte> bytes, long offset)
    {
        for (int tries = 0; bytes.Length > 0;)
        {
            nint written = Libc.PWrite(fd, bytes, offset);
            if (Retry.Again(written, ref tries)) continue;
            if (written <= 0) return written < 0 ? (int)written : -Errno.EIO;
            bytes = bytes[(int)written..];
            offset += written;
        }
        return 0;
    }
}
