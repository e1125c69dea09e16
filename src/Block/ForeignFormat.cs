using System;
using System.Buffers;
using System.Buffers.Binary;
using System.Text;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// Recognizes files that users mistake for a COW or a raw image: by their magic, or as text. The offsets and magics come from file(1) and
/// from the formats' own headers.
/// </summary>
public static class ForeignFormat
{
    /// <summary>The first four bytes of an Android sparse image, little-endian (libsparse, sparse_format.h).</summary>
    public const uint SparseMagic = 0xed26ff3a;

    /// <summary>
    /// How many bytes from the start of a file <see cref="Describe"/> needs. The last magic is ext4's, at byte 1080.
    /// </summary>
    public const int PrefixBytes = 1088;

    /// <summary>At most this many bytes from the start of a file decide whether it is text.</summary>
    private const int TextBytes = 512;

    private const string MakeCow = "make the COW from the old and the new image: snapuserd create --source OLD --target NEW";
    private const string Payload =
        "AOSP's cow_converter makes COWs from it and the target images; or unpack the images with a payload dumper, and " + MakeCow;

    /// <summary>
    /// Returns the kind of a file that was given as a COW, and the remedy where there is one; null if the kind is not recognized. The text
    /// continues a sentence that begins "it is ". <paramref name="start"/> has the first <see cref="PrefixBytes"/> bytes of the file, or
    /// all of a shorter file.
    /// </summary>
    public static string? Describe(ReadOnlySpan<byte> start) =>
        Android(start) ?? Compressed(start) ?? Image(start) ?? Other(start);

    /// <summary>
    /// True if the device or file begins with the magic of an Android sparse image. False if it cannot be read: the caller's first read of
    /// the image then reports the error.
    /// </summary>
    public static bool IsSparse(BlockDevice device)
    {
        Span<byte> start = stackalloc byte[sizeof(uint)];
        int tries = 0, done = 0;
        while (done < start.Length)
        {
            nint read = Libc.PRead(device.Fd, start[done..], done);
            if (Retry.Again(read, ref tries)) continue;
            if (read <= 0) return false;
            done += (int)read;
        }
        return BinaryPrimitives.ReadUInt32LittleEndian(start) == SparseMagic;
    }

    /// <summary>
    /// Exit code 65 if <paramref name="device"/> holds an Android sparse image. Callers read it as a raw image, and a sparse image must be
    /// unpacked to be one.
    /// </summary>
    public static void RefuseSparse(BlockDevice? device)
    {
        if (device != null && IsSparse(device))
        {
            const string Remedy = "unpack it first (simg2img SPARSE RAW), and use the raw image";
            throw new SnapuserdException(ExitCode.CowCorrupt, $"{device.Path} holds an Android sparse image, not a raw one: {Remedy}");
        }
    }

    private static string? Android(ReadOnlySpan<byte> start)
    {
        const string NoUpdate = "image, not an update; " + MakeCow;
        if (Begins(start, 0, [0x3a, 0xff, 0x26, 0xed])) return $"an Android sparse {NoUpdate} (both may be sparse)";
        if (Begins(start, 0, "CrAU"u8)) return $"an Android OTA payload (payload.bin): {Payload}";
        if (Begins(start, 0, "ANDROID!"u8) || Begins(start, 0, "VNDRBOOT"u8)) return $"an Android boot {NoUpdate}";
        if (Begins(start, 0, "AVB0"u8)) return $"an Android vbmeta {NoUpdate}";
        return null;
    }

    private static string? Compressed(ReadOnlySpan<byte> start)
    {
        if (Begins(start, 0, [(byte)'P', (byte)'K', 3, 4]) || Begins(start, 0, [(byte)'P', (byte)'K', 5, 6]))
            return $"a zip archive: if it is an OTA package, unpack its payload.bin (unzip FILE payload.bin); {Payload}";
        if (Begins(start, 0, [0x1f, 0x8b])) return Unpack("gzip", "gzip -d");
        if (Begins(start, 0, [0x28, 0xb5, 0x2f, 0xfd])) return Unpack("zstd", "zstd -d");
        if (Begins(start, 0, [0xfd, (byte)'7', (byte)'z', (byte)'X', (byte)'Z', 0])) return Unpack("xz", "xz -d");
        if (Begins(start, 0, "BZh"u8) && start.Length > 3 && start[3] is >= (byte)'1' and <= (byte)'9') return Unpack("bzip2", "bzip2 -d");
        if (Begins(start, 0, [0x04, 0x22, 0x4d, 0x18]) || Begins(start, 0, [0x02, 0x21, 0x4c, 0x18])) return Unpack("lz4", "lz4 -d");
        if (Begins(start, 0, [(byte)'7', (byte)'z', 0xbc, 0xaf, 0x27, 0x1c])) return Unpack("7-Zip", "7z x");
        if (Begins(start, 257, "ustar"u8)) return "a tar archive: unpack it (tar -x) and give the COW that is in it";
        return null;
    }

    private static string Unpack(string format, string command) =>
        $"a file compressed with {format}: unpack it ({command}) and give the COW that is in it";

    private static string? Image(ReadOnlySpan<byte> start)
    {
        string? system = null;
        if (Begins(start, 0, "hsqs"u8)) system = "squashfs";
        else if (Begins(start, 1080, [0x53, 0xef])) system = "ext4";
        else if (Begins(start, 1024, [0xe2, 0xe1, 0xf5, 0xe0])) system = "erofs";
        else if (Begins(start, 1024, [0x10, 0x20, 0xf5, 0xf2])) system = "f2fs";
        return system == null ? null : $"an image of {system}, not an update; {MakeCow}";
    }

    private static string? Other(ReadOnlySpan<byte> start)
    {
        if (Begins(start, 0, [0x7f, (byte)'E', (byte)'L', (byte)'F'])) return "an ELF program or library";
        return IsText(start[..Math.Min(start.Length, TextBytes)])
            ? "text, perhaps an error page or a Git LFS pointer that was downloaded instead of the COW"
            : null;
    }

    /// <summary>
    /// True for at least two bytes of UTF-8 whose only control characters are line breaks, tabs, form feeds and escapes. The last character
    /// may be incomplete, because the file may be longer.
    /// </summary>
    private static bool IsText(ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length < 2) return false;
        while (!bytes.IsEmpty)
        {
            OperationStatus status = Rune.DecodeFromUtf8(bytes, out Rune rune, out int length);
            if (status == OperationStatus.NeedMoreData) return true;
            if (status != OperationStatus.Done) return false;
            if (Rune.IsControl(rune) && rune.Value is not ('\n' or '\r' or '\t' or '\f' or 0x1b)) return false;
            bytes = bytes[length..];
        }
        return true;
    }

    private static bool Begins(ReadOnlySpan<byte> start, int offset, ReadOnlySpan<byte> magic) =>
        start.Length >= offset + magic.Length && start.Slice(offset, magic.Length).SequenceEqual(magic);
}
