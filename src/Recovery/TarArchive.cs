using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Text;
using Snapuserd.Block;

namespace Snapuserd.Recovery;

/// <summary>
/// A tar archive (POSIX ustar) of regular files in memory. Names have at most 99 ASCII characters. Each file is a header of 512 bytes and
/// its content, padded with zeros to a multiple of that; two blocks of zeros end the archive.
/// <code>
///  off size field of the header
///    0  100 name          124   12 bytes, octal      156  1 kind: '0' or zero for a file
///  100    8 mode, octal   148    8 sum of the header's bytes, with blanks here      257  8 "ustar" 0 "00"
/// </code>
/// </summary>
internal static class TarArchive
{
    private const int BlockBytes = 512, NameBytes = 100, SizeOffset = 124, SizeBytes = 12, SumOffset = 148, SumBytes = 8, KindOffset = 156;

    /// <summary>Adds a file. One whose name is too long is left out: no file of an update has such a name.</summary>
    internal static void Add(Stream archive, string name, ReadOnlySpan<byte> content)
    {
        if (name.Length >= NameBytes) return;
        Span<byte> header = stackalloc byte[BlockBytes];
        header.Clear();
        _ = Encoding.ASCII.GetBytes(name, header);
        "0000644"u8.CopyTo(header[100..]);
        "0000000"u8.CopyTo(header[108..]);
        "0000000"u8.CopyTo(header[116..]);
        Octal(header.Slice(SizeOffset, SizeBytes - 1), content.Length);
        "00000000000"u8.CopyTo(header[136..]);
        header[KindOffset] = (byte)'0';
        "ustar\000"u8.CopyTo(header[257..]);
        Octal(header.Slice(SumOffset, SumBytes - 2), Sum(header));
        header[SumOffset + SumBytes - 1] = (byte)' ';
        archive.Write(header);
        archive.Write(content);
        archive.Write(new byte[-content.Length & (BlockBytes - 1)]);
    }

    /// <summary>Ends the archive.</summary>
    internal static void End(Stream archive) => archive.Write(new byte[2 * BlockBytes]);

    /// <summary>The files of an archive by name; null if it is none, or damaged.</summary>
    internal static Dictionary<string, byte[]>? Read(ReadOnlySpan<byte> archive)
    {
        Dictionary<string, byte[]> files = new(StringComparer.Ordinal);
        while (archive.Length >= BlockBytes)
        {
            ReadOnlySpan<byte> header = archive[..BlockBytes];
            archive = archive[BlockBytes..];
            if (!header.ContainsAnyExcept((byte)0)) return files;
            if (Octal(header.Slice(SumOffset, SumBytes)) != Sum(header) || Octal(header.Slice(SizeOffset, SizeBytes)) is not { } bytes
                || bytes > archive.Length)
                return null;
            if (header[KindOffset] is 0 or (byte)'0') files[Text(header[..NameBytes])] = archive[..(int)bytes].ToArray();
            archive = archive[(int)Math.Min(archive.Length, (bytes + BlockBytes - 1) / BlockBytes * BlockBytes)..];
        }
        return null;
    }

    private static long Sum(ReadOnlySpan<byte> header)
    {
        long sum = SumBytes * ' ';
        for (int i = 0; i < header.Length; i++)
            if (i is < SumOffset or >= SumOffset + SumBytes) sum += header[i];
        return sum;
    }

    private static void Octal(Span<byte> field, long value)
    {
        for (int i = field.Length - 1; i >= 0; i--, value >>= 3) field[i] = (byte)('0' + (value & 7));
    }

    private static long? Octal(ReadOnlySpan<byte> field)
    {
        long value = 0;
        foreach (char digit in Text(field).Trim())
        {
            if (digit is < '0' or > '7') return null;
            value = (value << 3) | (uint)(digit - '0');
        }
        return value;
    }

    private static string Text(ReadOnlySpan<byte> field)
    {
        int end = field.IndexOf((byte)0);
        return Encoding.ASCII.GetString(end < 0 ? field : field[..end]);
    }
}
