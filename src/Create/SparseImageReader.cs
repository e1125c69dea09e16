using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Runtime.InteropServices;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Create;

/// <summary>
/// The raw image in an Android sparse image (libsparse, sparse_format.h), unpacked during reads; nothing is written.
/// All integers are little-endian.
/// <code>
///  header  28 or more   magic 4 | major 2 (1) | minor 2 | header size 2 | chunk header size 2 |
///                       block size 4 | blocks 4 | chunks 4 | checksum 4
///  chunk   12 or more   type 2 | reserved 2 | blocks of the image 4 | bytes of the chunk with this header 4
///          0xcac1 raw: the blocks              0xcac2 fill: 4 bytes, repeated
///          0xcac3 don't care: zeros            0xcac4 CRC-32 of the image up to here: 4 bytes
/// </code>
/// The header's checksum is ignored, as in simg2img. CRC chunks are verified when the image is opened. Writers put one at the end, which
/// the header's count of chunks does not include.
/// </summary>
public sealed class SparseImageReader : IImageReader
{
    private const int HeaderBytes = 28;
    private const int ChunkHeaderBytes = 12;
    private const ushort Raw = 0xcac1;
    private const ushort Fill = 0xcac2;
    private const ushort DontCare = 0xcac3;
    private const ushort Crc = 0xcac4;

    /// <summary>Bytes checksummed per step.</summary>
    private const int CheckBytes = 1 << 20;

    /// <summary>
    /// Bytes of the image from <paramref name="Start"/> to the next extent: at <paramref name="Offset"/> in the file, or, if that is -1,
    /// the four bytes of <paramref name="Pattern"/> repeated.
    /// </summary>
    private readonly record struct Extent(long Start, long Offset, uint Pattern);

    private readonly FileImageReader _file;
    private readonly List<Extent> _extents = [];

    private SparseImageReader(FileImageReader file) => _file = file;

    /// <summary>
    /// The image in <paramref name="file"/>: the file itself if it is raw. Exit code 65 for a sparse image that is damaged or cut off, 75
    /// if <paramref name="stop"/> is requested while it is parsed or its checksums are verified.
    /// </summary>
    public static IImageReader Of(FileImageReader file, StopFlag stop)
    {
        if (!ForeignFormat.IsSparse(file.Device)) return file;
        SparseImageReader image = new(file);
        image.Parse(stop);
        return image;
    }

    /// <inheritdoc/>
    public string Name => _file.Name;

    /// <inheritdoc/>
    public long Length { get; private set; }

    /// <inheritdoc/>
    public void Read(long offset, Span<byte> destination)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(offset);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(destination.Length, Length - offset);
        for (int i = destination.IsEmpty ? 0 : Find(offset); !destination.IsEmpty; i++)
        {
            Extent extent = _extents[i];
            Span<byte> part = destination[..(int)Math.Min(destination.Length, End(i) - offset)];
            if (extent.Offset >= 0) _file.Read(extent.Offset + (offset - extent.Start), part);
            else if (extent.Pattern == 0) part.Clear();
            else Repeat(extent.Pattern, offset, part);
            destination = destination[part.Length..];
            offset += part.Length;
        }
    }

    /// <inheritdoc/>
    public bool TrySkipHole(long offset, out long nextData)
    {
        nextData = offset;
        if (offset >= Length) return false;
        for (int i = Find(offset); i < _extents.Count && _extents[i] is { Offset: < 0, Pattern: 0 }; i++) nextData = End(i);
        return nextData > offset;
    }

    /// <summary>The extent that contains byte <paramref name="offset"/>.</summary>
    private int Find(long offset)
    {
        int first = 0, end = _extents.Count;
        while (end - first > 1)
        {
            int middle = first + ((end - first) / 2);
            if (_extents[middle].Start <= offset) first = middle;
            else end = middle;
        }
        return first;
    }

    private long End(int extent) => extent + 1 < _extents.Count ? _extents[extent + 1].Start : Length;

    /// <summary>
    /// Repeats the pattern. Extents begin at multiples of four, so the offset in the image determines the byte of the pattern.
    /// </summary>
    private static void Repeat(uint pattern, long offset, Span<byte> part)
    {
        Span<byte> bytes = stackalloc byte[sizeof(uint)];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, pattern);
        int lead = (int)Math.Min(-offset & (sizeof(uint) - 1), part.Length);
        for (int i = 0; i < lead; i++) part[i] = bytes[(int)((offset + i) % sizeof(uint))];
        part = part[lead..];
        int whole = part.Length & -sizeof(uint);
        MemoryMarshal.Cast<byte, uint>(part[..whole]).Fill(MemoryMarshal.Read<uint>(bytes));
        bytes[..(part.Length - whole)].CopyTo(part[whole..]);
    }

    private void Parse(StopFlag stop)
    {
        Span<byte> header = stackalloc byte[HeaderBytes];
        ReadFile(0, header, "its header");
        int major = U16(header, 4), headerBytes = U16(header, 8), chunkHeaderBytes = U16(header, 10);
        uint block = U32(header, 12), blocks = U32(header, 16), chunks = U32(header, 20);
        if (major != 1) throw Bad($"version is {major}.{U16(header, 6)}, must be 1.0");
        if (headerBytes < HeaderBytes) throw Bad($"the header's size is {headerBytes}, must be {HeaderBytes} or more");
        if (chunkHeaderBytes < ChunkHeaderBytes)
            throw Bad($"the chunk header's size is {chunkHeaderBytes}, must be {ChunkHeaderBytes} or more");
        if (block == 0 || block % sizeof(uint) != 0) throw Bad($"the block size is {block}, must be a multiple of {sizeof(uint)}");
        if ((ulong)block * blocks > long.MaxValue) throw Bad($"it has {blocks} blocks of {block} bytes, more than a file can have");
        Length = (long)block * blocks;

        List<(long End, uint Crc)> checksums = [];
        long at = headerBytes, start = 0;
        for (uint chunk = 0; chunk < chunks; chunk++)
        {
            ThrowIfStopped(stop);
            ReadChunk(ref at, ref start, chunk, chunkHeaderBytes, block, checksums);
        }
        if (start != Length) throw Bad($"its chunks have {start / block} blocks, its header says {blocks}");
        // The checksum at the end, which the count of chunks does not include.
        Span<byte> type = stackalloc byte[sizeof(ushort)];
        if (_file.Length - at >= chunkHeaderBytes + sizeof(uint))
        {
            _file.Read(at, type);
            if (U16(type, 0) == Crc) ReadChunk(ref at, ref start, chunks, chunkHeaderBytes, block, checksums);
        }
        Verify(checksums, stop);
    }

    private void ReadChunk(ref long at, ref long start, uint chunk, int headerBytes, uint block, List<(long End, uint Crc)> checksums)
    {
        Span<byte> header = stackalloc byte[ChunkHeaderBytes];
        ReadFile(at, header, $"chunk {chunk}");
        ushort type = U16(header, 0);
        // Limited, because a product that wraps around would look like a small size. No image is as large as the limit.
        long bytes = (long)Math.Min((ulong)U32(header, 4) * block, long.MaxValue), data = (long)U32(header, 8) - headerBytes,
            offset = at + headerBytes;
        long wanted = type switch
        {
            Raw => bytes,
            Fill or Crc => sizeof(uint),
            DontCare => 0,
            _ => throw Bad($"chunk {chunk} at byte {at} has type 0x{type:x4}, which does not exist"),
        };
        if (data != wanted) throw Bad($"chunk {chunk} at byte {at} has {data} bytes of data, must have {wanted}");
        if (data > _file.Length - offset)
            throw Bad($"it is cut off within chunk {chunk}: that ends at byte {offset + data}, the file at {_file.Length}");
        if (type == Crc && bytes != 0) throw Bad($"chunk {chunk} at byte {at} is a checksum and has blocks");
        if (bytes > Length - start) throw Bad($"chunk {chunk} at byte {at} ends after the image's {Length} bytes");
        Span<byte> value = stackalloc byte[sizeof(uint)];
        if (wanted == sizeof(uint) && type != Raw) _file.Read(offset, value);
        if (type == Crc) checksums.Add((start, U32(value, 0)));
        else if (bytes > 0) Add(type == Raw ? new Extent(start, offset, 0) : new Extent(start, -1, type == Fill ? U32(value, 0) : 0));
        start += bytes;
        at = offset + data;
    }

    /// <summary>Adds an extent. Neighbours with the same pattern become one extent.</summary>
    private void Add(Extent extent)
    {
        if (extent.Offset < 0 && _extents.Count > 0 && _extents[^1] is { Offset: < 0 } last && last.Pattern == extent.Pattern) return;
        _extents.Add(extent);
    }

    private void Verify(List<(long End, uint Crc)> checksums, StopFlag stop)
    {
        if (checksums.Count == 0) return;
        byte[] buffer = new byte[CheckBytes];
        uint crc = 0;
        long offset = 0;
        foreach ((long end, uint wanted) in checksums)
        {
            while (offset < end)
            {
                ThrowIfStopped(stop);
                Span<byte> part = buffer.AsSpan(0, (int)Math.Min(buffer.Length, end - offset));
                Read(offset, part);
                crc = Zlib.Crc32(crc, part);
                offset += part.Length;
            }
            if (crc != wanted) throw Bad($"the checksum of its first {end} bytes is 0x{crc:x8}, must be 0x{wanted:x8}");
        }
    }

    private static void ThrowIfStopped(StopFlag stop)
    {
        if (stop.Requested) throw new SnapuserdException(ExitCode.Interrupted, "stopped; no COW was written");
    }

    private void ReadFile(long offset, Span<byte> destination, string what)
    {
        if (destination.Length > _file.Length - offset) throw Bad($"it is cut off within {what}: the file ends at byte {_file.Length}");
        _file.Read(offset, destination);
    }

    private SnapuserdException Bad(string what) => new(ExitCode.CowCorrupt, $"{Name} is a damaged Android sparse image: {what}");

    private static ushort U16(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt16LittleEndian(bytes[at..]);

    private static uint U32(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt32LittleEndian(bytes[at..]);
}
