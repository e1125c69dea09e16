using System;
using System.Globalization;
using System.IO;

namespace Snapuserd.Tests.Kernels;

/// <summary>
/// Checks that must run in code compiled ahead of time, as the program itself is. Without arguments: tests the vector kernels of the
/// architecture that this was compiled for and prints one line per kernel. The exit code is 0 if all agree with a byte loop, else 1. With
/// `fill BYTES COUNT`: allocates COUNT arrays of BYTES bytes on the managed heap and keeps all of them. The exit code is 0, or 71 when the
/// heap is full.
/// </summary>
internal static class Program
{
    private static int Main(string[] args) =>
        args is ["fill", string bytes, string count] ? Fill(int.Parse(bytes, CultureInfo.InvariantCulture),
            int.Parse(count, CultureInfo.InvariantCulture))
        : Run(Console.Out) ? 0 : 1;

    private static int Fill(int bytes, int count)
    {
        byte[][] kept = new byte[count][];
        try
        {
            for (int i = 0; i < count; i++) kept[i] = new byte[bytes];
        }
        catch (OutOfMemoryException)
        {
            return 71;
        }
        GC.KeepAlive(kept);
        return 0;
    }

    internal static bool Run(TextWriter output)
    {
        bool good = true;
        foreach ((string name, Func<KernelCheck, int, int, int, string?> check) in KernelCheck.All)
        {
            KernelCheck memory = new();
            string? fault = memory.AtAllLengthsAndAlignments(check, out int comparisons);
            output.WriteLine(fault == null ? $"{name}: {comparisons} comparisons, all equal" : $"{name}: {fault}");
            good &= fault == null;
        }
        return good;
    }
}
