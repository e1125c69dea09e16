using System;
using System.Buffers;
using System.IO;
using System.IO.Compression;
using System.Runtime.InteropServices;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// Payload decoders of the reference reader: strict, slow, and different from the product's where that is affordable. Inflate and LZ4 are
/// implemented here and brotli is the framework's. zstd is the one-shot call of libzstd, because a second implementation would cost too
/// much.
/// </summary>
internal static unsafe class NaiveCodecs
{
    /// <summary>
    /// The decoded unit of <paramref name="size"/> bytes, or null if the stored bytes are not exactly one unit (cow-format §7).
    /// </summary>
    public static byte[]? Decode(int algorithm, ReadOnlySpan<byte> stored, int size) => algorithm switch
    {
        0 => stored.Length == size ? stored.ToArray() : null,
        1 => new Inflate(stored.ToArray(), size).Decode(),
        2 => Brotli(stored, size),
        3 => Lz4(stored, size),
        4 => Zstd(stored, size),
        _ => null,
    };

    private static byte[]? Brotli(ReadOnlySpan<byte> stored, int size)
    {
        // The buffer is one byte longer than the unit, so that a longer stream is detected.
        byte[] room = new byte[size + 1];
        using BrotliDecoder decoder = new();
        OperationStatus status = decoder.Decompress(stored, room, out int consumed, out int written);
        return status == OperationStatus.Done && consumed == stored.Length && written == size ? room[..size] : null;
    }

    private static byte[]? Zstd(ReadOnlySpan<byte> stored, int size)
    {
        byte[] unit = new byte[size];
        nuint result;
        fixed (byte* from = stored)
        fixed (byte* to = unit)
            result = ZSTD_decompress(to, (nuint)size, from, (nuint)stored.Length);
        return result == (nuint)size ? unit : null;
    }

    /// <summary>
    /// One LZ4 block. The end rules are those of the block format: the last sequence is literals only, the last 5 bytes are literals, and
    /// no match begins in the last 12. The format forbids offset 0 without defining its effect; liblz4 writes zeros, and so does this
    /// decoder.
    /// </summary>
    private static byte[]? Lz4(ReadOnlySpan<byte> stored, int size)
    {
        byte[] unit = new byte[size];
        int from = 0, to = 0;
        while (from < stored.Length)
        {
            int token = stored[from++];
            if (!Length(stored, token >> 4, ref from, out long literals) || literals > stored.Length - from || literals > size - to)
                return null;
            stored.Slice(from, (int)literals).CopyTo(unit.AsSpan(to));
            from += (int)literals;
            to += (int)literals;
            if (from == stored.Length) return to == size ? unit : null;
            if (to > size - 12 || from > stored.Length - 8) return null;
            int offset = stored[from] | (stored[from + 1] << 8);
            from += 2;
            if (offset > to || !Length(stored, token & 15, ref from, out long match) || match + 4 > size - 5 - to) return null;
            for (long i = 0; i < match + 4; i++, to++) unit[to] = offset == 0 ? (byte)0 : unit[to - offset];
        }
        return null;
    }

    private static bool Length(ReadOnlySpan<byte> stored, int nibble, ref int from, out long length)
    {
        length = nibble;
        if (nibble < 15) return true;
        while (from < stored.Length)
        {
            byte more = stored[from++];
            length += more;
            if (more < 255) return true;
        }
        return false;
    }

    [DllImport("zstd")]
    private static extern nuint ZSTD_decompress(byte* dst, nuint dstCapacity, byte* src, nuint compressedSize);

    /// <summary>A zlib stream (RFC 1950 and 1951), bit by bit.</summary>
    private sealed class Inflate(byte[] input, int size)
    {
        private static readonly int[] LengthBase =
        [
            3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258,
        ];
        private static readonly int[] LengthExtra = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
        private static readonly int[] DistanceBase =
            [1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289,
                16385, 24577];
        private static readonly int[] DistanceExtra =
        [
            0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13,
        ];
        private static readonly int[] LengthOrder = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

        private readonly byte[] _unit = new byte[size];
        private int _at;
        private int _bits;
        private int _bitCount;
        private int _written;

        public byte[]? Decode()
        {
            try
            {
                int method = Byte(), flags = Byte();
                if (((method << 8) | flags) % 31 != 0 || (method & 15) != 8 || method >> 4 > 7 || (flags & 32) != 0) return null;
                while (Block()) { }
                _bits = _bitCount = 0;
                uint sum = 0;
                for (int i = 0; i < 4; i++) sum = (sum << 8) | (uint)Byte();
                return sum == Adler() && _at == input.Length && _written == size ? _unit : null;
            }
            catch (InvalidDataException)
            {
                return null;
            }
        }

        /// <summary>One block; false after the last.</summary>
        private bool Block()
        {
            bool last = Bits(1) == 1;
            switch (Bits(2))
            {
                case 0: Stored(); break;
                case 1: Fixed(); break;
                case 2: Dynamic(); break;
                default: throw new InvalidDataException();
            }
            return !last;
        }

        private void Stored()
        {
            _bits = _bitCount = 0;
            int length = Byte() | (Byte() << 8), complement = Byte() | (Byte() << 8);
            if (length != (~complement & 0xffff)) throw new InvalidDataException();
            for (int i = 0; i < length; i++) Put((byte)Byte());
        }

        private void Fixed()
        {
            int[] lengths = new int[288];
            for (int i = 0; i < 288; i++) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
            int[] distances = new int[32];
            Array.Fill(distances, 5);
            Codes(new Huffman(lengths), new Huffman(distances));
        }

        private void Dynamic()
        {
            int literals = Bits(5) + 257, distances = Bits(5) + 1, lengths = Bits(4) + 4;
            if (literals > 286 || distances > 30) throw new InvalidDataException();
            int[] code = new int[19];
            for (int i = 0; i < lengths; i++) code[LengthOrder[i]] = Bits(3);
            Huffman lengthCode = new(code);
            if (lengthCode.Left != 0) throw new InvalidDataException();
            int[] all = new int[literals + distances];
            for (int i = 0; i < all.Length;)
            {
                int symbol = Symbol(lengthCode);
                if (symbol < 16) { all[i++] = symbol; continue; }
                if (symbol == 16 && i == 0) throw new InvalidDataException();
                int value = symbol == 16 ? all[i - 1] : 0;
                int count = symbol == 16 ? 3 + Bits(2) : symbol == 17 ? 3 + Bits(3) : 11 + Bits(7);
                if (i + count > all.Length) throw new InvalidDataException();
                while (count-- > 0) all[i++] = value;
            }
            if (all[256] == 0) throw new InvalidDataException();
            Huffman literalCode = new(all[..literals]), distanceCode = new(all[literals..]);
            if (!literalCode.Usable || !distanceCode.Usable) throw new InvalidDataException();
            Codes(literalCode, distanceCode);
        }

        private void Codes(Huffman literals, Huffman distances)
        {
            while (true)
            {
                int symbol = Symbol(literals);
                if (symbol == 256) return;
                if (symbol < 256) { Put((byte)symbol); continue; }
                symbol -= 257;
                if (symbol >= 29) throw new InvalidDataException();
                int length = LengthBase[symbol] + Bits(LengthExtra[symbol]);
                symbol = Symbol(distances);
                if (symbol >= 30) throw new InvalidDataException();
                int distance = DistanceBase[symbol] + Bits(DistanceExtra[symbol]);
                if (distance > _written) throw new InvalidDataException();
                while (length-- > 0) Put(_unit[_written - distance]);
            }
        }

        private int Symbol(Huffman huffman)
        {
            int code = 0, first = 0, index = 0;
            for (int length = 1; length <= 15; length++)
            {
                code |= Bits(1);
                int count = huffman.Count[length];
                if (code - count < first) return huffman.Symbols[index + (code - first)];
                index += count;
                first = (first + count) << 1;
                code <<= 1;
            }
            throw new InvalidDataException();
        }

        private void Put(byte value)
        {
            if (_written == size) throw new InvalidDataException();
            _unit[_written++] = value;
        }

        private int Byte() => _at < input.Length ? input[_at++] : throw new InvalidDataException();

        private int Bits(int count)
        {
            while (_bitCount < count)
            {
                _bits |= Byte() << _bitCount;
                _bitCount += 8;
            }
            int value = _bits & ((1 << count) - 1);
            _bits >>= count;
            _bitCount -= count;
            return value;
        }

        private uint Adler()
        {
            uint a = 1, b = 0;
            foreach (byte value in _unit.AsSpan(0, _written))
            {
                a = (a + value) % 65521;
                b = (b + a) % 65521;
            }
            return (b << 16) | a;
        }

        /// <summary>A canonical code: the number of symbols of each length, and the symbols in the order of their codes.</summary>
        private sealed class Huffman
        {
            public readonly int[] Count = new int[16];
            public readonly int[] Symbols;

            public Huffman(ReadOnlySpan<int> lengths)
            {
                Symbols = new int[lengths.Length];
                foreach (int length in lengths) Count[length]++;
                Left = 1;
                for (int length = 1; length <= 15; length++)
                {
                    Left = (Left << 1) - Count[length];
                    if (Left < 0) throw new InvalidDataException();
                }
                // A code without symbols is valid until a symbol must be decoded with it.
                if (Count[0] == lengths.Length) Left = 0;
                int[] next = new int[16];
                for (int length = 1; length < 15; length++) next[length + 1] = next[length] + Count[length];
                for (int symbol = 0; symbol < lengths.Length; symbol++)
                    if (lengths[symbol] != 0) Symbols[next[lengths[symbol]]++] = symbol;
                Usable = Left == 0 || Count[0] + Count[1] == lengths.Length;
            }

            /// <summary>The number of unused codes; 0 for a complete code.</summary>
            public int Left { get; }

            /// <summary>Complete, or a single code of one bit.</summary>
            public bool Usable { get; }
        }
    }
}
