using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Daemon;

/// <summary>
/// How a daemon that was started before there was an init with sockets gets the socket that init has made since (daemon §4.4): a second process, the proxy, inherits it and hands it
/// over. One byte 'a' with the descriptor, one byte 'a' back.
/// </summary>
public static class SocketHandOver
{
    private const byte Mark = (byte)'a';

    /// <summary>As in Android: one client is expected.</summary>
    private const int Backlog = 4;

    /// <summary>Seconds for the other side's byte; it has nothing else to do.</summary>
    private const int AnswerSeconds = 10;

    /// <summary>
    /// The proxy's part: waits on <paramref name="proxy"/> for the daemon, for as long as that takes, and gives it <paramref name="socket"/>. <paramref name="ready"/> is called when the daemon may come. Exit code 74 if the
    /// daemon does not take it, 75 if <paramref name="isOver"/> says that nobody wants it any more.
    /// </summary>
    public static void Give(int proxy, int socket, Action ready, WakeUp wakeUp, Func<bool> isOver)
    {
        Check("listening for the daemon", Libc.Listen(proxy, Backlog));
        ready();
        int flags = Check("preparing the proxy's socket", Libc.Fcntl(proxy, Libc.F_GETFL, 0));
        Check("preparing the proxy's socket", Libc.Fcntl(proxy, Libc.F_SETFL, flags | Libc.SOCK_NONBLOCK));
        int client;
        while ((client = Libc.Accept4(proxy, Libc.SOCK_CLOEXEC)) is -Errno.EAGAIN or -Errno.EINTR)
        {
            if (isOver()) throw new SnapuserdException(ExitCode.Interrupted, "stopped before the daemon came for its socket");
            // A connection has no way to signal; 20 ms are nothing at boot and nothing to a processor.
            _ = wakeUp.Wait(20);
        }
        Check("waiting for the daemon", client);
        try
        {
            LimitSilence(client);
            Check("handing over the socket", (int)Again(() => Libc.SendDescriptor(client, Mark, socket, Libc.MSG_NOSIGNAL)));
            byte[] answer = new byte[1];
            int got = Check("waiting for the daemon's answer", (int)Again(() => Libc.Recv(client, answer, 0)));
            if (got != 1 || answer[0] != Mark) throw new SnapuserdException(ExitCode.InputOutput, "the daemon went away before it had the socket");
        }
        finally
        {
            _ = Libc.Close(client);
        }
    }

    /// <summary>The daemon's part: the socket that the proxy at <paramref name="path"/> gives; −1 while there is no proxy. Exit code 74 if it gives something else.</summary>
    public static int Take(string path)
    {
        int proxy = Check("making a socket", Libc.Socket(Libc.AF_UNIX, Libc.SOCK_SEQPACKET | Libc.SOCK_CLOEXEC, 0));
        try
        {
            int connected = Libc.Connect(proxy, path);
            // Not there, not listening yet, or no longer: the next look will tell.
            if (connected is -Errno.ENOENT or -Errno.ENOTDIR or -Errno.ECONNREFUSED or -Errno.EAGAIN or -Errno.EINTR) return -1;
            Check($"connecting to {path}", connected);
            LimitSilence(proxy);
            int socket = -1;
            int got = (int)Again(() => Libc.ReceiveDescriptor(proxy, out _, out socket, Libc.MSG_CMSG_CLOEXEC));
            // A proxy that was killed meanwhile may be followed by another.
            if (got == 0 || got == -Errno.ECONNRESET) return -1;
            Check($"receiving from {path}", got);
            if (socket < 0) throw new SnapuserdException(ExitCode.InputOutput, $"{path} gave no socket");
            // The socket is here whether or not the proxy lives to hear it.
            _ = Again(() => Libc.Send(proxy, [Mark], Libc.MSG_NOSIGNAL));
            return socket;
        }
        finally
        {
            _ = Libc.Close(proxy);
        }
    }

    private static void LimitSilence(int socket) => _ = Libc.SetSockOpt(socket, Libc.SOL_SOCKET, Libc.SO_RCVTIMEO, new TimeValue { Sec = AnswerSeconds });

    private static nint Again(Func<nint> call)
    {
        nint result;
        do result = call();
        while (result == -Errno.EINTR);
        return result;
    }

    private static int Check(string what, int result) =>
        result >= 0 ? result : throw new SnapuserdException(ExitCode.InputOutput, $"{what} failed: {Reason.Of(result)}");
}
