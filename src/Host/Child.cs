using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Host;

/// <summary>The processes that this program starts, all from its own file.</summary>
public static class Child
{
    /// <summary>
    /// Starts the program of a descriptor (<see cref="Libc.ForkExec"/>). Returns the child's process ID. Throws with exit code 71 if no
    /// process can be created or memory is short; <paramref name="what"/> names the program in the message.
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
    /// Waits until a child ends, and reaps it. Returns 0 or a negative errno; the exit code is −1 if a signal killed the child.
    /// </summary>
    public static int Wait(int child, out int code)
    {
        int result;
        do result = Libc.WaitPid(child, out code, out _);
        while (Retry.Interrupted(result));
        return result;
    }

    /// <summary>
    /// Throws with exit code 69 if a sandbox forbids a system call that a parent needs: wait4 and, for a supervisor, also waitid and kill.
    /// Called before the first child starts, because such a parent would end before its child.
    /// </summary>
    public static void RequireCalls(bool supervises)
    {
        // No process is its own child: if waiting is allowed, the result is ECHILD at once.
        int self = Libc.GetPid();
        Require("wait4", Libc.TryWaitPid(self, out _, out _));
        if (!supervises) return;
        Require("waitid", Libc.WaitForEnd(self));
        // Signal 0 to this process's own group only checks the permission.
        Require("kill", Libc.Kill(0, 0));
    }

    private static void Require(string call, int result)
    {
        if (result is not (-Errno.EPERM or -Errno.ENOSYS)) return;
        throw new SnapuserdException(ExitCode.Unavailable,
            $"a child process cannot be waited for or ended: {call} failed: {ErrnoText.Of(result)}; allow it in the sandbox");
    }
}
