using System;
using System.Buffers.Binary;
using System.Net.Sockets;
using System.Text;

namespace Snapuserd.Tests.Support;

/// <summary>The server's reply to an option.</summary>
internal sealed record OptionReply(uint Option, uint Type, byte[] Data);

/// <summary>A reply to a request. <see cref="Type"/> is null for a simple reply; a chunk has its flags and type.</summary>
internal sealed record NbdReply(ulong Cookie, uint Error, ushort? Type, bool Done, byte[] Payload);

/// <summary>An NBD client, written from proto.md, that can also violate the protocol. Sends and receives fail after one minute.</summary>
internal sealed class NbdClient : IDisposable
{
    private const int LongestWait = 60_000;

    private readonly Socket _socket;

    internal NbdClient(string path)
    {
        _socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified)
        {
            ReceiveTimeout = LongestWait,
            SendTimeout = LongestWait,
        };
        _socket.Connect(new UnixDomainSocketEndPoint(path));
    }

    /// <summary>Connects and completes the handshake, with structured replies if requested.</summary>
    internal static NbdClient Ready(string path, bool structured = false)
    {
        NbdClient client = new(path);
        client.Greet();
        if (structured)
        {
            client.SendOption(8);
            if (client.TakeOptionReply().Type != 1) throw new InvalidOperationException("no structured replies");
        }
        client.SendOption(7, Info("", []));
        while (client.TakeOptionReply().Type != 1) { }
        return client;
    }

    internal void Send(ReadOnlySpan<byte> bytes)
    {
        while (!bytes.IsEmpty) bytes = bytes[_socket.Send(bytes)..];
    }

    /// <summary>Receives exactly that many bytes.</summary>
    internal byte[] Take(int count)
    {
        byte[] bytes = new byte[count];
        for (int done = 0; done < count;)
        {
            int got = _socket.Receive(bytes.AsSpan(done));
            if (got == 0) throw new InvalidOperationException($"the server hung up after {done} of {count} bytes");
            done += got;
        }
        return bytes;
    }

    /// <summary>Receives everything until the server closes the connection; returns the number of bytes.</summary>
    internal int Drain()
    {
        byte[] bytes = new byte[65536];
        int total = 0;
        try
        {
            while (_socket.Receive(bytes) is > 0 and int got) total += got;
        }
        catch (SocketException e) when (e.SocketErrorCode == SocketError.ConnectionReset)
        {
            // The server closed the connection before it had received everything that this client sent.
        }
        return total;
    }

    /// <summary>True if data has arrived that this client has not received.</summary>
    internal bool HasData => _socket.Available > 0;

    internal void CloseSending() => _socket.Shutdown(SocketShutdown.Send);

    internal void Greet(uint flags = 3)
    {
        Take(18);
        Send(Big32(flags));
    }

    internal static byte[] Option(uint option, ReadOnlySpan<byte> data = default, uint? length = null) =>
        [.. "IHAVEOPT"u8, .. Big32(option), .. Big32(length ?? (uint)data.Length), .. data];

    internal static byte[] Info(string name, ReadOnlySpan<ushort> infos)
    {
        byte[] data = new byte[4 + name.Length + 2 + (2 * infos.Length)];
        BinaryPrimitives.WriteInt32BigEndian(data, name.Length);
        Encoding.ASCII.GetBytes(name).CopyTo(data, 4);
        BinaryPrimitives.WriteUInt16BigEndian(data.AsSpan(4 + name.Length), (ushort)infos.Length);
        for (int i = 0; i < infos.Length; i++) BinaryPrimitives.WriteUInt16BigEndian(data.AsSpan(6 + name.Length + (2 * i)), infos[i]);
        return data;
    }

    internal void SendOption(uint option, ReadOnlySpan<byte> data = default) => Send(Option(option, data));

    internal OptionReply TakeOptionReply()
    {
        byte[] head = Take(20);
        if (BinaryPrimitives.ReadUInt64BigEndian(head) != 0x3e889045565a9)
            throw new InvalidOperationException("an option reply without its magic");
        return new OptionReply(Read32(head, 8), Read32(head, 12), Take((int)Read32(head, 16)));
    }

    internal static byte[] Request(ushort type, ulong cookie, ulong offset, uint length, ushort flags = 0, uint magic = 0x25609513)
    {
        byte[] request = new byte[28];
        BinaryPrimitives.WriteUInt32BigEndian(request, magic);
        BinaryPrimitives.WriteUInt16BigEndian(request.AsSpan(4), flags);
        BinaryPrimitives.WriteUInt16BigEndian(request.AsSpan(6), type);
        BinaryPrimitives.WriteUInt64BigEndian(request.AsSpan(8), cookie);
        BinaryPrimitives.WriteUInt64BigEndian(request.AsSpan(16), offset);
        BinaryPrimitives.WriteUInt32BigEndian(request.AsSpan(24), length);
        return request;
    }

    internal void SendRequest(ushort type, ulong cookie, ulong offset, uint length, ushort flags = 0) =>
        Send(Request(type, cookie, offset, length, flags));

    /// <summary>Receives a simple reply or a chunk. A simple reply without an error has <paramref name="length"/> bytes of data.</summary>
    internal NbdReply TakeReply(int length = 0)
    {
        byte[] head = Take(16);
        uint magic = Read32(head, 0);
        if (magic == 0x67446698)
        {
            uint error = Read32(head, 4);
            return new NbdReply(BinaryPrimitives.ReadUInt64BigEndian(head.AsSpan(8)), error, null, true, error == 0 ? Take(length) : []);
        }
        if (magic != 0x668e33ef) throw new InvalidOperationException($"a reply with the magic 0x{magic:x8}");
        ushort flags = BinaryPrimitives.ReadUInt16BigEndian(head.AsSpan(4)), type = BinaryPrimitives.ReadUInt16BigEndian(head.AsSpan(6));
        byte[] payload = Take((int)Read32(Take(4), 0));
        return new NbdReply(BinaryPrimitives.ReadUInt64BigEndian(head.AsSpan(8)), (type & 0x8000) != 0 ? Read32(payload, 0) : 0, type,
            (flags & 1) != 0, payload);
    }

    /// <summary>Reads with the negotiated kind of reply; throws on an error.</summary>
    internal byte[] Read(long offset, int length, bool structured)
    {
        SendRequest(0, 77, (ulong)offset, (uint)length);
        return TakeRead(offset, length, structured);
    }

    /// <summary>Receives the reply to a read with cookie 77.</summary>
    internal byte[] TakeRead(long offset, int length, bool structured)
    {
        if (!structured)
        {
            NbdReply reply = TakeReply(length);
            return reply.Error == 0 && reply.Cookie == 77 ? reply.Payload : throw new InvalidOperationException($"{reply}");
        }
        byte[] data = new byte[length];
        int got = 0;
        for (bool done = false; !done;)
        {
            NbdReply chunk = TakeReply();
            if (chunk.Cookie != 77 || chunk.Type != 1) throw new InvalidOperationException($"{chunk}");
            chunk.Payload.AsSpan(8).CopyTo(data.AsSpan((int)(BinaryPrimitives.ReadInt64BigEndian(chunk.Payload) - offset)));
            got += chunk.Payload.Length - 8;
            done = chunk.Done;
        }
        return got == length ? data : throw new InvalidOperationException($"{got} of {length} bytes");
    }

    internal static uint Read32(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt32BigEndian(bytes[at..]);

    internal static byte[] Big32(uint value)
    {
        byte[] bytes = new byte[4];
        BinaryPrimitives.WriteUInt32BigEndian(bytes, value);
        return bytes;
    }

    public void Dispose() => _socket.Dispose();
}
