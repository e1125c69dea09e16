using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Host;

/// <summary>The processes that this program starts, all from its own file.</summary>
public static class Child
{
    /// <summary>
    /// Starts the program of a descriptor (<see cref="Libc.ForkExec"/>). Returns the child's number. Exit code 71, with
    /// <paramref name="what"/> in its sentence, if the system has no process or memory left.
    /// </summary>
    public static int Start(string what, int program, string[] arguments, string[] environment, bool ownSession = false, int input = -1,
        int output = -1, int diagnostics = -1)
    {
        int child = Libc.ForkExec(program, arguments, environment, ownSession, input, output, diagnostics);
        return child >= 0 ? child : throw CannotStart(what, child);
    }

    /// <summary>The error for a child that cannot be started: exit code 71.</summary>
    public static SnapuserdException CannotStart(string what, int errno) =>
        new(ExitCode.OutOfResources, $"{what} cannot be started: {ErrnoText.Of(errno)}");

    /// <summary>
    /// Waits for a child's end and collects it. Returns 0 or a negative errno; the exit code is −1 if a signal killed the child.
    /// </summary>
    public static int Wait(int child, out int code)
    {
        int result;
        do result = Libc.WaitPid(child, out code, out _);
        while (Retry.Interrupted(result));
        return result;
    }

    /// <summary>
    /// Exit code 69 if a sandbox forbids collecting a child, or, for a supervisor, waiting for a child before it is collected and
    /// signalling it. Checked before the first child starts, because a child would outlive its parent.
    /// </summary>
    public static void RequireCalls(bool supervises)
    {
        // No process is its own child: if waiting is allowed, the result is ECHILD at once.
        int self = Libc.GetPid();
        Require("wait4", Libc.TryWaitPid(self, out _, out _));
        if (!supervises) return;
        Require("waitid", Libc.WaitForEnd(self));
        // Signal 0, to this process's own group.
        Require("kill", Libc.Kill(0, 0));
    }

    private static void Require(string call, int result)
    {
        if (result is not (-Errno.EPERM or -Errno.ENOSYS)) return;
        throw new SnapuserdException(ExitCode.Unavailable,
            $"a process that is started could not be waited for and ended: {call} failed: {ErrnoText.Of(result)}; allow it in the sandbox");
    }
}
