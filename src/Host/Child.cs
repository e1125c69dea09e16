using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Host;

/// <summary>Checks the system calls with which a parent waits for its children and ends them.</summary>
public static class Child
{
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
            $"a process that is started could not be waited for and ended: {call} failed: {Reason.Of(result)}; allow it in the sandbox");
    }
}
