using System;
using System.Buffers.Binary;
using System.Text;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>The handshake with a client up to the first request (proto.md, "Fixed newstyle negotiation").</summary>
internal sealed class NbdNegotiation(NbdSocket socket, NbdExport export)
{
    /// <summary>A name of the longest kind and what else INFO and GO may ask for.</summary>
    private const int LongestData = 2 * NbdProtocol.LongestString;

    /// <summary>An option with more data than that is read to its end and refused, up to here; beyond it the client is dropped.</summary>
    private const int MostSkipped = 1 << 20;

    /// <summary>Clients need half a dozen. A client that never ends would keep its place.</summary>
    private const int MostOptions = 256;

    private readonly byte[] _data = new byte[LongestData];
    private bool _noZeroes;

    /// <summary>The client wants reads to be answered in chunks.</summary>
    public bool Structured { get; private set; }

    /// <summary>True when requests follow. False when the client has left, or is to be dropped.</summary>
    public bool Run()
    {
        Span<byte> hello = stackalloc byte[18];
        BinaryPrimitives.WriteUInt64BigEndian(hello, NbdProtocol.InitMagic);
        BinaryPrimitives.WriteUInt64BigEndian(hello[8..], NbdProtocol.OptionMagic);
        BinaryPrimitives.WriteUInt16BigEndian(hello[16..], NbdProtocol.FixedNewstyle | NbdProtocol.NoZeroes);
        Span<byte> flags = stackalloc byte[4];
        if (socket.Send(hello, default) < 0 || socket.Receive(flags) < 0) return false;
        uint agreed = BinaryPrimitives.ReadUInt32BigEndian(flags);
        if ((agreed & ~(uint)(NbdProtocol.FixedNewstyle | NbdProtocol.NoZeroes)) != 0) return Drop($"it sent the unknown flags 0x{agreed:x}");
        _noZeroes = (agreed & NbdProtocol.NoZeroes) != 0;

        Span<byte> head = stackalloc byte[NbdProtocol.OptionBytes];
        for (int i = 0; i < MostOptions; i++)
        {
            if (socket.Receive(head) < 0) return false;
            if (BinaryPrimitives.ReadUInt64BigEndian(head) != NbdProtocol.OptionMagic) return Drop("an option without its magic came");
            uint option = BinaryPrimitives.ReadUInt32BigEndian(head[8..]), length = BinaryPrimitives.ReadUInt32BigEndian(head[12..]);
            if (length > LongestData)
            {
                if (length > MostSkipped || option == NbdProtocol.OptExportName) return Drop($"option {option} came with {length} bytes");
                if (socket.Skip(length) < 0 || !Reply(option, NbdProtocol.RepErrTooBig, default)) return false;
                continue;
            }
            Span<byte> data = _data.AsSpan(0, (int)length);
            if (socket.Receive(data) < 0) return false;
            switch (option)
            {
                case NbdProtocol.OptExportName:
                    return IsOurs(data) ? SendExport() : Drop("it asked for an export that there is not");
                case NbdProtocol.OptAbort:
                    _ = Reply(option, NbdProtocol.RepAck, default);
                    return false;
                default:
                    if (!Answer(option, data, out bool go)) return false;
                    if (go) return true;
                    break;
            }
        }
        return Drop($"it sent {MostOptions} options and chose no export");
    }

    private bool Answer(uint option, ReadOnlySpan<byte> data, out bool go)
    {
        go = false;
        switch (option)
        {
            case NbdProtocol.OptList:
                return data.IsEmpty ? SendList() : Reply(option, NbdProtocol.RepErrInvalid, default);
            case NbdProtocol.OptStructuredReply:
                if (!data.IsEmpty) return Reply(option, NbdProtocol.RepErrInvalid, default);
                Structured = true;
                return Reply(option, NbdProtocol.RepAck, default);
            case NbdProtocol.OptInfo or NbdProtocol.OptGo:
                return SendInfo(option, data, out go);
            default:
                // TLS, metadata contexts, extended headers, and what will be invented.
                return Reply(option, NbdProtocol.RepErrUnsupported, default);
        }
    }

    /// <summary>The empty name stands for whatever a server has.</summary>
    private bool IsOurs(ReadOnlySpan<byte> name) => name.IsEmpty || name.SequenceEqual(Encoding.UTF8.GetBytes(export.Name));

    private bool SendExport()
    {
        Span<byte> answer = stackalloc byte[10 + NbdProtocol.ZeroBytes];
        answer.Clear();
        WriteExport(answer);
        return socket.Send(_noZeroes ? answer[..10] : answer, default) == 0;
    }

    private bool SendList()
    {
        byte[] name = Encoding.UTF8.GetBytes(export.Name);
        byte[] entry = new byte[4 + name.Length];
        BinaryPrimitives.WriteInt32BigEndian(entry, name.Length);
        name.CopyTo(entry, 4);
        return Reply(NbdProtocol.OptList, NbdProtocol.RepServer, entry) && Reply(NbdProtocol.OptList, NbdProtocol.RepAck, default);
    }

    /// <summary>The data: length of the name:32, the name, number of infos:16, infos:16 each.</summary>
    private bool SendInfo(uint option, ReadOnlySpan<byte> data, out bool go)
    {
        go = false;
        if (data.Length < 6) return Reply(option, NbdProtocol.RepErrInvalid, default);
        uint nameLength = BinaryPrimitives.ReadUInt32BigEndian(data);
        if (nameLength > NbdProtocol.LongestString || nameLength > data.Length - 6) return Reply(option, NbdProtocol.RepErrInvalid, default);
        ReadOnlySpan<byte> name = data.Slice(4, (int)nameLength), infos = data[(6 + (int)nameLength)..];
        if (infos.Length != 2 * BinaryPrimitives.ReadUInt16BigEndian(data[(4 + (int)nameLength)..])) return Reply(option, NbdProtocol.RepErrInvalid, default);
        if (!IsOurs(name)) return Reply(option, NbdProtocol.RepErrUnknown, default);

        Span<byte> about = stackalloc byte[12];
        BinaryPrimitives.WriteUInt16BigEndian(about, NbdProtocol.InfoExport);
        WriteExport(about[2..]);
        if (!Reply(option, NbdProtocol.RepInfo, about)) return false;
        Span<byte> sizes = stackalloc byte[14];
        BinaryPrimitives.WriteUInt16BigEndian(sizes, NbdProtocol.InfoBlockSize);
        BinaryPrimitives.WriteUInt32BigEndian(sizes[2..], 1);
        BinaryPrimitives.WriteUInt32BigEndian(sizes[6..], NbdExport.PreferredBlock);
        BinaryPrimitives.WriteUInt32BigEndian(sizes[10..], NbdExport.LongestRequest);
        if (!Reply(option, NbdProtocol.RepInfo, sizes)) return false;
        for (int i = 0; i < infos.Length; i += 2)
        {
            if (BinaryPrimitives.ReadUInt16BigEndian(infos[i..]) != NbdProtocol.InfoName) continue;
            byte[] own = Encoding.UTF8.GetBytes(export.Name);
            byte[] info = new byte[2 + own.Length];
            BinaryPrimitives.WriteUInt16BigEndian(info, NbdProtocol.InfoName);
            own.CopyTo(info, 2);
            if (!Reply(option, NbdProtocol.RepInfo, info)) return false;
            break;
        }
        go = option == NbdProtocol.OptGo;
        return Reply(option, NbdProtocol.RepAck, default);
    }

    private void WriteExport(Span<byte> target)
    {
        BinaryPrimitives.WriteInt64BigEndian(target, export.View.Length);
        BinaryPrimitives.WriteUInt16BigEndian(target[8..], NbdExport.Flags(Structured));
    }

    private bool Reply(uint option, uint type, ReadOnlySpan<byte> data)
    {
        Span<byte> head = stackalloc byte[NbdProtocol.OptionReplyBytes];
        BinaryPrimitives.WriteUInt64BigEndian(head, NbdProtocol.OptionReplyMagic);
        BinaryPrimitives.WriteUInt32BigEndian(head[8..], option);
        BinaryPrimitives.WriteUInt32BigEndian(head[12..], type);
        BinaryPrimitives.WriteInt32BigEndian(head[16..], data.Length);
        return socket.Send(head, data) == 0;
    }

    private bool Drop(string why)
    {
        export.Report($"NBD: a client was dropped: {why}");
        return false;
    }
}
