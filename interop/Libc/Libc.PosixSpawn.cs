using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("spawn.h")]
public static unsafe partial class Libc
{
    /// <summary>
    /// posix_spawn(3) of the program at <paramref name="path"/>. Descriptor i of the child is a copy of <paramref name="streams"/>[i]; a
    /// negative one leaves it as it is in this process. Returns the child's PID or a negative errno.
    /// </summary>
    private static int PosixSpawn(byte* path, byte** argv, byte** envp, bool ownSession, ReadOnlySpan<int> streams)
    {
        SpawnAttributes attributes;
        SpawnActions actions;
        int result = posix_spawnattr_init(&attributes);
        if (result != 0) return -result;
        result = posix_spawn_file_actions_init(&actions);
        if (result == 0 && ownSession) result = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
        for (int i = 0; i < streams.Length && result == 0; i++)
            if (streams[i] >= 0) result = posix_spawn_file_actions_adddup2(&actions, streams[i], i);
        int child = 0;
        if (result == 0) result = posix_spawn(&child, path, &actions, &attributes, argv, envp);
        _ = posix_spawn_file_actions_destroy(&actions);
        _ = posix_spawnattr_destroy(&attributes);
        return result == 0 ? child : -result;
    }

    private const short POSIX_SPAWN_SETSID = 0x80;

    /// <summary>Opaque: only the C library reads and writes it.</summary>
    [CType("posix_spawnattr_t")]
    [LibraryHeader("spawn.h")]
    [StructLayout(LayoutKind.Sequential)]
    private struct SpawnAttributes
    {
        public fixed long Reserved[42];
    }

    /// <summary>Opaque: only the C library reads and writes it.</summary>
    [CType("posix_spawn_file_actions_t")]
    [LibraryHeader("spawn.h")]
    [StructLayout(LayoutKind.Sequential)]
    private struct SpawnActions
    {
        public fixed long Reserved[10];
    }

    [DllImport("libc")]
    private static extern int posix_spawn(int* child, byte* path, SpawnActions* actions, SpawnAttributes* attributes, byte** argv,
        byte** envp);

    [DllImport("libc")]
    private static extern int posix_spawnattr_init(SpawnAttributes* attributes);

    [DllImport("libc")]
    private static extern int posix_spawnattr_setflags(SpawnAttributes* attributes, short flags);

    [DllImport("libc")]
    private static extern int posix_spawnattr_destroy(SpawnAttributes* attributes);

    [DllImport("libc")]
    private static extern int posix_spawn_file_actions_init(SpawnActions* actions);

    [DllImport("libc")]
    private static extern int posix_spawn_file_actions_adddup2(SpawnActions* actions, int from, int to);

    [DllImport("libc")]
    private static extern int posix_spawn_file_actions_destroy(SpawnActions* actions);
}
