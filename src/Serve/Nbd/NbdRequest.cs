using System;
using System.Buffers.Binary;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>A request as received: <paramref name="Offset"/> and <paramref name="Length"/> in bytes, unchecked.</summary>
internal readonly record struct NbdRequest(ushort Flags, ushort Type, ulong Cookie, ulong Offset, uint Length)
{
    /// <summary>
    /// The longest write whose data is received and discarded before the write is refused. No client needs a longer one, so a client that
    /// sends one is dropped.
    /// </summary>
    private const uint MostSkipped = 2 * NbdExport.LongestRequest;

    /// <summary>Parses a request. Returns null if the request can be answered, otherwise the reason to drop the client.</summary>
    public static string? Parse(ReadOnlySpan<byte> bytes, out NbdRequest request)
    {
        request = new NbdRequest(
            BinaryPrimitives.ReadUInt16BigEndian(bytes[4..]),
            BinaryPrimitives.ReadUInt16BigEndian(bytes[6..]),
            BinaryPrimitives.ReadUInt64BigEndian(bytes[8..]),
            BinaryPrimitives.ReadUInt64BigEndian(bytes[16..]),
            BinaryPrimitives.ReadUInt32BigEndian(bytes[24..]));
        if (BinaryPrimitives.ReadUInt32BigEndian(bytes) != NbdWire.NBD_REQUEST_MAGIC) return "it sent a request without the magic number";
        return request.Type == NbdWire.NBD_CMD_WRITE && request.Length > MostSkipped
            ? $"it wants to write {request.Length} bytes at once, to an export that is read-only"
            : null;
    }
}
