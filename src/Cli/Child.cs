using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Cli;

/// <summary>The calls that a parent needs to see its child end.</summary>
internal static class Child
{
    /// <summary>
    /// Exit code 69 if a sandbox refuses to collect a child, or to do what else a supervisor does: to wait for one before it is collected, and to
    /// signal it. Asked before there is a child, because it would go on after its parent has ended.
    /// </summary>
    internal static void RequireCalls(bool supervises)
    {
        // No process is its own child: where waiting is allowed the answer is ECHILD, at once.
        int self = Libc.GetPid();
        Require("wait4", Libc.TryWaitPid(self, out _, out _));
        if (!supervises) return;
        Require("waitid", Libc.WaitForEnd(self));
        // No signal, to our own process group.
        Require("kill", Libc.Kill(0, 0));
    }

    private static void Require(string call, int result)
    {
        if (result is not (-Errno.EPERM or -Errno.ENOSYS)) return;
        throw new SnapuserdException(ExitCode.Unavailable,
            $"a process that is started could not be waited for and ended: {call} failed: {Reason.Of(result)}; allow it in the sandbox");
    }
}
