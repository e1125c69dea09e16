using System;
using System.Runtime.InteropServices;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.AndroidDaemon;

/// <summary>
/// Sets Android's properties as bionic does, by a request to init: a command and two strings, each with its length before it. The reply has
/// four bytes. Numbers are in the machine's byte order. Properties are not read, because that would need bionic's own map of files.
/// </summary>
public static class PropertyService
{
    /// <summary>The socket on which init listens. If it does not exist, no process waits for a property either.</summary>
    public const string Path = "/dev/socket/property_service";

    /// <summary>PROP_MSG_SETPROP2 of bionic's _system_properties.h.</summary>
    private const uint SetCommand = 0x00020001;

    /// <summary>Seconds to wait for init's reply, which does not take long: init replies before it runs the property's actions.</summary>
    private const int AnswerSeconds = 10;

    /// <summary>Sets a property. Returns why it could not be set; null if it was set, or if there is no property service.</summary>
    public static string? Set(string name, string value, string path = Path)
    {
        int fd = Libc.Socket(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC, 0);
        if (fd < 0) return Failed(name, fd);
        try
        {
            int connected = Libc.Connect(fd, path);
            if (connected is -Errno.ENOENT or -Errno.ENOTDIR) return null;
            if (connected < 0) return Failed(name, connected);
            byte[] message = new byte[12 + ByteText.GetByteCount(name) + ByteText.GetByteCount(value)];
            Write(message, SetCommand);
            int end = Append(message, Append(message, 4, name), value);
            if (end != message.Length) throw new InvalidOperationException("the length of the message is not the sum of its parts");
            int sent = (int)Libc.Send(fd, message, Libc.MSG_NOSIGNAL);
            // The send buffer of a new socket has room for the whole message.
            if (sent != message.Length) return Failed(name, sent < 0 ? sent : -Errno.EIO);
            _ = Libc.SetSockOpt(fd, Libc.SOL_SOCKET, Libc.SO_RCVTIMEO, new TimeVal { Seconds = AnswerSeconds });
            byte[] answer = new byte[4];
            int got = (int)Libc.Recv(fd, answer, 0);
            if (got != answer.Length) return Failed(name, got < 0 ? got : -Errno.EIO);
            uint result = BitConverter.ToUInt32(answer);
            return result == 0 ? null : $"the property {name} is not set: init answered {result}";
        }
        finally
        {
            _ = Libc.Close(fd);
        }
    }

    private static string Failed(string name, int errno) => $"the property {name} is not set: {ErrnoText.Of(errno)}";

    private static int Append(Span<byte> message, int at, string text)
    {
        int length = ByteText.Encode(text, message[(at + 4)..]);
        Write(message[at..], (uint)length);
        return at + 4 + length;
    }

    private static void Write(Span<byte> target, uint number) => MemoryMarshal.Write(target, number);
}
