using System;
using System.Numerics;
using System.Runtime.InteropServices;

namespace Snapuserd.Create;

/// <summary>
/// A 64-bit hash of a block. It only has to be fast and evenly distributed, because every match is verified by comparing bytes. It has four
/// lanes because a multiplication takes three cycles and one can start in each cycle.
/// </summary>
internal static class BlockHash
{
    private const ulong A = 0x9e3779b97f4a7c15, B = 0xd6e8feb86659fd93;

    /// <summary>The hash of a multiple of 32 bytes, never 0.</summary>
    public static ulong Of(ReadOnlySpan<byte> block)
    {
        ReadOnlySpan<ulong> words = MemoryMarshal.Cast<byte, ulong>(block);
        ulong a = A, b = B, c = ~A, d = ~B;
        while (words.Length >= 4)
        {
            a = BitOperations.RotateLeft((a ^ words[0]) * A, 29);
            b = BitOperations.RotateLeft((b ^ words[1]) * A, 29);
            c = BitOperations.RotateLeft((c ^ words[2]) * A, 29);
            d = BitOperations.RotateLeft((d ^ words[3]) * A, 29);
            words = words[4..];
        }
        ulong hash = Mix(a ^ Mix(b ^ Mix(c ^ Mix(d))));
        return hash == 0 ? 1 : hash;
    }

    /// <summary>Mixes every bit into the whole word.</summary>
    public static ulong Mix(ulong value)
    {
        value = (value ^ (value >> 32)) * B;
        value = (value ^ (value >> 32)) * B;
        return value ^ (value >> 32);
    }
}
