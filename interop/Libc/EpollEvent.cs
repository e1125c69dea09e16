using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>An event of epoll(7) on x86-64, where it is packed.</summary>
[OnlyOn(Architecture.X64)]
[CType("struct epoll_event")]
[LibraryHeader("sys/epoll.h")]
[StructLayout(LayoutKind.Sequential, Pack = 4)]
internal struct EpollEventX64
{
    public uint Events;
    public ulong Data;
}

/// <summary>The same on arm64, where it is aligned.</summary>
[OnlyOn(Architecture.Arm64)]
[CType("struct epoll_event")]
[LibraryHeader("sys/epoll.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct EpollEventArm64
{
    public uint Events;
    public ulong Data;
}
