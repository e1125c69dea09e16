using System;
using System.Buffers;
using System.Runtime.InteropServices;
using System.Text;

namespace Snapuserd.Interop;

/// <summary>
/// Stores the kernel's names in strings. File names, arguments and environment variables are bytes without a zero; most are UTF-8, but
/// they need not be.
/// <code>
///   valid UTF-8                  the characters that it encodes
///   any other byte, 0x80..0xFF   one lone surrogate, U+DC80..U+DCFF
/// </code>
/// UTF-8 has no surrogates, so the two never conflict, and every sequence of bytes is restored exactly: <c>Encode(Decode(bytes))</c> is
/// <c>bytes</c>. That includes sequences that only resemble UTF-8: encoded surrogates (ED B2 80), overlong forms and truncated ones.
/// Python calls this "surrogateescape" (PEP 383).
/// </summary>
public static class ByteText
{
    /// <summary>Upper bits of a lone surrogate; the byte is added to them.</summary>
    private const char Escape = '\udc00';

    /// <summary>The string for <paramref name="bytes"/>.</summary>
    public static string Decode(ReadOnlySpan<byte> bytes)
    {
        if (System.Text.Unicode.Utf8.IsValid(bytes)) return Encoding.UTF8.GetString(bytes);
        // No byte becomes more than one char.
        char[] text = new char[bytes.Length];
        int length = 0;
        while (bytes.Length > 0)
        {
            bool valid = Rune.DecodeFromUtf8(bytes, out Rune rune, out int used) == OperationStatus.Done;
            if (valid) length += rune.EncodeToUtf16(text.AsSpan(length));
            // All bytes of an ill-formed sequence are above 0x7F.
            else foreach (byte wrong in bytes[..used]) text[length++] = (char)(Escape + wrong);
            bytes = bytes[used..];
        }
        return new string(text, 0, length);
    }

    /// <summary>The string for the bytes up to the closing zero at <paramref name="address"/>; null for a null pointer.</summary>
    internal static unsafe string? Decode(byte* address) =>
        address == null ? null : Decode(MemoryMarshal.CreateReadOnlySpanFromNullTerminated(address));

    /// <summary>Number of bytes that <paramref name="text"/> encodes to.</summary>
    public static int GetByteCount(ReadOnlySpan<char> text)
    {
        if (!HasSurrogates(text)) return Encoding.UTF8.GetByteCount(text);
        int count = 0;
        while (text.Length > 0) count += Next(ref text, out _, out Rune rune) ? 1 : rune.Utf8SequenceLength;
        return count;
    }

    /// <summary>
    /// Encodes <paramref name="text"/> into <paramref name="target"/>. Returns the number of bytes, or -1 if they do not fit.
    /// </summary>
    public static int Encode(ReadOnlySpan<char> text, Span<byte> target)
    {
        if (!HasSurrogates(text)) return Encoding.UTF8.TryGetBytes(text, target, out int written) ? written : -1;
        int length = 0;
        while (text.Length > 0)
        {
            bool isByte = Next(ref text, out byte single, out Rune rune);
            if (target.Length - length < (isByte ? 1 : rune.Utf8SequenceLength)) return -1;
            if (isByte) target[length++] = single;
            else length += rune.EncodeToUtf8(target[length..]);
        }
        return length;
    }

    /// <summary>The bytes that <paramref name="text"/> encodes to.</summary>
    public static byte[] Encode(ReadOnlySpan<char> text)
    {
        byte[] bytes = new byte[GetByteCount(text)];
        _ = Encode(text, bytes);
        return bytes;
    }

    /// <summary>
    /// Removes the first character of <paramref name="text"/>: true for a byte that is not part of valid UTF-8. A lone surrogate that
    /// encodes no byte, which only truncated text contains, becomes U+FFFD.
    /// </summary>
    public static bool Next(ref ReadOnlySpan<char> text, out byte single, out Rune rune)
    {
        bool isRune = Rune.DecodeFromUtf16(text, out rune, out int used) == OperationStatus.Done;
        bool isByte = !isRune && text[0] is >= '\udc80' and <= '\udcff';
        single = isByte ? (byte)(text[0] - Escape) : (byte)0;
        text = text[used..];
        return isByte;
    }

    private static bool HasSurrogates(ReadOnlySpan<char> text) => text.IndexOfAnyInRange('\ud800', '\udfff') >= 0;
}
