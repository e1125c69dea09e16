using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.IO;

namespace Snapuserd.Tests.Support;

/// <summary>
/// Writes Android sparse images chunk by chunk, valid or not, and keeps the matching raw image. Written from sparse_format.h, independent
/// of the product's code.
/// </summary>
public sealed class SparseImages(int block = 4096, int headerBytes = 28, int chunkHeaderBytes = 12)
{
    private readonly MemoryStream _chunks = new();
    private readonly MemoryStream _raw = new();
    private uint _count;

    /// <summary>The raw image that a reader must produce.</summary>
    public byte[] Raw => _raw.ToArray();

    /// <summary>Header fields to overwrite with wrong values, by offset and length.</summary>
    public List<(int Offset, int Bytes, uint Value)> Wrong { get; } = [];

    public SparseImages Data(byte[] blocks)
    {
        Chunk(0xcac1, (uint)(blocks.Length / block), (uint)blocks.Length, blocks);
        _raw.Write(blocks);
        return this;
    }

    public SparseImages Fill(uint blocks, uint pattern)
    {
        byte[] value = Bytes(pattern);
        Chunk(0xcac2, blocks, 4, value);
        for (long i = 0; i < (long)blocks * block; i += 4) _raw.Write(value);
        return this;
    }

    public SparseImages Skip(uint blocks)
    {
        Chunk(0xcac3, blocks, 0, []);
        _raw.Write(new byte[blocks * block]);
        return this;
    }

    /// <summary>
    /// Adds a checksum chunk for the content so far, or with the value <paramref name="other"/>. libsparse does not count the one at its
    /// end.
    /// </summary>
    public SparseImages Checksum(uint? other = null, bool counted = true)
    {
        Chunk(0xcac4, 0, 4, Bytes(other ?? Crc32(Raw)));
        if (!counted) _count--;
        return this;
    }

    public SparseImages Chunk(ushort type, uint blocks, uint dataBytes, byte[] data)
    {
        byte[] header = new byte[chunkHeaderBytes];
        BinaryPrimitives.WriteUInt16LittleEndian(header, type);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(4), blocks);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(8), dataBytes + (uint)chunkHeaderBytes);
        _chunks.Write(header);
        _chunks.Write(data);
        _count++;
        return this;
    }

    public byte[] Build()
    {
        byte[] file = new byte[headerBytes + _chunks.Length];
        BinaryPrimitives.WriteUInt32LittleEndian(file, 0xed26ff3a);
        BinaryPrimitives.WriteUInt16LittleEndian(file.AsSpan(4), 1);
        BinaryPrimitives.WriteUInt16LittleEndian(file.AsSpan(8), (ushort)headerBytes);
        BinaryPrimitives.WriteUInt16LittleEndian(file.AsSpan(10), (ushort)chunkHeaderBytes);
        BinaryPrimitives.WriteUInt32LittleEndian(file.AsSpan(12), (uint)block);
        BinaryPrimitives.WriteUInt32LittleEndian(file.AsSpan(16), (uint)(_raw.Length / block));
        BinaryPrimitives.WriteUInt32LittleEndian(file.AsSpan(20), _count);
        foreach ((int offset, int bytes, uint value) in Wrong) Bytes(value).AsSpan(0, bytes).CopyTo(file.AsSpan(offset));
        _chunks.ToArray().CopyTo(file, headerBytes);
        return file;
    }

    /// <summary>A sparse image of <paramref name="raw"/> with all kinds of chunks that fit it.</summary>
    public static byte[] Of(byte[] raw, int block = 4096)
    {
        SparseImages image = new(block);
        int end;
        for (int start = 0; start < raw.Length; start = end)
        {
            end = start + block;
            bool pattern = IsPattern(raw.AsSpan(start, block));
            uint value = BinaryPrimitives.ReadUInt32LittleEndian(raw.AsSpan(start));
            while (end < raw.Length && IsPattern(raw.AsSpan(end, block)) == pattern
                && (!pattern || BinaryPrimitives.ReadUInt32LittleEndian(raw.AsSpan(end)) == value))
                end += block;
            uint blocks = (uint)((end - start) / block);
            if (!pattern) image.Data(raw[start..end]);
            else if (value == 0) image.Skip(blocks);
            else image.Fill(blocks, value);
        }
        return image.Checksum(counted: false).Build();
    }

    /// <summary>CRC-32 of IEEE 802.3, bit by bit.</summary>
    public static uint Crc32(ReadOnlySpan<byte> bytes)
    {
        uint crc = uint.MaxValue;
        foreach (byte value in bytes)
        {
            crc ^= value;
            for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ ((crc & 1) * 0xedb88320);
        }
        return ~crc;
    }

    private static bool IsPattern(ReadOnlySpan<byte> bytes) => bytes[4..].SequenceEqual(bytes[..^4]);

    private static byte[] Bytes(uint value)
    {
        byte[] bytes = new byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        return bytes;
    }
}
