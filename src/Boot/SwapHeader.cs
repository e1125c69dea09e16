using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Boot;

/// <summary>
/// The first page of a swap area. Its last ten bytes are a signature, which hibernation replaces by its own until the image is resumed. The
/// page size is that of the kernel that wrote the page, so the signature may be at several places.
/// <code>
///   byte 1024   version, size, bad pages; then UUID (16 bytes at 1036) and label (16 bytes at 1052)
///   page - 10   SWAPSPACE2, or, with an image: S1SUSPEND (the kernel), ULSUSPEND (uswsusp), …
/// </code>
/// </summary>
public static class SwapHeader
{
    /// <summary>Bytes of the smallest and the largest page of any kernel.</summary>
    public const int SmallestPage = Sizes.Block, LargestPage = 16 * Sizes.Block;

    /// <summary>Bytes of a signature.</summary>
    public const int SignatureBytes = 10;

    private const int UuidAt = 1036, LabelAt = 1052, LabelBytes = 16;

    /// <summary>The name of the hibernation image's signature at the end of a page; null for other bytes.</summary>
    public static string? Image(ReadOnlySpan<byte> signature)
    {
        if (signature.StartsWith("S1SUSPEND"u8)) return "S1SUSPEND";
        if (signature.StartsWith("S2SUSPEND"u8)) return "S2SUSPEND";
        if (signature.StartsWith("ULSUSPEND"u8)) return "ULSUSPEND";
        if (signature.StartsWith("LINHIB0001"u8)) return "LINHIB0001";
        return signature.StartsWith((ReadOnlySpan<byte>)[0xed, 0xc3, 0x02, 0xe9, 0x98, 0x56, 0xe5, 0x0c]) ? "TuxOnIce" : null;
    }

    /// <summary>Finds the signature of an image in a header; <paramref name="header"/> has the bytes that could be read.</summary>
    public static string? ImageIn(ReadOnlySpan<byte> header)
    {
        for (int page = SmallestPage; page <= LargestPage && page <= header.Length; page *= 2)
            if (Image(header[(page - SignatureBytes)..page]) is { } image) return image;
        return null;
    }

    /// <summary>True for the header of a swap area, or of an image in one, that has this UUID. Ignores case.</summary>
    public static bool HasUuid(ReadOnlySpan<byte> header, string uuid)
    {
        if (!IsSwap(header)) return false;
        string hex = Convert.ToHexStringLower(header.Slice(UuidAt, 16));
        return uuid.Equals($"{hex[..8]}-{hex[8..12]}-{hex[12..16]}-{hex[16..20]}-{hex[20..]}", StringComparison.OrdinalIgnoreCase);
    }

    /// <summary>True for the header of a swap area, or of an image in one, that has this label.</summary>
    public static bool HasLabel(ReadOnlySpan<byte> header, string label)
    {
        if (!IsSwap(header)) return false;
        ReadOnlySpan<byte> field = header.Slice(LabelAt, LabelBytes);
        int end = field.IndexOf((byte)0);
        return label.Length > 0 && ByteText.Decode(end < 0 ? field : field[..end]) == label;
    }

    private static bool IsSwap(ReadOnlySpan<byte> header)
    {
        for (int page = SmallestPage; page <= LargestPage && page <= header.Length; page *= 2)
        {
            ReadOnlySpan<byte> signature = header[(page - SignatureBytes)..page];
            if (signature.SequenceEqual("SWAPSPACE2"u8) || Image(signature) != null) return true;
        }
        return false;
    }
}
