using System;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Snapuserd.Block;

/// <summary>destination ^= source, at the speed of memcpy.</summary>
public static class XorKernel
{
    /// <summary>
    /// Vectors per round. Four loads from each side keep both load ports busy while the stores drain. The vectors have 128 bits, because
    /// the compiler does not dispatch to wider ones at run time and memory is the bottleneck (design §2).
    /// </summary>
    private const int Unroll = 4;

    /// <summary>
    /// Replaces every byte of <paramref name="destination"/> by its xor with the byte of <paramref name="source"/> at the same index.
    /// Both have the same length and are either identical or do not overlap; no alignment is needed.
    /// </summary>
    public static void XorInto(Span<byte> destination, ReadOnlySpan<byte> source)
    {
        if (destination.Length != source.Length)
            throw new ArgumentException($"{source.Length} bytes cannot be xored into {destination.Length}", nameof(source));

        ref byte to = ref MemoryMarshal.GetReference(destination);
        ref byte from = ref MemoryMarshal.GetReference(source);
        nuint length = (nuint)destination.Length;
        nuint width = (nuint)Vector128<byte>.Count;
        nuint at = 0;
        for (; length - at >= width * Unroll; at += width * Unroll)
        {
            Vector128<byte> a = Vector128.LoadUnsafe(ref to, at) ^ Vector128.LoadUnsafe(ref from, at);
            Vector128<byte> b = Vector128.LoadUnsafe(ref to, at + width) ^ Vector128.LoadUnsafe(ref from, at + width);
            Vector128<byte> c = Vector128.LoadUnsafe(ref to, at + (width * 2)) ^ Vector128.LoadUnsafe(ref from, at + (width * 2));
            Vector128<byte> d = Vector128.LoadUnsafe(ref to, at + (width * 3)) ^ Vector128.LoadUnsafe(ref from, at + (width * 3));
            a.StoreUnsafe(ref to, at);
            b.StoreUnsafe(ref to, at + width);
            c.StoreUnsafe(ref to, at + (width * 2));
            d.StoreUnsafe(ref to, at + (width * 3));
        }
        for (; length - at >= width; at += width)
            (Vector128.LoadUnsafe(ref to, at) ^ Vector128.LoadUnsafe(ref from, at)).StoreUnsafe(ref to, at);
        for (int rest = (int)at; rest < destination.Length; rest++) destination[rest] ^= source[rest];
    }
}
