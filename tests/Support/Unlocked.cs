using System;
using System.IO;
using Snapuserd.Interop;

namespace Snapuserd.Tests.Support;

/// <summary>
/// Reads files without the lock that .NET takes on files it reads. The kernel tears down the ring of a killed merge asynchronously, and
/// until then the merge's lock still exists and would block .NET's.
/// </summary>
public static class Unlocked
{
    /// <summary>
    /// Reads a whole file after the kernel has released the lock of a killed merge, and thus completed the I/O that the merge had in
    /// flight.
    /// </summary>
    public static byte[] ReadSettled(string path)
    {
        int fd = OpenSettled(path);
        byte[] bytes = Read(fd, path, checked((int)new FileInfo(path).Length));
        CloseSettled(fd);
        return bytes;
    }

    /// <summary>
    /// Waits until the kernel has released the locks of a killed merge, however long the disk takes for the I/O in flight. The program
    /// itself waits at most two seconds.
    /// </summary>
    public static void Settle(params string[] paths)
    {
        foreach (string path in paths) CloseSettled(OpenSettled(path));
    }

    /// <summary>The first <paramref name="count"/> bytes of a file or device.</summary>
    public static byte[] Read(string path, int count)
    {
        int fd = Open(path);
        byte[] bytes = Read(fd, path, count);
        _ = Libc.Close(fd);
        return bytes;
    }

    private static int OpenSettled(string path)
    {
        int fd = Open(path), locked;
        do locked = Libc.Flock(fd, Libc.LOCK_EX);
        while (locked == -Errno.EINTR);
        return locked == 0 ? fd : throw new InvalidOperationException($"{path}: flock returns {locked}");
    }

    private static void CloseSettled(int fd)
    {
        // Unlocks explicitly, because closing is not enough: a process that another test is starting also has the descriptor until its
        // exec.
        _ = Libc.Flock(fd, Libc.LOCK_UN);
        _ = Libc.Close(fd);
    }

    private static int Open(string path)
    {
        int fd = Libc.OpenAt(Libc.AT_FDCWD, path, Libc.O_RDONLY | Libc.O_CLOEXEC);
        return fd >= 0 ? fd : throw new InvalidOperationException($"{path}: open answers {fd}");
    }

    private static byte[] Read(int fd, string path, int count)
    {
        byte[] bytes = new byte[count];
        for (int read = 0; read < count;)
        {
            nint now = Libc.PRead(fd, bytes.AsSpan(read), read);
            if (now <= 0) throw new InvalidOperationException($"{path}: a read at {read} returns {now}");
            read += (int)now;
        }
        return bytes;
    }
}
