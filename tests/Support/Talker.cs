using System;
using System.Diagnostics;
using System.Net.Sockets;
using System.Text;
using System.Threading;

namespace Snapuserd.Tests.Support;

/// <summary>A client of a control socket. Any call that takes longer than its time limit fails the test.</summary>
internal sealed class Talker : IDisposable
{
    private const int PatienceMilliseconds = 60_000;

    private readonly Socket _socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified)
    {
        ReceiveTimeout = PatienceMilliseconds,
        SendTimeout = PatienceMilliseconds,
    };
    private readonly StringBuilder _lines = new();

    internal Talker(string path, string? greeting = null)
    {
        _socket.Connect(new UnixDomainSocketEndPoint(path));
        if (greeting != null) Send(greeting);
    }

    internal static Talker Lines(string path) => new(path, "ctl 1\n");

    /// <summary>Connects to a started daemon once it listens. Fails if the daemon ends first.</summary>
    internal static Talker Connected(Process daemon, string path)
    {
        while (true)
        {
            try
            {
                return new Talker(path);
            }
            catch (SocketException)
            {
                if (daemon.HasExited)
                    throw new InvalidOperationException($"the daemon ended with {daemon.ExitCode} before it listened at {path}");
                Thread.Sleep(5);
            }
        }
    }

    internal void Send(string text) => Send(Encoding.UTF8.GetBytes(text));

    internal void Send(ReadOnlySpan<byte> bytes)
    {
        while (!bytes.IsEmpty) bytes = bytes[_socket.Send(bytes)..];
    }

    /// <summary>Receives one answer as Android's client does; "" when the connection is closed.</summary>
    internal string Receive()
    {
        byte[] answer = new byte[512];
        try
        {
            return Encoding.UTF8.GetString(answer, 0, _socket.Receive(answer));
        }
        catch (SocketException e) when (e.SocketErrorCode == SocketError.ConnectionReset)
        {
            return "";
        }
    }

    /// <summary>Receives answers of that many bytes in total, which the stream may have joined.</summary>
    internal string Exactly(int bytes)
    {
        StringBuilder all = new();
        while (all.Length < bytes && Receive() is { Length: > 0 } more) all.Append(more);
        return all.ToString();
    }

    internal string Ask(string message)
    {
        Send(message);
        return Receive();
    }

    /// <summary>One line without its line feed; null when the connection is closed.</summary>
    internal string? Line()
    {
        while (true)
        {
            string text = _lines.ToString();
            int end = text.IndexOf('\n');
            if (end >= 0)
            {
                _lines.Remove(0, end + 1);
                return text[..end];
            }
            string more = Receive();
            if (more.Length == 0) return null;
            _lines.Append(more);
        }
    }

    internal void EndSending() => _socket.Shutdown(SocketShutdown.Send);

    public void Dispose() => _socket.Dispose();
}
