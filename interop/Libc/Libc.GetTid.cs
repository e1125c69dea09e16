using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>gettid(2): the kernel's ID of the calling thread. Cannot fail.</summary>
    public static int GetTid() => gettid();

    [DllImport("libc", SetLastError = true)]
    private static extern int gettid();
}
