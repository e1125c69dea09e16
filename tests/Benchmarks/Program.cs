using System;
using System.IO;
using Snapuserd.Tests.Benchmarks.Merging;

namespace Snapuserd.Tests.Benchmarks;

/// <summary>
/// Prints the best possible speed of the machine, the speed of the program, and the ratio of the two. Both are measured in the same run, in
/// turns, because a machine's speed varies. The values are medians, with the range in brackets.
/// </summary>
internal static class Program
{
    private static int Main(string[] args)
    {
        if (BenchOptions.Parse(args) is not { } options)
        {
            Console.Error.WriteLine(BenchOptions.Usage);
            return 64;
        }
        if (options.Sweep == null)
        {
            if (options.Only.Length == 0) Run(Console.Out, options.Snapuserd, options.Tiny);
            else RunNamed(Console.Out, options);
        }
        if (options.Snapuserd == null || options.Tiny) return 0;
        if (options.Sweep == null && options.WantsSection("nbd")) NbdReading.Run(Console.Out, options);
        return MergeBenchmark.Run(Console.Out, options);
    }

    /// <summary>Runs everything except merges; with <paramref name="tiny"/>, with sizes small enough for the tests.</summary>
    internal static void Run(TextWriter output, string? snapuserd, bool tiny)
    {
        RunKernels(output, tiny);
        RunParsing(output, tiny);
        RunWriting(output, tiny);
        if (snapuserd != null) RunStart(output, snapuserd, tiny);
    }

    private static void RunNamed(TextWriter output, BenchOptions options)
    {
        if (options.Wants("kernels")) RunKernels(output, options.Tiny);
        if (options.Wants("parsing")) RunParsing(output, options.Tiny);
        if (options.Wants("writing")) RunWriting(output, options.Tiny);
        if (options.Snapuserd != null && options.Wants("start")) RunStart(output, options.Snapuserd, options.Tiny);
    }

    private static void RunKernels(TextWriter output, bool tiny)
    {
        output.WriteLine("kernels, one thread");
        // One size fits into the last-level cache, the other does not.
        Kernels.Run(output, tiny ? 1 << 16 : 2 << 20, TurnsOf(tiny));
        if (!tiny) Kernels.Run(output, 64 << 20, TurnsOf(tiny));
    }

    private static void RunParsing(TextWriter output, bool tiny)
    {
        output.WriteLine("parsing");
        Parsing.Run(output, tiny ? 1000 : 1_000_000, TurnsOf(tiny));
    }

    private static void RunWriting(TextWriter output, bool tiny)
    {
        output.WriteLine("writing a COW");
        Writing.Run(output, tiny ? 16 : 8192, tiny ? 3 : 5);
    }

    private static void RunStart(TextWriter output, string snapuserd, bool tiny)
    {
        output.WriteLine("start to exit");
        StartUp.Run(output, snapuserd, tiny ? 3 : 41);
    }

    private static int TurnsOf(bool tiny) => tiny ? 3 : 25;
}
