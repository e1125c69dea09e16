using System;
using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using Snapuserd.Interop;
using Xunit;

namespace Snapuserd.Tests.Serve;

/// <summary>
/// The kernel's side of dm-user channels, over socket pairs. As in the driver, each channel is an open descriptor with requests of its own.
/// </summary>
internal sealed class DmUserPeer : IDisposable
{
    internal const int Stream = 1, SeqPacket = 5;
    private const int Unix = 1, CloseOnExec = 0x80000;

    private readonly ConcurrentQueue<int> _unopened = new();
    private readonly int _type;

    /// <summary>
    /// A peer whose server can open <paramref name="channels"/> channels. The next open fails with ENXIO, as after the removal of the
    /// device.
    /// </summary>
    internal DmUserPeer(int channels, int type = Stream)
    {
        _type = type;
        Channels = new int[channels];
        for (int i = 0; i < channels; i++)
        {
            int[] pair = new int[2];
            Assert.Equal(0, socketpair(Unix, _type | CloseOnExec, 0, pair));
            Channels[i] = pair[0];
            _unopened.Enqueue(pair[1]);
        }
    }

    /// <summary>The kernel's ends of the channels, in the order in which the server opens the other ends.</summary>
    internal int[] Channels { get; }

    internal int Opened => Channels.Length - _unopened.Count;

    internal int Open() => _unopened.TryDequeue(out int fd) ? fd : -Errno.ENXIO;

    internal void Ask(int channel, ulong seq, ulong type, ulong sector, ulong bytes, byte[]? data = null)
    {
        DmUserMessage message = new() { Seq = seq, Type = type, Flags = 8, Sector = sector, Len = bytes };
        Send(channel, MemoryMarshal.AsBytes(new ReadOnlySpan<DmUserMessage>(in message)));
        if (data is not null) Send(channel, data);
    }

    internal void Send(int channel, ReadOnlySpan<byte> bytes)
    {
        while (bytes.Length > 0)
        {
            nint sent = Libc.Write(Channels[channel], bytes);
            if (sent == -Errno.EINTR) continue;
            Assert.True(sent > 0, Errno.Name((int)sent));
            bytes = bytes[(int)sent..];
        }
    }

    /// <summary>Reads until all bytes have arrived or the channel is closed.</summary>
    internal int Take(int channel, Span<byte> bytes)
    {
        int taken = 0;
        while (taken < bytes.Length)
        {
            nint got = Libc.Read(Channels[channel], bytes[taken..]);
            if (got == -Errno.EINTR) continue;
            if (got == -Errno.ECONNRESET) break;
            Assert.True(got >= 0, Errno.Name((int)got));
            if (got == 0) break;
            taken += (int)got;
        }
        return taken;
    }

    /// <summary>Reads the header of a reply. All fields except the type must equal those of the request.</summary>
    internal ulong TakeHead(int channel, ulong seq, ulong sector, ulong bytes)
    {
        byte[] head = new byte[DmUser.MessageBytes];
        Assert.Equal(head.Length, Take(channel, head));
        DmUserMessage answer = MemoryMarshal.Read<DmUserMessage>(head);
        Assert.Equal((seq, 8ul, sector, bytes), (answer.Seq, answer.Flags, answer.Sector, answer.Len));
        return answer.Type;
    }

    /// <summary>Requests bytes and receives them; null if the reply is an error.</summary>
    internal byte[]? Read(int channel, ulong seq, ulong sector, int bytes)
    {
        Ask(channel, seq, DmUser.DM_USER_REQ_MAP_READ, sector, (ulong)bytes);
        ulong how = TakeHead(channel, seq, sector, (ulong)bytes);
        if (how == DmUser.DM_USER_RESP_ERROR) return null;
        Assert.Equal(DmUser.DM_USER_RESP_SUCCESS, how);
        byte[] data = new byte[bytes];
        Assert.Equal(bytes, Take(channel, data));
        return data;
    }

    /// <summary>Sends a request other than a read, and returns the result in the reply.</summary>
    internal ulong Other(int channel, ulong seq, ulong type, ulong bytes, byte[]? data = null)
    {
        Ask(channel, seq, type, 8, bytes, data);
        return TakeHead(channel, seq, 8, bytes);
    }

    /// <summary>Reads once (read(2)). With SOCK_SEQPACKET that returns the bytes of one send.</summary>
    internal int TakePacket(int channel, Span<byte> bytes)
    {
        nint got;
        do got = Libc.Read(Channels[channel], bytes);
        while (got == -Errno.EINTR);
        return (int)got;
    }

    internal void Close(int channel)
    {
        if (Channels[channel] >= 0) _ = Libc.Close(Channels[channel]);
        Channels[channel] = -1;
    }

    public void Dispose()
    {
        for (int i = 0; i < Channels.Length; i++) Close(i);
        while (_unopened.TryDequeue(out int fd)) _ = Libc.Close(fd);
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int socketpair(int domain, int type, int protocol, int[] sv);
}
