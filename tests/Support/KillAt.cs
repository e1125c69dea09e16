using System;
using System.Diagnostics;
using System.Globalization;

namespace Snapuserd.Tests.Support;

/// <summary>
/// Runs a program under killat.c, which is compiled once per test run. killat kills, signals or holds the program at the entry of the k-th
/// system call of its main thread, or kills it at the k-th call of all its threads.
/// </summary>
public static class KillAt
{
    private static readonly Lazy<string> s_killat = new(() => CProgram.Compile("Support", "killat"));

    /// <summary>
    /// A merge that is killed at call <paramref name="call"/>. Exit code 137, or the merge's own result if it ended before that call.
    /// </summary>
    public static BinaryResult Merge(int call, string cow, string target, string io) =>
        Run(call.ToString(CultureInfo.InvariantCulture), cow, target, io);

    /// <summary>As <see cref="Merge"/>, but counts the calls of all threads. Their number can differ between runs.</summary>
    public static BinaryResult MergeAtCallOfAnyThread(int call, string cow, string target, string io) =>
        Run($"all:{call}", cow, target, io);

    /// <summary>
    /// A merge that continues after the processes <paramref name="victims"/> are killed at its call <paramref name="call"/>.
    /// </summary>
    public static BinaryResult MergeWithout(int[] victims, int call, string cow, string target, string io) =>
        Run(string.Join(',', [call, .. victims]), cow, target, io);

    /// <summary>How many calls a merge makes; throws if the merge fails. Over a ring the number can differ between runs.</summary>
    public static int Count(string cow, string target, string io)
    {
        BinaryResult result = Run("0", cow, target, io);
        return result.ExitCode == 0 ? int.Parse(result.Error.AsSpan().Trim(), CultureInfo.InvariantCulture)
            : throw new InvalidOperationException(result.ToString());
    }

    /// <summary>Runs the program with other arguments, and kills it at call <paramref name="call"/> of its main thread.</summary>
    public static BinaryResult Serve(int call, string[] arguments) =>
        Binary.RunProgram(s_killat.Value, [call.ToString(CultureInfo.InvariantCulture), Binary.Path, .. arguments]);

    /// <summary>
    /// A command line that runs the program with <paramref name="arguments"/> under killat. The comment at the top of killat.c explains
    /// <paramref name="what"/>.
    /// </summary>
    public static string[] Command(string what, params string[] arguments) => [s_killat.Value, what, Binary.Path, .. arguments];

    /// <summary>
    /// A command line that runs the program and sends it a signal at call <paramref name="call"/> of its main thread, counting only calls
    /// named <paramref name="name"/>. The program has handled the signal when that call is made. Works for signals that the program
    /// handles, and for calls after all of its threads have started.
    /// </summary>
    public static string[] SignalledAt(int signal, int call, string name, params string[] arguments) =>
    [
        s_killat.Value, $"signal={signal}:{call}@{Number(name)}", Binary.Path, .. arguments,
    ];

    /// <summary>
    /// Starts the program and holds its main thread at that call until the standard input of the returned process is closed. Returns once
    /// the thread is held.
    /// </summary>
    public static Process Hold(int call, string name, params string[] arguments)
    {
        Process process = Binary.StartProgram(s_killat.Value, [$"hold:{call}@{Number(name)}", Binary.Path, .. arguments]);
        string? said = process.StandardError.ReadLine();
        return said == "held" ? process : throw new InvalidOperationException($"not held, but: {said} {process.StandardError.ReadToEnd()}");
    }

    /// <summary>The number of a system call on x86-64.</summary>
    private static int Number(string name) => name switch
    {
        "pread64" => 17,
        "pwrite64" => 18,
        "flock" => 73,
        "fsync" => 74,
        "fdatasync" => 75,
        "rename" => 82,
        "io_uring_enter" => 426,
        _ => throw new ArgumentOutOfRangeException(nameof(name), name, "no number for this call; add it here"),
    };

    private static BinaryResult Run(string what, string cow, string target, string io) => Binary.RunProgram(s_killat.Value,
        [what, Binary.Path, "merge", "--cow", cow, "--base", target, "--io", io, "--progress", "never"]);
}
