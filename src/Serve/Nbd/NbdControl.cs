using System;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>
/// Controls the kernel's NBD client by generic netlink. (With the older ioctl interface, a thread would have to stay in a system call while
/// the device exists.) Only one thread may use it at a time.
/// </summary>
internal sealed class NbdControl : IDisposable
{
    /// <summary>Bytes of a buffer for a message with a few sockets and a long identifier. Replies are shorter.</summary>
    private const int MessageBytes = 4096;

    private readonly byte[] _message = new byte[MessageBytes];
    private readonly byte[] _answer = new byte[MessageBytes];
    private readonly ushort _family;
    private int _fd;
    private int _length;
    private uint _sequence;

    /// <summary>
    /// Looks up the netlink family. Throws with exit code 69 if this kernel has no NBD, and 71 if no descriptors are left.
    /// </summary>
    public NbdControl()
    {
        _fd = Libc.Socket(Libc.AF_NETLINK, Libc.SOCK_RAW | Libc.SOCK_CLOEXEC, Libc.NETLINK_GENERIC);
        if (_fd < 0) throw ErrnoPolicy.Failure(FailedCall.OpenDriver, _fd, "cannot make a netlink socket, by which NBD devices are made");
        try
        {
            Begin(NbdNetlink.GENL_ID_CTRL, NbdNetlink.CTRL_CMD_GETFAMILY, 1);
            Add(NbdNetlink.CTRL_ATTR_FAMILY_NAME, "nbd");
            int result = Call(NbdNetlink.CTRL_ATTR_FAMILY_ID, out uint family);
            if (result < 0)
            {
                throw new SnapuserdException(ErrnoPolicy.CodeOf(FailedCall.OpenDriver, result),
                    $"this kernel has no NBD driver; try modprobe nbd, or --socket for clients in user space ({Errno.Name(result)})");
            }
            _family = (ushort)family;
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Creates a device from connected sockets; index −1 selects a free device. Returns its index, or a negative errno.</summary>
    public int Connect(int index, long lengthBytes, int blockBytes, ushort flags, NbdOptions options, string identifier,
        ReadOnlySpan<int> sockets)
    {
        Begin(_family, NbdNetlink.NBD_CMD_CONNECT, NbdNetlink.NBD_GENL_VERSION);
        if (index >= 0) Add(NbdNetlink.NBD_ATTR_INDEX, (uint)index);
        Add(NbdNetlink.NBD_ATTR_SIZE_BYTES, (ulong)lengthBytes);
        Add(NbdNetlink.NBD_ATTR_BLOCK_SIZE_BYTES, (ulong)blockBytes);
        Add(NbdNetlink.NBD_ATTR_TIMEOUT, (ulong)options.RequestSeconds);
        Add(NbdNetlink.NBD_ATTR_DEAD_CONN_TIMEOUT, (ulong)options.DeadConnectionSeconds);
        Add(NbdNetlink.NBD_ATTR_SERVER_FLAGS, (ulong)flags);
        Add(NbdNetlink.NBD_ATTR_BACKEND_IDENTIFIER, identifier);
        AddSockets(sockets);
        int result = Call(NbdNetlink.NBD_ATTR_INDEX, out uint connected);
        return result < 0 ? result : (int)connected;
    }

    /// <summary>
    /// Offers sockets as replacements for dead ones. Returns 0 or a negative errno. Also returns 0 if the kernel does not need the sockets;
    /// then their other ends hang up once this process closes its copies.
    /// </summary>
    public int Reconnect(int index, string identifier, ReadOnlySpan<int> sockets)
    {
        Begin(_family, NbdNetlink.NBD_CMD_RECONFIGURE, NbdNetlink.NBD_GENL_VERSION);
        Add(NbdNetlink.NBD_ATTR_INDEX, (uint)index);
        Add(NbdNetlink.NBD_ATTR_BACKEND_IDENTIFIER, identifier);
        AddSockets(sockets);
        return Call(0, out _);
    }

    /// <summary>Removes a device; its requests fail. Returns 0 or a negative errno.</summary>
    public int Disconnect(int index)
    {
        Begin(_family, NbdNetlink.NBD_CMD_DISCONNECT, NbdNetlink.NBD_GENL_VERSION);
        Add(NbdNetlink.NBD_ATTR_INDEX, (uint)index);
        return Call(0, out _);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_fd >= 0) _ = Libc.Close(_fd);
        _fd = -1;
    }

    private void Begin(ushort family, byte command, byte version)
    {
        _length = Unsafe.SizeOf<NetlinkHeader>();
        MemoryMarshal.Write(_message,
            new NetlinkHeader { Type = family, Flags = NbdNetlink.NLM_F_REQUEST | NbdNetlink.NLM_F_ACK, Sequence = ++_sequence });
        Append(new GenericHeader { Command = command, Version = version });
    }

    private void Append<T>(T value) where T : struct
    {
        MemoryMarshal.Write(_message.AsSpan(_length), value);
        _length += Unsafe.SizeOf<T>();
    }

    private void Add<T>(ushort type, T value) where T : struct
    {
        Append(new NetlinkAttribute { Length = (ushort)(Unsafe.SizeOf<NetlinkAttribute>() + Unsafe.SizeOf<T>()), Type = type });
        Append(value);
    }

    private void Add(ushort type, string text)
    {
        int bytes = ByteText.GetByteCount(text) + 1;
        Append(new NetlinkAttribute { Length = (ushort)(Unsafe.SizeOf<NetlinkAttribute>() + bytes), Type = type });
        Span<byte> padded = _message.AsSpan(_length, (bytes + 3) & -4);
        padded.Clear();
        _ = ByteText.Encode(text, padded);
        _length += padded.Length;
    }

    private void AddSockets(ReadOnlySpan<int> sockets)
    {
        int attribute = Unsafe.SizeOf<NetlinkAttribute>(), item = (2 * attribute) + sizeof(uint);
        Append(new NetlinkAttribute { Length = (ushort)(attribute + (sockets.Length * item)), Type = NbdNetlink.NBD_ATTR_SOCKETS });
        foreach (int socket in sockets)
        {
            Append(new NetlinkAttribute { Length = (ushort)item, Type = NbdNetlink.NBD_SOCK_ITEM });
            Add(NbdNetlink.NBD_SOCK_FD, (uint)socket);
        }
    }

    /// <summary>
    /// Sends the message and receives replies until the acknowledgement, and returns its result. <paramref name="value"/> is the attribute
    /// <paramref name="wanted"/> of the other replies, 0 if none has it.
    /// </summary>
    private int Call(ushort wanted, out uint value)
    {
        value = 0;
        MemoryMarshal.Write(_message, MemoryMarshal.Read<NetlinkHeader>(_message) with { Length = (uint)_length });
        nint sent;
        do sent = Libc.Send(_fd, _message.AsSpan(0, _length), 0);
        while (Retry.Interrupted(sent));
        if (sent < 0) return (int)sent;
        while (true)
        {
            nint got = Libc.Recv(_fd, _answer, 0);
            if (Retry.Interrupted(got)) continue;
            if (got < 0) return (int)got;
            if (Take(_answer.AsSpan(0, (int)got), wanted, ref value) is { } result) return result;
        }
    }

    /// <summary>
    /// Parses the messages of one datagram. Returns the result in the acknowledgement (NLMSG_ERROR), or null if it is not among them.
    /// </summary>
    private int? Take(ReadOnlySpan<byte> bytes, ushort wanted, ref uint value)
    {
        int before = Unsafe.SizeOf<NetlinkHeader>();
        while (bytes.Length >= before)
        {
            NetlinkHeader header = MemoryMarshal.Read<NetlinkHeader>(bytes);
            if (header.Length < before || header.Length > bytes.Length) return -Errno.EBADMSG;
            ReadOnlySpan<byte> body = bytes[before..(int)header.Length];
            bytes = bytes[Math.Min(((int)header.Length + 3) & -4, bytes.Length)..];
            // Skip the reply to an earlier call that was abandoned.
            if (header.Sequence != _sequence) continue;
            if (header.Type == NbdNetlink.NLMSG_ERROR) return body.Length < sizeof(int) ? -Errno.EBADMSG : MemoryMarshal.Read<int>(body);
            if (body.Length > Unsafe.SizeOf<GenericHeader>()) TakeAttributes(body[Unsafe.SizeOf<GenericHeader>()..], wanted, ref value);
        }
        return null;
    }

    private static void TakeAttributes(ReadOnlySpan<byte> bytes, ushort wanted, ref uint value)
    {
        int before = Unsafe.SizeOf<NetlinkAttribute>();
        while (bytes.Length >= before)
        {
            NetlinkAttribute attribute = MemoryMarshal.Read<NetlinkAttribute>(bytes);
            if (attribute.Length < before || attribute.Length > bytes.Length) return;
            ReadOnlySpan<byte> body = bytes[before..attribute.Length];
            if ((attribute.Type & NbdNetlink.NLA_TYPE_MASK) == wanted)
                value = body.Length >= sizeof(uint) ? MemoryMarshal.Read<uint>(body)
                    : body.Length >= sizeof(ushort) ? MemoryMarshal.Read<ushort>(body) : value;
            bytes = bytes[Math.Min((attribute.Length + 3) & -4, bytes.Length)..];
        }
    }
}
