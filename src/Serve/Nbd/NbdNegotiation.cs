using System;
using System.Buffers.Binary;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>The next step of the handshake.</summary>
internal enum NegotiationStep
{
    /// <summary>More bytes of the client are needed.</summary>
    More,
    /// <summary>The handshake is complete: requests follow.</summary>
    Done,
    /// <summary>The client announced that it disconnects: close after the reply is sent.</summary>
    Leave,
    /// <summary>The client broke the protocol: close at once.</summary>
    Drop,
}

/// <summary>
/// The handshake with a client up to the first request (proto.md, "Fixed newstyle negotiation"), as a state machine over the client's
/// bytes. It does not store the data of an option, so a client that stops in the middle of an option costs only this object.
/// </summary>
internal sealed class NbdNegotiation(NbdExport export)
{
    /// <summary>
    /// The maximum length in bytes of all replies to one option: three infos and a name, or a list's entry, with their headers.
    /// </summary>
    public const int LongestReply = 256 + NbdProtocol.LongestString;

    /// <summary>Enough for the longest name together with the other data of an INFO or GO option.</summary>
    private const int LongestData = 2 * NbdProtocol.LongestString;

    /// <summary>
    /// An option with more data than LongestData, and at most this much, is read to its end and refused; a longer one drops the client.
    /// </summary>
    private const int MostSkipped = 1 << 20;

    /// <summary>The maximum number of options per handshake; clients need half a dozen.</summary>
    private const int MostOptions = 256;

    private enum Part
    {
        Flags,
        Head,
        Data,
    }

    private readonly byte[] _head = new byte[NbdProtocol.OptionBytes];
    private Part _part;
    private int _have;
    private int _options;
    private uint _option;
    private uint _length;
    private uint _left;
    private bool _noZeroes;

    // The state of parsing an option's data. EXPORT_NAME has a name. INFO and GO have the name's length (32 bits), the name, the number of
    // infos (16 bits), and the infos (16 bits each).
    private uint _nameLength;
    private bool _matches;
    private ushort _infoCount;
    private ushort _info;
    private bool _wantsName;

    /// <summary>True if the client wants reads to be answered in chunks.</summary>
    public bool Structured { get; private set; }

    /// <summary>The reason to drop the client, after <see cref="NegotiationStep.Drop"/>.</summary>
    public string Why { get; private set; } = "";

    /// <summary>
    /// The maximum number of bytes that <see cref="Feed"/> accepts. They end with the current part, so no byte of a later request is among
    /// them.
    /// </summary>
    public int Wanted => _part switch
    {
        Part.Flags => 4 - _have,
        Part.Head => NbdProtocol.OptionBytes - _have,
        _ => (int)_left,
    };

    /// <summary>Writes the server's greeting to <paramref name="target"/> and returns its length.</summary>
    public static int Greet(Span<byte> target)
    {
        BinaryPrimitives.WriteUInt64BigEndian(target, NbdProtocol.InitMagic);
        BinaryPrimitives.WriteUInt64BigEndian(target[8..], NbdProtocol.OptionMagic);
        BinaryPrimitives.WriteUInt16BigEndian(target[16..], NbdProtocol.FixedNewstyle | NbdProtocol.NoZeroes);
        return 18;
    }

    /// <summary>
    /// Takes at most <see cref="Wanted"/> bytes. If they complete an option, writes its replies (at most <see cref="LongestReply"/> bytes)
    /// to <paramref name="reply"/> and their length to <paramref name="replyBytes"/>. The caller must send them before it acts on the
    /// result.
    /// </summary>
    public NegotiationStep Feed(ReadOnlySpan<byte> bytes, Span<byte> reply, out int replyBytes)
    {
        replyBytes = 0;
        if (_part == Part.Data)
        {
            TakeData(bytes);
            _left -= (uint)bytes.Length;
            return _left > 0 ? NegotiationStep.More : EndOption(reply, out replyBytes);
        }
        bytes.CopyTo(_head.AsSpan(_have));
        _have += bytes.Length;
        if (Wanted > 0) return NegotiationStep.More;
        _have = 0;
        return _part == Part.Flags ? TakeFlags() : TakeHead(reply, out replyBytes);
    }

    private NegotiationStep TakeFlags()
    {
        uint agreed = BinaryPrimitives.ReadUInt32BigEndian(_head);
        if ((agreed & ~(uint)(NbdProtocol.FixedNewstyle | NbdProtocol.NoZeroes)) != 0)
            return Drop($"it sent the unknown flags 0x{agreed:x}");
        _noZeroes = (agreed & NbdProtocol.NoZeroes) != 0;
        _part = Part.Head;
        return NegotiationStep.More;
    }

    private NegotiationStep TakeHead(Span<byte> reply, out int replyBytes)
    {
        replyBytes = 0;
        if (BinaryPrimitives.ReadUInt64BigEndian(_head) != NbdProtocol.OptionMagic)
            return Drop("it sent an option without the magic number");
        _options++;
        _option = BinaryPrimitives.ReadUInt32BigEndian(_head.AsSpan(8));
        _length = BinaryPrimitives.ReadUInt32BigEndian(_head.AsSpan(12));
        if (_length > LongestData && (_length > MostSkipped || _option == NbdProtocol.OptExportName))
            return Drop($"it sent option {_option} with {_length} bytes of data");
        _left = _length;
        (_nameLength, _matches, _infoCount, _info, _wantsName) = (0, true, 0, 0, false);
        _part = Part.Data;
        return _left > 0 ? NegotiationStep.More : EndOption(reply, out replyBytes);
    }

    private void TakeData(ReadOnlySpan<byte> bytes)
    {
        if (_length > LongestData) return;
        uint at = _length - _left;
        if (_option == NbdProtocol.OptExportName)
        {
            foreach (byte value in bytes) TakeNameByte(at++, value);
        }
        else if (_option is NbdProtocol.OptInfo or NbdProtocol.OptGo)
        {
            foreach (byte value in bytes) TakeInfoByte(at++, value);
        }
    }

    private void TakeNameByte(uint at, byte value) => _matches &= at < export.NameBytes.Length && export.NameBytes[at] == value;

    private void TakeInfoByte(uint at, byte value)
    {
        if (at < 4)
        {
            _nameLength = (_nameLength << 8) | value;
            return;
        }
        ulong afterName = 4 + (ulong)_nameLength;
        if (at < afterName)
        {
            TakeNameByte(at - 4, value);
            return;
        }
        uint number = (uint)(at - afterName);
        if (number < 2)
        {
            _infoCount = (ushort)((_infoCount << 8) | value);
            return;
        }
        _info = (ushort)((_info << 8) | value);
        if (number % 2 == 1) _wantsName |= _info == NbdProtocol.InfoName;
    }

    /// <summary>Handles a complete option.</summary>
    private NegotiationStep EndOption(Span<byte> reply, out int replyBytes)
    {
        _part = Part.Head;
        ReplyWriter writer = new(reply, _option);
        NegotiationStep step = Answer(ref writer);
        if (step == NegotiationStep.More && _options == MostOptions) step = Drop($"it sent {MostOptions} options and chose no export");
        replyBytes = writer.Length;
        return step;
    }

    private NegotiationStep Answer(ref ReplyWriter writer)
    {
        if (_length > LongestData)
        {
            writer.Add(NbdProtocol.RepErrTooBig, default);
            return NegotiationStep.More;
        }
        switch (_option)
        {
            case NbdProtocol.OptExportName:
                return IsOurs(_length) ? AddExport(ref writer) : Drop("it asked for an export that does not exist");
            case NbdProtocol.OptAbort:
                writer.Add(NbdProtocol.RepAck, default);
                return NegotiationStep.Leave;
            case NbdProtocol.OptInfo or NbdProtocol.OptGo:
                return AddInfo(ref writer);
            case NbdProtocol.OptList or NbdProtocol.OptStructuredReply when _length > 0:
                writer.Add(NbdProtocol.RepErrInvalid, default);
                break;
            case NbdProtocol.OptList:
                AddList(ref writer);
                break;
            case NbdProtocol.OptStructuredReply:
                Structured = true;
                writer.Add(NbdProtocol.RepAck, default);
                break;
            default:
                // For example TLS, metadata contexts and extended headers.
                writer.Add(NbdProtocol.RepErrUnsupported, default);
                break;
        }
        return NegotiationStep.More;
    }

    /// <summary>True if the requested name is that of this export; the empty name selects the default export.</summary>
    private bool IsOurs(uint nameLength) => nameLength == 0 || (_matches && nameLength == export.NameBytes.Length);

    private NegotiationStep AddExport(ref ReplyWriter writer)
    {
        Span<byte> answer = stackalloc byte[10 + NbdProtocol.ZeroBytes];
        answer.Clear();
        WriteExport(answer);
        writer.AddRaw(_noZeroes ? answer[..10] : answer);
        return NegotiationStep.Done;
    }

    private void AddList(ref ReplyWriter writer)
    {
        Span<byte> length = stackalloc byte[4];
        BinaryPrimitives.WriteInt32BigEndian(length, export.NameBytes.Length);
        writer.Add(NbdProtocol.RepServer, length, export.NameBytes);
        writer.Add(NbdProtocol.RepAck, default);
    }

    private NegotiationStep AddInfo(ref ReplyWriter writer)
    {
        bool sane = _length >= 6 && _nameLength <= NbdProtocol.LongestString && _nameLength <= _length - 6;
        if (!sane || _length - 6 - _nameLength != 2u * _infoCount)
        {
            writer.Add(NbdProtocol.RepErrInvalid, default);
            return NegotiationStep.More;
        }
        if (!IsOurs(_nameLength))
        {
            writer.Add(NbdProtocol.RepErrUnknown, default);
            return NegotiationStep.More;
        }
        Span<byte> info = stackalloc byte[12];
        BinaryPrimitives.WriteUInt16BigEndian(info, NbdProtocol.InfoExport);
        WriteExport(info[2..]);
        writer.Add(NbdProtocol.RepInfo, info);
        Span<byte> sizes = stackalloc byte[14];
        BinaryPrimitives.WriteUInt16BigEndian(sizes, NbdProtocol.InfoBlockSize);
        BinaryPrimitives.WriteUInt32BigEndian(sizes[2..], 1);
        BinaryPrimitives.WriteUInt32BigEndian(sizes[6..], NbdExport.PreferredBlock);
        BinaryPrimitives.WriteUInt32BigEndian(sizes[10..], NbdExport.LongestRequest);
        writer.Add(NbdProtocol.RepInfo, sizes);
        if (_wantsName)
        {
            Span<byte> nameInfo = stackalloc byte[2];
            BinaryPrimitives.WriteUInt16BigEndian(nameInfo, NbdProtocol.InfoName);
            writer.Add(NbdProtocol.RepInfo, nameInfo, export.NameBytes);
        }
        writer.Add(NbdProtocol.RepAck, default);
        return _option == NbdProtocol.OptGo ? NegotiationStep.Done : NegotiationStep.More;
    }

    private void WriteExport(Span<byte> target)
    {
        BinaryPrimitives.WriteInt64BigEndian(target, export.View.Length);
        BinaryPrimitives.WriteUInt16BigEndian(target[8..], NbdExport.Flags(Structured));
    }

    private NegotiationStep Drop(string why)
    {
        Why = why;
        return NegotiationStep.Drop;
    }

    /// <summary>Writes one option's replies one after the other.</summary>
    private ref struct ReplyWriter(Span<byte> target, uint option)
    {
        private readonly Span<byte> _target = target;

        public int Length { get; private set; }

        public void Add(uint type, scoped ReadOnlySpan<byte> data, scoped ReadOnlySpan<byte> more = default)
        {
            Span<byte> header = _target[Length..];
            BinaryPrimitives.WriteUInt64BigEndian(header, NbdProtocol.OptionReplyMagic);
            BinaryPrimitives.WriteUInt32BigEndian(header[8..], option);
            BinaryPrimitives.WriteUInt32BigEndian(header[12..], type);
            BinaryPrimitives.WriteInt32BigEndian(header[16..], data.Length + more.Length);
            Length += NbdProtocol.OptionReplyBytes;
            AddRaw(data);
            AddRaw(more);
        }

        public void AddRaw(scoped ReadOnlySpan<byte> data)
        {
            data.CopyTo(_target[Length..]);
            Length += data.Length;
        }
    }
}
