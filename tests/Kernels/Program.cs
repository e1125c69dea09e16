using System;
using System.Globalization;
using System.IO;

namespace Snapuserd.Tests.Kernels;

/// <summary>
/// What is checked in code that was compiled ahead of time, as the program itself is. Without arguments: the vector kernels of the architecture that this was
/// compiled for; one line per kernel, and the exit code is 0 if all of them agree with a loop over bytes, else 1. With `fill BYTES COUNT`: that many
/// arrays of so many bytes on the managed heap, all kept; the exit code is 0, or 71 when the heap is full.
/// </summary>
internal static class Program
{
    private static int Main(string[] args) =>
        args is ["fill", string bytes, string count] ? Fill(int.Parse(bytes, CultureInfo.InvariantCulture), int.Parse(count, CultureInfo.InvariantCulture))
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
