using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.AndroidDaemon;

/// <summary>
/// Hands the control socket to a daemon that started before init had sockets (daemon §4.4): a second process, the proxy, inherits the
/// socket from init and passes it on. The proxy sends the byte 'a' with the descriptor, and the daemon replies with the byte 'a'.
/// </summary>
public static class SocketHandOver
{
    private const byte Mark = (byte)'a';

    /// <summary>As in Android: one client is expected.</summary>
    private const int Backlog = 4;

    /// <summary>Milliseconds to wait for the peer's byte, which the peer sends at once.</summary>
    private const int AnswerMilliseconds = 10_000;

    /// <summary>
    /// Milliseconds between two attempts of a call on a socket. Sockets are polled because they cannot signal a <see cref="WakeUp"/>. With
    /// 20 ms, neither the delay of a boot nor the load of a processor matters.
    /// </summary>
    private const int LookMilliseconds = 20;

    /// <summary>
    /// The proxy's part: waits on <paramref name="proxy"/> for the daemon, without a time limit, and passes <paramref name="socket"/> to
    /// it. Calls <paramref name="ready"/> when the daemon may connect. Throws with exit code 74 (EX_IOERR) if the daemon does not take the
    /// socket, and with 75 if <paramref name="isOver"/> returns true.
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
            Check("handing over the socket",
                Await(() => (int)Libc.SendDescriptor(client, Mark, socket, Libc.MSG_NOSIGNAL), AnswerMilliseconds, wakeUp, isOver));
            byte[] answer = new byte[1];
            int got = Await(() => (int)Libc.Recv(client, answer, 0), AnswerMilliseconds, wakeUp, isOver);
            if (got == -Errno.ECANCELED) throw Stopped();
            Check("waiting for the daemon's answer", got);
            if (got != 1 || answer[0] != Mark)
                throw new SnapuserdException(ExitCode.InputOutput, "the daemon went away before it had the socket");
        }
        finally
        {
            _ = Libc.Close(client);
        }
    }

    /// <summary>
    /// The daemon's part: returns the socket from the proxy at <paramref name="path"/>. Returns −1 if there is no proxy, if it is busy or
    /// closes the connection, or if <paramref name="isOver"/> returns true. May consume signals of <paramref name="wakeUp"/>, so the caller
    /// must check its state again. Throws with exit code 74 (EX_IOERR) if the proxy sends no socket.
    /// </summary>
    public static int Take(string path, WakeUp wakeUp, Func<bool> isOver)
    {
        // The program at that path may never accept or never send; a daemon that serves a root cannot wait for it.
        int proxy = Check("making a socket", Libc.Socket(Libc.AF_UNIX, Libc.SOCK_SEQPACKET | Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK, 0));
        try
        {
            int connected = Libc.Connect(proxy, path);
            // The socket does not exist, is not listening yet or any more, or has a full backlog: the caller tries again.
            if (connected is -Errno.ENOENT or -Errno.ENOTDIR or -Errno.ECONNREFUSED or -Errno.EAGAIN or -Errno.EINTR) return -1;
            Check($"connecting to {path}", connected);
            int socket = -1;
            int got = Await(() => (int)Libc.ReceiveDescriptor(proxy, out _, out socket, Libc.MSG_CMSG_CLOEXEC), AnswerMilliseconds,
                wakeUp, isOver);
            // If the proxy was killed, another one may start: the caller tries again.
            if (got is 0 or -Errno.ECONNRESET or -Errno.ECANCELED) return -1;
            Check($"receiving from {path}", got);
            if (socket < 0) throw new SnapuserdException(ExitCode.InputOutput, $"{path} gave no socket");
            // Ignore the result: the daemon has the socket even if the proxy is gone, and one byte always fits into the send buffer.
            _ = Libc.Send(proxy, [Mark], Libc.MSG_NOSIGNAL);
            return socket;
        }
        finally
        {
            _ = Libc.Close(proxy);
        }
    }

    /// <summary>
    /// Repeats a non-blocking call until it completes. Returns its result, −ETIMEDOUT after the time limit, −ECANCELED once isOver returns
    /// true.
    /// </summary>
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
        result >= 0 ? result : throw new SnapuserdException(ExitCode.InputOutput, $"{what} failed: {ErrnoText.Of(result)}");
}
