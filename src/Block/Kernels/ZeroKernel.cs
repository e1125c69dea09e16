using System;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Snapuserd.Block;

/// <summary>Tests whether all bytes are zero, at memory read speed.</summary>
public static class ZeroKernel
{
    /// <summary>
    /// Vectors per round, so that 64 bytes cost one test and one branch. In most blocks that are not zero, the first round finds a byte
    /// that is not.
    /// </summary>
    private const int Unroll = 4;

    /// <summary>True if all of <paramref name="bytes"/> are 0, or there are none. No alignment is needed.</summary>
    public static bool IsZero(ReadOnlySpan<byte> bytes)
    {
        ref byte from = ref MemoryMarshal.GetReference(bytes);
        nuint length = (nuint)bytes.Length;
        nuint width = (nuint)Vector128<byte>.Count;
        nuint at = 0;
        for (; length - at >= width * Unroll; at += width * Unroll)
        {
            Vector128<byte> any = Vector128.LoadUnsafe(ref from, at) | Vector128.LoadUnsafe(ref from, at + width)
                | Vector128.LoadUnsafe(ref from, at + (width * 2)) | Vector128.LoadUnsafe(ref from, at + (width * 3));
            if (any != Vector128<byte>.Zero) return false;
        }
        for (; length - at >= width; at += width)
        {
            if (Vector128.LoadUnsafe(ref from, at) != Vector128<byte>.Zero) return false;
        }
        for (int rest = (int)at; rest < bytes.Length; rest++)
        {
            if (bytes[rest] != 0) return false;
        }
        return true;
    }
}
