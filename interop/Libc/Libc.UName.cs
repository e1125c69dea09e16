using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>Identification of the system; each field is text with a closing zero.</summary>
[CType("struct utsname")]
[LibraryHeader("sys/utsname.h")]
[StructLayout(LayoutKind.Sequential)]
public unsafe struct UtsName
{
    [CName("sysname")]
    public fixed byte SysName[65];
    [CName("nodename")]
    public fixed byte NodeName[65];
    public fixed byte Release[65];
    public fixed byte Version[65];
    public fixed byte Machine[65];
    public fixed byte Reserved[65];
}

public static unsafe partial class Libc
{
    /// <summary>uname(2)'s release ("6.12.0-amd64"), or an empty string if the call fails.</summary>
    public static string KernelRelease()
    {
        UtsName name = default;
        return uname(&name) < 0 ? "" : ByteText.Decode(name.Release) ?? "";
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int uname(UtsName* buf);
}
