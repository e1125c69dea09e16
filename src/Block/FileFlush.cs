using System;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>fsync(2) of a file, a folder or a device, before the program tells others what it has written there.</summary>
public static class FileFlush
{
    /// <summary>
    /// Called on its thread before each flush, with the descriptor; a negative errno replaces the call. Null except in tests.
    /// </summary>
    [ThreadStatic]
    internal static Func<int, int>? Before;

    /// <summary>Makes durable what was written to the descriptor. Returns 0 or a negative errno.</summary>
    public static int Of(int fd) => Before?.Invoke(fd) is < 0 and int refused ? refused : Libc.FSync(fd);
}
