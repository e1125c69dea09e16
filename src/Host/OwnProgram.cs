using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Host;

/// <summary>The executable file of this process.</summary>
public static class OwnProgram
{
    /// <summary>
    /// Opens the file for reading, and returns its descriptor. Uses the path that was executed; if that fails, /proc/self/exe, which also
    /// opens a file that was removed. Throws with exit code 66 if both fail.
    /// </summary>
    public static int Open()
    {
        int own = -Errno.ENOENT;
        if (Libc.ExecutedPath() is { } path) own = Libc.OpenAt(Libc.AT_FDCWD, path, Libc.O_RDONLY | Libc.O_CLOEXEC);
        if (own < 0) own = Libc.OpenAt(Libc.AT_FDCWD, "/proc/self/exe", Libc.O_RDONLY | Libc.O_CLOEXEC);
        return own >= 0 ? own
            : throw new SnapuserdException(ExitCode.InputMissing, $"this program's own file cannot be opened: {ErrnoText.Of(own)}");
    }
}
