using System;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Snapuserd.Create;

/// <summary>Counts the bytes in which two blocks differ, at the speed of reading them.</summary>
internal static class DifferenceKernel
{
    /// <summary>Number of vectors after which the 8-bit counts are added to the sum. After one more they could overflow.</summary>
    private const int Round = 255;

    /// <summary>The number of bytes that differ between two spans of the same length.</summary>
    public static int Count(ReadOnlySpan<byte> a, ReadOnlySpan<byte> b)
    {
        if (a.Length != b.Length) throw new ArgumentException($"{a.Length} bytes cannot be compared with {b.Length}", nameof(b));
        ReadOnlySpan<Vector128<byte>> left = MemoryMarshal.Cast<byte, Vector128<byte>>(a),
            right = MemoryMarshal.Cast<byte, Vector128<byte>>(b);
        int same = 0;
        for (int start = 0; start < left.Length; start += Round)
        {
            ReadOnlySpan<Vector128<byte>> l = left[start..Math.Min(start + Round, left.Length)], r = right.Slice(start, l.Length);
            Vector128<byte> counts = Vector128<byte>.Zero;
            for (int i = 0; i < l.Length; i++) counts -= Vector128.Equals(l[i], r[i]);
            (Vector128<ushort> low, Vector128<ushort> high) = Vector128.Widen(counts);
            same += Vector128.Sum(low + high);
        }
        for (int i = left.Length * Vector128<byte>.Count; i < a.Length; i++)
            if (a[i] == b[i]) same++;
        return a.Length - same;
    }
}
