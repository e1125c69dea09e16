namespace Snapuserd.Interop;

// The NBD protocol (doc/proto.md of github.com/NetworkBlockDevice/nbd); all numbers are big-endian.
//
//   handshake      S: NBDMAGIC IHAVEOPT flags:16          C: flags:32
//   option         C: IHAVEOPT option:32 length:32 data   S: reply magic:64 option:32 type:32 length:32 data, one or more
//   EXPORT_NAME    S: size:64 flags:16 zeroes[124] (none with NO_ZEROES), no option reply   ends the options; GO does after its replies
//
//   request        C: magic:32 flags:16 type:16 cookie:64 offset:64 length:32       28 bytes; then a write's data
//   simple reply   S: magic:32 error:32 cookie:64                                   16 bytes; then a read's data, unless it failed
//   chunk          S: magic:32 flags:16 type:16 cookie:64 length:32                 20 bytes; then length bytes; the last chunk has DONE
//
// Replies come in any order, and chunks of several requests may be mixed; the cookie identifies the request.

/// <summary>Constants shared by the kernel's client and all other clients.</summary>
[KernelHeader("linux/nbd.h")]
public static class NbdWire
{
    public const uint NBD_REQUEST_MAGIC = 0x25609513;
    public const uint NBD_REPLY_MAGIC = 0x67446698;

    public const ushort NBD_CMD_READ = 0;
    public const ushort NBD_CMD_WRITE = 1;
    public const ushort NBD_CMD_DISC = 2;
    public const ushort NBD_CMD_FLUSH = 3;
    public const ushort NBD_CMD_TRIM = 4;
    public const ushort NBD_CMD_WRITE_ZEROES = 6;

    public const ushort NBD_FLAG_HAS_FLAGS = 1;
    public const ushort NBD_FLAG_READ_ONLY = 2;
    /// <summary>The client may request a flush.</summary>
    public const ushort NBD_FLAG_SEND_FLUSH = 4;
    /// <summary>All connections see the same data.</summary>
    public const ushort NBD_FLAG_CAN_MULTI_CONN = 1 << 8;

    /// <summary>Bytes of a request.</summary>
    public const int RequestBytes = 28;
    /// <summary>Bytes of a simple reply before its data.</summary>
    public const int ReplyBytes = 16;
}

/// <summary>Constants used only between programs: negotiation and structured replies.</summary>
[OutOfTree("doc/proto.md of github.com/NetworkBlockDevice/nbd")]
public static class NbdProtocol
{
    /// <summary>"NBDMAGIC"</summary>
    public const ulong InitMagic = 0x4e42444d41474943;
    /// <summary>"IHAVEOPT"</summary>
    public const ulong OptionMagic = 0x49484156454f5054;
    public const ulong OptionReplyMagic = 0x0003e889045565a9;
    public const uint StructuredReplyMagic = 0x668e33ef;

    /// <summary>Flags of the handshake, the same on both sides.</summary>
    public const ushort FixedNewstyle = 1;
    public const ushort NoZeroes = 2;

    /// <summary>Longest string; a longer one violates the protocol.</summary>
    public const int LongestString = 4096;
    /// <summary>Bytes of an option before its data.</summary>
    public const int OptionBytes = 16;
    /// <summary>Bytes of an option's reply before its data.</summary>
    public const int OptionReplyBytes = 20;
    /// <summary>Zeroes after size and flags, for old clients.</summary>
    public const int ZeroBytes = 124;

    public const uint OptExportName = 1;
    public const uint OptAbort = 2;
    public const uint OptList = 3;
    public const uint OptInfo = 6;
    public const uint OptGo = 7;
    public const uint OptStructuredReply = 8;

    public const uint RepAck = 1;
    public const uint RepServer = 2;
    public const uint RepInfo = 3;
    public const uint RepErrUnsupported = 0x80000001;
    public const uint RepErrInvalid = 0x80000003;
    public const uint RepErrUnknown = 0x80000006;
    public const uint RepErrTooBig = 0x80000009;

    public const ushort InfoExport = 0;
    public const ushort InfoName = 1;
    public const ushort InfoBlockSize = 3;

    /// <summary>Transmission flag: a read may request an unfragmented reply. Only with structured replies.</summary>
    public const ushort SendDf = 1 << 7;
    /// <summary>Command flag: the reply must come in one piece.</summary>
    public const ushort CommandDf = 1 << 2;

    /// <summary>Bytes of a chunk before its payload.</summary>
    public const int ChunkBytes = 20;
    /// <summary>The last chunk of its request.</summary>
    public const ushort ChunkDone = 1;
    public const ushort ChunkOffsetData = 1;
    public const ushort ChunkError = 0x8001;
    public const ushort ChunkErrorOffset = 0x8002;
}
