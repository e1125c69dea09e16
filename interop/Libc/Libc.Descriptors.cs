using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>What stands before each piece of a message's control data.</summary>
[CType("struct cmsghdr", FieldPrefix = "cmsg_")]
[LibraryHeader("sys/socket.h")]
[StructLayout(LayoutKind.Sequential)]
public struct ControlHeader
{
    [CName("cmsg_len")]
    public nint Length;
    public int Level;
    public int Type;
}

public static unsafe partial class Libc
{
    /// <summary>Control data that is descriptors.</summary>
    public const int SCM_RIGHTS = 1;
    /// <summary>Descriptors that arrive are not inherited by programs that this one starts.</summary>
    public const int MSG_CMSG_CLOEXEC = 0x40000000;

    /// <summary>A <see cref="ControlHeader"/> with one descriptor, filled up to the next one as CMSG_SPACE does it.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct OneDescriptor
    {
        public ControlHeader Header;
        public int Fd;
        public int Filling;
    }

    /// <summary>sendmsg(2) of one byte together with a descriptor, of which the receiver gets one of its own. Returns 1 or a negative errno.</summary>
    public static nint SendDescriptor(int socket, byte data, int fd, int flags)
    {
        OneDescriptor control = new()
        {
            Header = new ControlHeader { Length = sizeof(ControlHeader) + sizeof(int), Level = SOL_SOCKET, Type = SCM_RIGHTS },
            Fd = fd,
        };
        IoVector piece = new() { Base = &data, Len = 1 };
        MessageHeader message = new() { Iov = &piece, IovLength = 1, Control = &control, ControlLength = sizeof(OneDescriptor) };
        nint done = sendmsg(socket, &message, flags);
        return done < 0 ? -Marshal.GetLastPInvokeError() : done;
    }

    /// <summary>recvmsg(2) of one byte and the descriptor that came with it; −1 if none did. Returns the number of bytes, 0 when the peer has closed, or a negative errno.</summary>
    public static nint ReceiveDescriptor(int socket, out byte data, out int fd, int flags)
    {
        OneDescriptor control = default;
        byte received = 0;
        IoVector piece = new() { Base = &received, Len = 1 };
        MessageHeader message = new() { Iov = &piece, IovLength = 1, Control = &control, ControlLength = sizeof(OneDescriptor) };
        nint done = recvmsg(socket, &message, flags);
        if (done < 0) done = -Marshal.GetLastPInvokeError();
        bool one = done > 0 && message.ControlLength >= sizeof(ControlHeader) + sizeof(int) && control.Header is { Level: SOL_SOCKET, Type: SCM_RIGHTS };
        (data, fd) = (received, one ? control.Fd : -1);
        return done;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern nint recvmsg(int sockfd, MessageHeader* msg, int flags);
}
