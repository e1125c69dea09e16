using System;
using Snapuserd.Interop;

namespace Snapuserd.Tests.Support;

/// <summary>
/// Reading without the lock that the framework puts on what it reads: the kernel takes a ring apart in its own time, and until then the lock
/// of a killed merge is there.
/// </summary>
public static class Unlocked
{
    /// <summary>The first <paramref name="count"/> bytes of a file or device.</summary>
    public static byte[] Read(string path, int count)
    {
        byte[] bytes = new byte[count];
        int fd = Libc.OpenAt(Libc.AT_FDCWD, path, Libc.O_RDONLY | Libc.O_CLOEXEC);
        if (fd < 0) throw new InvalidOperationException($"{path}: open answers {fd}");
        for (int read = 0; read < count;)
        {
            nint now = Libc.PRead(fd, bytes.AsSpan(read), read);
            if (now <= 0) throw new InvalidOperationException($"{path}: a read at {read} answers {now}");
            read += (int)now;
        }
        _ = Libc.Close(fd);
        return bytes;
    }
}
