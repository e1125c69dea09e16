using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>
/// This system's udev, through the files that libudev reads, and the system's semaphores. Paths are resolved at every call, because they
/// mean other files after switch_root.
/// </summary>
public sealed class SystemUdev : IUdev
{
    /// <summary>The folder in which udev keeps its state until the next boot.</summary>
    public const string Folder = "/run/udev";

    private const string Run = "/run", Control = "/run/udev/control", Queue = "/run/udev/queue", RuntimeRules = "/run/udev/rules.d/";

    private readonly MonotonicClock _clock = new();

    public bool Runs => Exists(Control);

    public bool IsBusy => Exists(Queue);

    public ulong EntryOf(uint major, uint minor)
    {
        // udev writes the entry to a temporary file and renames it, so the inode number changes as well.
        string path = string.Create(CultureInfo.InvariantCulture, $"/run/udev/data/b{major}:{minor}");
        return Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out StatxData status) < 0 ? 0
            : (status.Ino << 32) ^ (ulong)status.Mtime.Sec ^ ((ulong)status.Mtime.Nsec << 16) | 1;
    }

    public long Milliseconds => _clock.Milliseconds;

    public uint Random
    {
        get
        {
            // Two processes that collide once do not collide again: they do not read the clock in the same nanosecond every time.
            _ = Libc.ClockGetTime(Libc.CLOCK_MONOTONIC, out TimeSpec now);
            return (uint)(now.Nsec ^ (now.Nsec >> 16) ^ (uint)(Libc.GetPid() * 40503));
        }
    }

    public int CreateSemaphores(int key, int count) => Libc.SemGet(key, count, Libc.IPC_CREAT | Libc.IPC_EXCL | (int)Modes.PrivateFile);

    public int SetSemaphore(int id, int number, int value) => Libc.SemControl(id, number, Libc.SETVAL, value);

    public int ValueOf(int id, int number) => Libc.SemControl(id, number, Libc.GETVAL, 0);

    public int AwaitZero(int id, int milliseconds) => Libc.SemTimedOp(id, default, milliseconds);

    public int RemoveSemaphores(int id) => Libc.SemControl(id, 0, Libc.IPC_RMID, 0);

    public int HighestIndex() => Libc.SemHighestIndex();

    public int SetAtIndex(int index, out int key) => Libc.SemAtIndex(index, out key);

    public bool IsOrphan(int id, int number)
    {
        // 0 means a process of another namespace.
        int process = Libc.SemControl(id, number, Libc.GETPID, 0);
        return process > 0 && Libc.Kill(process, 0) == -Errno.ESRCH;
    }

    public void PlaceRules()
    {
        MakeFolder();
        // Place the rules only in a file system in memory, so that they are gone after a restart.
        if (!IsInMemory(Folder)) return;
        _ = Libc.MkDir(RuntimeRules, Modes.ReadableFolder);
        foreach ((string name, string text) in UdevRules.Files) Place(RuntimeRules + name, ByteText.Encode(text));
    }

    /// <summary>
    /// Creates udev's folder in /run. Then rules can be placed there before udev starts, and a server with a root of its own can include
    /// the folder.
    /// </summary>
    public static void MakeFolder()
    {
        if (IsInMemory(Run)) _ = Libc.MkDir(Folder, Modes.ReadableFolder);
    }

    private static bool IsInMemory(string path) => Libc.StatFs(path, out StatFsData status) == 0
        && status.Type is Libc.TMPFS_MAGIC or Libc.RAMFS_MAGIC;

    private static bool Exists(string path) => Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out _) == 0;

    private static void Place(string path, byte[] text)
    {
        // Keep an existing file, which may be an older version's or an administrator's.
        if (Exists(path)) return;
        // udev reads only names that end in ".rules".
        string temporary = $"{path}.{Libc.GetPid()}";
        int fd = Libc.OpenAt(Libc.AT_FDCWD, temporary, Libc.O_WRONLY | Libc.O_CREAT | Libc.O_EXCL | Libc.O_NOFOLLOW | Libc.O_CLOEXEC,
            Modes.ReadableFile);
        if (fd < 0) return;
        bool whole = Libc.Write(fd, text) == text.Length;
        _ = Libc.Close(fd);
        if (!whole || Libc.Rename(temporary, path) < 0) _ = Libc.Unlink(temporary);
    }
}
