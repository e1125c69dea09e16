using System;
using System.IO;

namespace Snapuserd.Tests.Kernels;

/// <summary>
/// Checks the vector kernels of the architecture that this was compiled for. Prints one line per kernel; the exit code is 0 if all of them
/// agree with a loop over bytes, else 1.
/// </summary>
internal static class Program
{
    private static int Main() => Run(Console.Out) ? 0 : 1;

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
