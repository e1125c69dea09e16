using System;
using System.IO;

namespace Snapuserd.Tests.Benchmarks;

/// <summary>
/// What the machine can do at best, what the program does, and the ratio of the two. Both are measured in the same run, one after the
/// other in turns, because machines have moods; medians, with the range in brackets.
/// </summary>
internal static class Program
{
    private static int Main(string[] args)
    {
        string? snapuserd = null;
        bool tiny = false;
        for (int i = 0; i < args.Length; i++)
        {
            if (args[i] == "--tiny") tiny = true;
            else if (args[i] == "--snapuserd" && i + 1 < args.Length) snapuserd = args[++i];
            else
            {
                Console.Error.WriteLine("usage: benchmarks [--snapuserd PATH] [--tiny]");
                return 64;
            }
        }
        Run(Console.Out, snapuserd, tiny);
        return 0;
    }

    /// <summary>Everything, or with <paramref name="tiny"/> so little of it that the tests can run it.</summary>
    internal static void Run(TextWriter output, string? snapuserd, bool tiny)
    {
        int turns = tiny ? 3 : 25;
        output.WriteLine("kernels, one thread");
        // A batch that stays in the last-level cache, and one that does not.
        Kernels.Run(output, tiny ? 1 << 16 : 2 << 20, turns);
        if (!tiny) Kernels.Run(output, 64 << 20, turns);
        output.WriteLine("parsing");
        Parsing.Run(output, tiny ? 1000 : 1_000_000, turns);
        output.WriteLine("writing a COW");
        Writing.Run(output, tiny ? 16 : 8192, tiny ? 3 : 5);
        if (snapuserd == null) return;
        output.WriteLine("start to exit");
        StartUp.Run(output, snapuserd, tiny ? 3 : 41);
    }
}
