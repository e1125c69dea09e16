using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>geteuid(2): the effective user; 0 is root. Cannot fail.</summary>
    public static uint GetEUid() => geteuid();

    [DllImport("libc", SetLastError = true)]
    private static extern uint geteuid();
}
