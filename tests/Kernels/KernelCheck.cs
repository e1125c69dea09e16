using System;
using System.Runtime.InteropServices;
using Snapuserd.Block;
using Snapuserd.Create;

namespace Snapuserd.Tests.Kernels;

/// <summary>Two memory areas for the vector kernels. Compares each kernel call with a byte loop.</summary>
internal sealed class KernelCheck
{
    private const int LongestOfAll = 300, Alignments = 64, Seed = 20261127;

    /// <summary>Guard bytes on either side that a kernel must not change. The first also allows for the alignment.</summary>
    private const int Margin = 64;

    /// <summary>Longer ranges, at fewer alignments: a block, and several rounds of the difference kernel's 8-bit counts.</summary>
    private static readonly int[] s_longer = [4080, 4096, 4097, (255 * 16) + 1, (2 * 255 * 16) + 15, 65536, (1 << 18) + 63];

    private static readonly int[] s_otherAlignments = [0, 1, 7, 8, 15, 16, 33, 63];

    /// <summary>Each kernel's check. It takes two offsets and a length in bytes, and returns null or a description of the error.</summary>
    internal static readonly (string Name, Func<KernelCheck, int, int, int, string?> Check)[] All =
    [
        ("xor", static (memory, to, from, length) => memory.Xor(to, from, length)),
        ("zero", static (memory, at, _, length) => memory.Zero(at, length)),
        ("difference", static (memory, a, b, length) => memory.Difference(a, b, length)),
    ];

    private readonly byte[] _pattern, _source, _destination, _expected;

    // The areas begin here, aligned to 64 bytes.
    private readonly int _sourceStart, _destinationStart;

    internal KernelCheck()
    {
        int size = s_longer[^1] + Alignments + (2 * Margin);
        _pattern = new byte[size];
        new Random(Seed).NextBytes(_pattern);
        _expected = new byte[size];
        _source = GC.AllocateUninitializedArray<byte>(size + Alignments, pinned: true);
        _destination = GC.AllocateUninitializedArray<byte>(size + Alignments, pinned: true);
        _sourceStart = ToAlignment(_source);
        _destinationStart = ToAlignment(_destination);
        Array.Reverse(_pattern);
        _pattern.CopyTo(_source, _sourceStart);
        Array.Reverse(_pattern);
    }

    /// <summary>Calls <paramref name="check"/> for all lengths up to 300 and some longer ones. Returns the first error, or null.</summary>
    internal string? AtAllLengthsAndAlignments(Func<KernelCheck, int, int, int, string?> check, out int comparisons)
    {
        comparisons = 0;
        for (int a = 0; a < Alignments; a++)
        {
            foreach (int b in s_otherAlignments)
            {
                for (int i = 0; i <= LongestOfAll + s_longer.Length; i++)
                {
                    if (i > LongestOfAll && a % 9 != 0) break;
                    int length = i <= LongestOfAll ? i : s_longer[i - LongestOfAll - 1];
                    comparisons++;
                    if (check(this, a, b, length) is { } fault) return $"length {length}, alignments {a} and {b}: {fault}";
                }
            }
        }
        return null;
    }

    private string? Xor(int to, int from, int length)
    {
        int size = length + Alignments + (2 * Margin);
        Span<byte> all = _destination.AsSpan(_destinationStart, size), expected = _expected.AsSpan(0, size);
        _pattern.AsSpan(0, size).CopyTo(all);
        _pattern.AsSpan(0, size).CopyTo(expected);
        ReadOnlySpan<byte> source = _source.AsSpan(_sourceStart + Margin + from, length);
        for (int i = 0; i < length; i++) expected[Margin + to + i] ^= source[i];
        XorKernel.XorInto(all.Slice(Margin + to, length), source);
        return FirstDifference(all, expected) is var at and >= 0 ? $"byte {at - Margin - to} of the range is wrong" : null;
    }

    private string? Zero(int at, int length)
    {
        // All bytes around the range are set: a kernel that reads too far reports "not zero".
        Span<byte> all = _destination.AsSpan(_destinationStart, length + Alignments + (2 * Margin)), range = all.Slice(Margin + at, length);
        all.Fill(0xff);
        range.Clear();
        if (!ZeroKernel.IsZero(range)) return "it looks beside the range";
        // Every position of a short range. In a long range, the positions near its ends and every 61st.
        for (int i = 0; i < length; i += length <= LongestOfAll || i < 128 || i >= length - 128 ? 1 : Math.Min(61, length - 128 - i))
        {
            range[i] = (byte)(1 << (i & 7));
            bool zero = ZeroKernel.IsZero(range);
            range[i] = 0;
            if (zero) return $"it misses byte {i}";
        }
        return null;
    }

    private string? Difference(int a, int b, int length)
    {
        Span<byte> left = _destination.AsSpan(_destinationStart + Margin + a, length);
        ReadOnlySpan<byte> right = _source.AsSpan(_sourceStart + Margin + b, length);
        // No, some or all bytes differ. An overflow of an 8-bit count shows only where nearly all bytes are equal.
        for (int step = 0; step <= 3; step++)
        {
            int expected = 0;
            for (int i = 0; i < length; i++)
            {
                bool differs = step > 0 && i % (step * step) == 0;
                left[i] = (byte)(differs ? right[i] ^ 0x80 : right[i]);
                if (left[i] != right[i]) expected++;
            }
            int counted = DifferenceKernel.Count(left, right);
            if (counted != expected) return $"{counted} bytes differ, not {expected}";
        }
        return null;
    }

    private static int FirstDifference(ReadOnlySpan<byte> a, ReadOnlySpan<byte> b)
    {
        for (int i = 0; i < a.Length; i++)
            if (a[i] != b[i]) return i;
        return -1;
    }

    private static int ToAlignment(byte[] pinned) =>
        (int)((Alignments - (Marshal.UnsafeAddrOfPinnedArrayElement(pinned, 0) % Alignments)) % Alignments);
}
