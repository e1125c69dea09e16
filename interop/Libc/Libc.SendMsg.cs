using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>A piece of memory for calls that take several.</summary>
[CType("struct iovec", FieldPrefix = "iov_")]
[LibraryHeader("sys/uio.h")]
[StructLayout(LayoutKind.Sequential)]
public unsafe struct IoVector
{
    public void* Base;
    public nint Len;
}

/// <summary>Argument of sendmsg(2).</summary>
[CType("struct msghdr", FieldPrefix = "msg_")]
[LibraryHeader("sys/socket.h")]
[StructLayout(LayoutKind.Sequential)]
public unsafe struct MessageHeader
{
    public void* Name;
    [CName("msg_namelen")]
    public uint NameLength;
    public uint Reserved;
    public IoVector* Iov;
    [CName("msg_iovlen")]
    public nint IovLength;
    public void* Control;
    [CName("msg_controllen")]
    public nint ControlLength;
    public int Flags;
    public int Reserved2;
}

public static unsafe partial class Libc
{
    /// <summary>
    /// sendmsg(2) of two pieces of memory, <paramref name="first"/> before <paramref name="second"/>. Returns the number of bytes sent,
    /// which may be less than all, or a negative errno.
    /// </summary>
    public static nint SendMsg(int fd, ReadOnlySpan<byte> first, ReadOnlySpan<byte> second, int flags)
    {
        fixed (byte* head = first, body = second)
        {
            IoVector* pieces = stackalloc IoVector[2];
            pieces[0] = new IoVector { Base = head, Len = first.Length };
            pieces[1] = new IoVector { Base = body, Len = second.Length };
            MessageHeader message = new() { Iov = pieces, IovLength = 2 };
            nint done = sendmsg(fd, &message, flags);
            return done < 0 ? -Marshal.GetLastPInvokeError() : done;
        }
    }

    [DllImport("libc", SetLastError = true)]
    private static extern nint sendmsg(int sockfd, MessageHeader* msg, int flags);
}
