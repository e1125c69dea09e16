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

    /// <summary>Milliseconds for the other side's byte; it has nothing else to do.</summary>
    private const int AnswerMilliseconds = 10_000;

    /// <summary>Milliseconds between two looks at a socket: it cannot signal to whom listens to a <see cref="WakeUp"/>. 20 are nothing at boot and nothing to a processor.</summary>
    private const int LookMilliseconds = 20;

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
        int client = Await(() => Libc.Accept4(proxy, Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK), long.MaxValue, wakeUp, isOver);
        if (client == -Errno.ECANCELED) throw Stopped();
        Check("waiting for the daemon", client);
        try
        {
            Check("handing over the socket", Await(() => (int)Libc.SendDescriptor(client, Mark, socket, Libc.MSG_NOSIGNAL), AnswerMilliseconds, wakeUp, isOver));
            byte[] answer = new byte[1];
            int got = Await(() => (int)Libc.Recv(client, answer, 0), AnswerMilliseconds, wakeUp, isOver);
            if (got == -Errno.ECANCELED) throw Stopped();
            Check("waiting for the daemon's answer", got);
            if (got != 1 || answer[0] != Mark) throw new SnapuserdException(ExitCode.InputOutput, "the daemon went away before it had the socket");
        }
        finally
        {
            _ = Libc.Close(client);
        }
    }

    /// <summary>
    /// The daemon's part: the socket that the proxy at <paramref name="path"/> gives; −1 while there is no proxy, or it is busy, or <paramref name="isOver"/> says that nobody wants it any more.
    /// Takes signals of <paramref name="wakeUp"/> meanwhile: look at everything again. Exit code 74 if the proxy gives something else, or nothing.
    /// </summary>
    public static int Take(string path, WakeUp wakeUp, Func<bool> isOver)
    {
        // Whoever listens there may never let anybody in, or say nothing then; who serves a root cannot wait for that.
        int proxy = Check("making a socket", Libc.Socket(Libc.AF_UNIX, Libc.SOCK_SEQPACKET | Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK, 0));
        try
        {
            int connected = Libc.Connect(proxy, path);
            // Not there, not listening yet, or no longer, or it has no place for one more: the next look will tell.
            if (connected is -Errno.ENOENT or -Errno.ENOTDIR or -Errno.ECONNREFUSED or -Errno.EAGAIN or -Errno.EINTR) return -1;
            Check($"connecting to {path}", connected);
            int socket = -1;
            int got = Await(() => (int)Libc.ReceiveDescriptor(proxy, out _, out socket, Libc.MSG_CMSG_CLOEXEC), AnswerMilliseconds, wakeUp, isOver);
            // A proxy that was killed meanwhile may be followed by another.
            if (got is 0 or -Errno.ECONNRESET or -Errno.ECANCELED) return -1;
            Check($"receiving from {path}", got);
            if (socket < 0) throw new SnapuserdException(ExitCode.InputOutput, $"{path} gave no socket");
            // The socket is here whether or not the proxy lives to hear it, and a byte has room.
            _ = Libc.Send(proxy, [Mark], Libc.MSG_NOSIGNAL);
            return socket;
        }
        finally
        {
            _ = Libc.Close(proxy);
        }
    }

    /// <summary>What a call yields that does not block, once it can; −ETIMEDOUT if that takes too long, −ECANCELED when nobody waits any more.</summary>
    private static int Await(Func<int> call, long milliseconds, WakeUp wakeUp, Func<bool> isOver)
    {
        MonotonicClock clock = new();
        long began = clock.Milliseconds;
        int result;
        while ((result = call()) is -Errno.EAGAIN or -Errno.EINTR)
        {
            if (isOver()) return -Errno.ECANCELED;
            if (clock.Milliseconds - began >= milliseconds) return -Errno.ETIMEDOUT;
            _ = wakeUp.Wait(LookMilliseconds);
        }
        return result;
    }

    private static SnapuserdException Stopped() => new(ExitCode.Interrupted, "stopped before the daemon had its socket");

    private static int Check(string what, int result) =>
        result >= 0 ? result : throw new SnapuserdException(ExitCode.InputOutput, $"{what} failed: {Reason.Of(result)}");
}
