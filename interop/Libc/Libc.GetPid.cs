using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>getpid(2). Cannot fail.</summary>
    public static int GetPid() => getpid();

    [DllImport("libc", SetLastError = true)]
    private static extern int getpid();
}
