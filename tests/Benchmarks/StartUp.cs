using System;
using System.Diagnostics;
using System.Globalization;
using System.IO;

namespace Snapuserd.Tests.Benchmarks;

/// <summary>Measures the time from fork to exit, compared with the smallest program that exists on every system.</summary>
internal static class StartUp
{
    internal static void Run(TextWriter output, string snapuserd, int turns)
    {
        (Times ceiling, Times ours) = Turns.Measure(() => Start("/bin/true", []), () => Start(snapuserd, ["--version"]), turns);
        output.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"  {"snapuserd --version",-34} ceiling {Milliseconds(ceiling)} ms (/bin/true), ours {Milliseconds(ours)} ms, ratio "
            + $"{ceiling.Median / ours.Median:0.00}; median of {turns} runs"));
    }

    private static string Milliseconds(Times times) =>
        string.Create(CultureInfo.InvariantCulture, $"{times.Median * 1000:0.0} [{times.Least * 1000:0.0}-{times.Most * 1000:0.0}]");

    private static void Start(string program, string[] arguments)
    {
        using Process process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true })!;
        process.WaitForExit();
        if (process.ExitCode != 0) throw new InvalidOperationException($"{program} ended with {process.ExitCode}");
    }
}
