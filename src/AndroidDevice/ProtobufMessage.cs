using System;
using System.Collections.Generic;
using System.IO;
using System.Text;

namespace Snapuserd.AndroidDevice;

/// <summary>
/// A protobuf message without its schema: the fields in the order of the file, each with the bytes that encode it. A change of one field
/// leaves the bytes of all others as they are, also of fields that this program does not know.
/// <code>
///   message:  field*
///   field:    key | value         key = field number ×8 + wire type
///   values:   0 varint | 1 eight bytes | 2 length, bytes | 5 four bytes
/// </code>
/// </summary>
internal sealed class ProtobufMessage
{
    private const int Varint = 0, Fixed64 = 1, Bytes = 2, Fixed32 = 5;
    private const int MostVarintBytes = 10;
    private const int LargestField = 0x1fffffff;

    private readonly List<Field> _fields = [];

    /// <summary>One field: number and wire type, the value of a varint, the content of bytes, and all of it as it is encoded.</summary>
    private readonly record struct Field(int Number, int Type, ulong Value, byte[] Content, byte[] Encoded);

    /// <summary>Parses all of <paramref name="bytes"/>; null if they are not a message.</summary>
    internal static ProtobufMessage? Parse(ReadOnlySpan<byte> bytes)
    {
        ProtobufMessage message = new();
        while (bytes.Length > 0)
        {
            ReadOnlySpan<byte> field = bytes;
            if (!TryVarint(ref bytes, out ulong key)) return null;
            int type = (int)(key & 7);
            if (key >> 3 is 0 or > LargestField || !TryValue(ref bytes, type, out ulong value, out byte[] content)) return null;
            message._fields.Add(new Field((int)(key >> 3), type, value, content, field[..^bytes.Length].ToArray()));
        }
        return message;
    }

    /// <summary>The value of a varint field, of which the last occurrence counts; 0 if there is none.</summary>
    internal ulong Number(int field)
    {
        ulong value = 0;
        foreach (Field one in _fields)
            if (one.Number == field && one.Type == Varint) value = one.Value;
        return value;
    }

    /// <summary>A field of type bool.</summary>
    internal bool Flag(int field) => Number(field) != 0;

    /// <summary>A field of type string, of which the last occurrence counts; "" if there is none. Null if it is not UTF-8.</summary>
    internal string? String(int field)
    {
        byte[] content = [];
        foreach (Field one in _fields)
            if (one.Number == field && one.Type == Bytes) content = one.Content;
        try
        {
            return new UTF8Encoding(false, throwOnInvalidBytes: true).GetString(content);
        }
        catch (ArgumentException)
        {
            return null;
        }
    }

    /// <summary>
    /// The encoded message with the varint <paramref name="field"/> set to <paramref name="value"/>, which must not be 0: in place of its
    /// first occurrence, or at the beginning. Everything else keeps its bytes.
    /// </summary>
    internal byte[] With(int field, ulong value)
    {
        using MemoryStream output = new();
        byte[] replacement = [.. Encoded(((ulong)field << 3) | Varint), .. Encoded(value)];
        bool written = _fields.TrueForAll(one => one.Number != field || one.Type != Varint);
        if (written) output.Write(replacement);
        foreach (Field one in _fields)
        {
            if (one.Number != field || one.Type != Varint)
            {
                output.Write(one.Encoded);
                continue;
            }
            if (!written) output.Write(replacement);
            written = true;
        }
        return output.ToArray();
    }

    private static bool TryValue(ref ReadOnlySpan<byte> bytes, int type, out ulong value, out byte[] content)
    {
        (value, content) = (0, []);
        switch (type)
        {
            case Varint:
                return TryVarint(ref bytes, out value);
            case Fixed64:
                return TrySkip(ref bytes, 8);
            case Fixed32:
                return TrySkip(ref bytes, 4);
            case Bytes:
                if (!TryVarint(ref bytes, out ulong length) || length > (ulong)bytes.Length) return false;
                content = bytes[..(int)length].ToArray();
                return TrySkip(ref bytes, (int)length);
            default:
                // Groups (3 and 4) are older than any of these files.
                return false;
        }
    }

    private static bool TrySkip(ref ReadOnlySpan<byte> bytes, int count)
    {
        if (bytes.Length < count) return false;
        bytes = bytes[count..];
        return true;
    }

    private static bool TryVarint(ref ReadOnlySpan<byte> bytes, out ulong value)
    {
        value = 0;
        for (int i = 0; i < MostVarintBytes && i < bytes.Length; i++)
        {
            value |= (ulong)(bytes[i] & 0x7f) << (7 * i);
            if (bytes[i] >= 0x80) continue;
            bytes = bytes[(i + 1)..];
            return true;
        }
        return false;
    }

    private static byte[] Encoded(ulong value)
    {
        List<byte> bytes = [];
        for (; value >= 0x80; value >>= 7) bytes.Add((byte)(value | 0x80));
        bytes.Add((byte)value);
        return [.. bytes];
    }
}
