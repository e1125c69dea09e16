using System;
using System.IO;
using Snapuserd.Block;

namespace Snapuserd.Tests.Benchmarks;

/// <summary>The kernels of src/Block, compared with the C library's memcpy, which moves as many bytes as they read.</summary>
internal static class Kernels
{
    internal static void Run(TextWriter output, int bytes, int turns)
    {
        // A small window is processed several times per measurement, because the clock is too coarse for one pass.
        int rounds = Math.Max(1, (64 << 20) / bytes / (bytes < 1 << 20 ? 64 : 1));
        byte[] from = GC.AllocateUninitializedArray<byte>(bytes, pinned: true);
        byte[] to = GC.AllocateUninitializedArray<byte>(bytes, pinned: true);
        byte[] zeros = GC.AllocateUninitializedArray<byte>(bytes, pinned: true);
        // Written once, because fresh memory is a single shared page of zeros that fits every cache.
        Array.Fill(zeros, (byte)1);
        Array.Clear(zeros);
        new Random(1).NextBytes(from);
        double gigabytes = (double)bytes * rounds / 1e9;
        string size = $"{bytes / 1024} KiB";

        Action copy = () =>
        {
            for (int i = 0; i < rounds; i++) from.CopyTo(to, 0);
        };
        Turns.Print(output, $"xor of {size}", "memcpy", Turns.Measure(copy, () =>
        {
            for (int i = 0; i < rounds; i++) XorKernel.XorInto(to, from);
        }, turns), gigabytes, "GB/s");
        Turns.Print(output, $"zero test of {size}", "memcpy", Turns.Measure(copy, () =>
        {
            for (int i = 0; i < rounds; i++)
                if (!ZeroKernel.IsZero(zeros)) throw new InvalidOperationException("zeros are not zero");
        }, turns), gigabytes, "GB/s");
    }
}
