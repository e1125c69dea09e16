using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>A resource limit: the current value, and the maximum without privilege. RLIM_INFINITY is no limit.</summary>
[CType("struct rlimit", FieldPrefix = "rlim_")]
[LibraryHeader("sys/resource.h")]
[StructLayout(LayoutKind.Sequential)]
public struct ResourceLimit
{
    [CName("rlim_cur")]
    public ulong Current;
    [CName("rlim_max")]
    public ulong Maximum;
}

[LibraryHeader("sys/resource.h")]
public static unsafe partial class Libc
{
    public const int RLIMIT_FSIZE = 1;
    public const int RLIMIT_NOFILE = 7;
    public const int RLIMIT_MEMLOCK = 8;
    public const ulong RLIM_INFINITY = ulong.MaxValue;

    /// <summary>prlimit(2) that reads a limit of this process. Returns 0 or a negative errno.</summary>
    public static int GetLimit(int resource, out ResourceLimit limit)
    {
        fixed (ResourceLimit* old = &limit)
            return prlimit(0, resource, null, old) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    /// <summary>prlimit(2) that sets a limit of this process. Returns 0 or a negative errno.</summary>
    public static int SetLimit(int resource, in ResourceLimit limit)
    {
        fixed (ResourceLimit* fresh = &limit)
            return prlimit(0, resource, fresh, null) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int prlimit(int pid, int resource, ResourceLimit* new_limit, ResourceLimit* old_limit);
}
