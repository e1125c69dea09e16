using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>Header of one control message in the ancillary data of sendmsg(2) or recvmsg(2).</summary>
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
    /// <summary>Type of a control message that carries file descriptors.</summary>
    public const int SCM_RIGHTS = 1;
    /// <summary>Flag of recvmsg(2) that makes received descriptors close-on-exec.</summary>
    public const int MSG_CMSG_CLOEXEC = 0x40000000;

    /// <summary>sendmsg(2) of one byte and a descriptor; the receiver gets its own copy. Returns 1 or a negative errno.</summary>
    public static nint SendDescriptor(int socket, byte data, int fd, int flags) => SendDescriptors(socket, [data], [fd], flags);

    /// <summary>
    /// recvmsg(2) of one byte and the descriptor sent with it, which is close-on-exec. <paramref name="fd"/> is −1 if the byte came without
    /// one. Returns the number of bytes, 0 when the peer has closed, or a negative errno.
    /// </summary>
    public static nint ReceiveDescriptor(int socket, out byte data, out int fd, int flags)
    {
        Span<byte> received = stackalloc byte[1];
        Span<int> fds = stackalloc int[1];
        received[0] = 0;
        nint done = ReceiveDescriptors(socket, received, fds, out int count, flags);
        (data, fd) = (received[0], count > 0 ? fds[0] : -1);
        return done;
    }

    /// <summary>The largest number of descriptors that these methods send or receive with one message.</summary>
    public const int MostDescriptors = 4;

    // CMSG_LEN for this many descriptors. CMSG_SPACE is the same, rounded up to a multiple of 8.
    private static int DescriptorsLength(int count) => sizeof(ControlHeader) + (count * sizeof(int));

    /// <summary>
    /// sendmsg(2) of <paramref name="data"/> with 1 to <see cref="MostDescriptors"/> descriptors, which arrive with the first byte.
    /// Returns the number of bytes sent or a negative errno.
    /// </summary>
    public static nint SendDescriptors(int socket, ReadOnlySpan<byte> data, ReadOnlySpan<int> fds, int flags)
    {
        if (fds.Length is 0 or > MostDescriptors)
            throw new ArgumentException($"{fds.Length} descriptors instead of 1 to {MostDescriptors}", nameof(fds));
        ulong* control = stackalloc ulong[(sizeof(ControlHeader) + (MostDescriptors * sizeof(int))) / sizeof(ulong)];
        *(ControlHeader*)control = new ControlHeader { Length = DescriptorsLength(fds.Length), Level = SOL_SOCKET, Type = SCM_RIGHTS };
        fds.CopyTo(new Span<int>((ControlHeader*)control + 1, MostDescriptors));
        fixed (byte* bytes = data)
        {
            IoVector piece = new() { Base = bytes, Len = data.Length };
            MessageHeader message = new()
            {
                Iov = &piece,
                IovLength = 1,
                Control = control,
                ControlLength = (DescriptorsLength(fds.Length) + sizeof(ulong) - 1) & -sizeof(ulong),
            };
            nint done = sendmsg(socket, &message, flags);
            return done < 0 ? -Marshal.GetLastPInvokeError() : done;
        }
    }

    /// <summary>
    /// recvmsg(2) of bytes and the descriptors sent with them, which are close-on-exec. <paramref name="fds"/> has 1 to
    /// <see cref="MostDescriptors"/> elements, of which the first <paramref name="count"/> are filled. The kernel discards descriptors that
    /// do not fit. Returns the number of bytes, 0 when the peer has closed, or a negative errno.
    /// </summary>
    public static nint ReceiveDescriptors(int socket, Span<byte> data, Span<int> fds, out int count, int flags)
    {
        if (fds.Length is 0 or > MostDescriptors)
            throw new ArgumentException($"{fds.Length} elements instead of 1 to {MostDescriptors}", nameof(fds));
        count = 0;
        ulong* control = stackalloc ulong[(sizeof(ControlHeader) + (MostDescriptors * sizeof(int))) / sizeof(ulong)];
        ControlHeader* header = (ControlHeader*)control;
        fixed (byte* bytes = data)
        {
            IoVector piece = new() { Base = bytes, Len = data.Length };
            MessageHeader message = new() { Iov = &piece, IovLength = 1, Control = control, ControlLength = DescriptorsLength(fds.Length) };
            nint done = recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
            if (done < 0) return -Marshal.GetLastPInvokeError();
            if (message.ControlLength < DescriptorsLength(1) || header->Level != SOL_SOCKET || header->Type != SCM_RIGHTS) return done;
            count = (int)(Math.Min(header->Length, message.ControlLength) - sizeof(ControlHeader)) / sizeof(int);
            new ReadOnlySpan<int>(header + 1, count).CopyTo(fds);
            return done;
        }
    }

    [DllImport("libc", SetLastError = true)]
    private static extern nint recvmsg(int sockfd, MessageHeader* msg, int flags);
}
