using System;
using System.Numerics;

namespace Snapuserd.Create;

/// <summary>
/// Estimates the size that an ideal coder of single bytes needs, without any codec. It ignores repetition. But it distinguishes a payload
/// that is mostly zeros from noise, and the choice between Xor and Replace depends on this.
/// </summary>
internal sealed class EntropyEstimator : ICostEstimator
{
    /// <summary>Fixed cost of a compressed payload, in bytes: headers of the common formats and their tables.</summary>
    private const int Frame = 16;

    private readonly int[] _counts = new int[256];

    public int Cost(ReadOnlySpan<byte> blocks)
    {
        Array.Clear(_counts);
        foreach (byte value in blocks) _counts[value]++;
        // Integers, in units of 1/16 bit, so that the result is the same on every machine.
        long sixteenths = 0;
        foreach (int count in _counts)
            if (count > 0) sixteenths += (long)count * (Log16((uint)blocks.Length) - Log16((uint)count));
        return (int)Math.Min(blocks.Length, (sixteenths / (16 * 8)) + Frame);
    }

    public void Dispose()
    {
    }

    /// <summary>16 · log2, linear between powers of two.</summary>
    private static int Log16(uint value)
    {
        int whole = BitOperations.Log2(value);
        return (whole * 16) + (int)(((ulong)value << 4 >> whole) - 16);
    }
}
