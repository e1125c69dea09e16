using System;
using System.Diagnostics;
using System.Text.Json;
using Snapuserd.Interop;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>A complete run of a program: wall time from start to exit, CPU seconds, and the last printed line.</summary>
internal sealed record ProgramRun(double Seconds, double CpuSeconds, string LastLine)
{
    // Selects the child processes that were waited for.
    private const int RusageChildren = -1;

    /// <summary>A number of the JSON object in the last line.</summary>
    internal double this[string key] => JsonDocument.Parse(LastLine).RootElement.GetProperty(key).GetDouble();

    /// <summary>Runs <paramref name="program"/>; throws if the exit code is not 0, with the contents of standard error.</summary>
    internal static ProgramRun Run(string program, string[] arguments)
    {
        double cpu = ChildrenCpu();
        long start = Stopwatch.GetTimestamp();
        using Process process =
            Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
        string output = process.StandardOutput.ReadToEnd(), error = process.StandardError.ReadToEnd();
        process.WaitForExit();
        double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        if (process.ExitCode != 0)
            throw new InvalidOperationException($"{program} {string.Join(' ', arguments)} ended with {process.ExitCode}: {error}");
        string[] lines = output.TrimEnd('\n').Split('\n');
        return new ProgramRun(seconds, ChildrenCpu() - cpu, lines[^1]);
    }

    /// <summary>
    /// Runs it through a shell that forks: a process inherits the peak memory of the process that forked it, and this one is large.
    /// </summary>
    internal static ProgramRun RunForked(string program, string[] arguments) =>
        Run("/bin/sh", ["-c", "\"$0\" \"$@\"; exit $?", program, .. arguments]);

    private static double ChildrenCpu()
    {
        _ = Libc.GetRUsage(RusageChildren, out ResourceUsage usage);
        return Seconds(usage.UserTime) + Seconds(usage.SystemTime);

        static double Seconds(TimeVal time) => time.Seconds + (time.Microseconds / 1e6);
    }
}
