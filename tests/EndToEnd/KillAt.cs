using System;
using System.Globalization;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>Runs a program and kills it at the entry of the k-th system call of its main thread, or of all its threads: killat.c, compiled once per test run.</summary>
internal static class KillAt
{
    private static readonly Lazy<string> s_killat = new(() => SmallProgram.Compile("killat"));

    /// <summary>A merge that is killed at call <paramref name="call"/>: exit code 137, or what the merge said if it was done before.</summary>
    public static BinaryResult Merge(int call, string cow, string target, string io) => Run(call.ToString(CultureInfo.InvariantCulture), cow, target, io);

    /// <summary>The same with the calls of all threads counted, of which another run may make some more or fewer.</summary>
    public static BinaryResult MergeAtCallOfAnyThread(int call, string cow, string target, string io) => Run($"all:{call}", cow, target, io);

    /// <summary>A merge at whose call <paramref name="call"/> the processes <paramref name="victims"/> are killed, and which goes on without them.</summary>
    public static BinaryResult MergeWithout(int[] victims, int call, string cow, string target, string io) => Run(string.Join(',', [call, .. victims]), cow, target, io);

    /// <summary>How many calls a merge makes, and its result. Over a ring another run may take some more or fewer.</summary>
    public static int Count(string cow, string target, string io)
    {
        BinaryResult result = Run("0", cow, target, io);
        return result.ExitCode == 0 ? int.Parse(result.Error.AsSpan().Trim(), CultureInfo.InvariantCulture) : throw new InvalidOperationException(result.ToString());
    }

    /// <summary>The program with other arguments, killed at call <paramref name="call"/> of its main thread.</summary>
    public static BinaryResult Serve(int call, string[] arguments) => Binary.RunProgram(s_killat.Value, [call.ToString(CultureInfo.InvariantCulture), Binary.Path, .. arguments]);

    private static BinaryResult Run(string what, string cow, string target, string io) => Binary.RunProgram(s_killat.Value,
        [what, Binary.Path, "merge", "--cow", cow, "--base", target, "--io", io, "--progress", "never"]);
}
