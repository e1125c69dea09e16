using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>Version of the capability structures, and the thread; 0 is the calling one.</summary>
[CType("struct __user_cap_header_struct")]
[KernelHeader("linux/capability.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct CapabilityHeader
{
    public uint Version;
    public int Pid;
}

/// <summary>32 capabilities as bits; a thread has two of these.</summary>
[CType("struct __user_cap_data_struct")]
[KernelHeader("linux/capability.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct CapabilityData
{
    public uint Effective;
    public uint Permitted;
    public uint Inheritable;
}

public static unsafe partial class Libc
{
    private const uint CapabilityVersion3 = 0x20080522;

    /// <summary>Number of CAP_SYS_ADMIN.</summary>
    private const int SysAdmin = 21;

    /// <summary>
    /// capget(2) and capset(2): removes CAP_SYS_ADMIN from the calling thread's effective capabilities, or restores it; other threads are
    /// unaffected. Returns 0 or a negative errno.
    /// </summary>
    public static int SetSysAdmin(bool effective)
    {
        CapabilityHeader header = new() { Version = CapabilityVersion3 };
        CapabilityData* data = stackalloc CapabilityData[2];
        if (capget(&header, data) < 0) return -Marshal.GetLastPInvokeError();
        if (effective) data->Effective |= 1u << SysAdmin;
        else data->Effective &= ~(1u << SysAdmin);
        return capset(&header, data) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int capget(CapabilityHeader* header, CapabilityData* data);

    [DllImport("libc", SetLastError = true)]
    private static extern int capset(CapabilityHeader* header, CapabilityData* data);
}
