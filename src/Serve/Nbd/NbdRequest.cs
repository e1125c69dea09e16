using System;
using System.Buffers.Binary;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>A request as received: <paramref name="Offset"/> and <paramref name="Length"/> in bytes, unchecked.</summary>
internal readonly record struct NbdRequest(ushort Flags, ushort Type, ulong Cookie, ulong Offset, uint Length)
{
    /// <summary>Parses a request; false if its magic is wrong.</summary>
    public static bool TryParse(ReadOnlySpan<byte> bytes, out NbdRequest request)
    {
        request = new NbdRequest(
            BinaryPrimitives.ReadUInt16BigEndian(bytes[4..]),
            BinaryPrimitives.ReadUInt16BigEndian(bytes[6..]),
            BinaryPrimitives.ReadUInt64BigEndian(bytes[8..]),
            BinaryPrimitives.ReadUInt64BigEndian(bytes[16..]),
            BinaryPrimitives.ReadUInt32BigEndian(bytes[24..]));
        return BinaryPrimitives.ReadUInt32BigEndian(bytes) == NbdWire.NBD_REQUEST_MAGIC;
    }
}
