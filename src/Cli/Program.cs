using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Cli;

internal static class Program
{
    /// <summary>
    /// The only way out of the process: every error becomes a sentence on standard error and an exit code. Never an abort, which is a
    /// kernel panic when the process is number 1.
    /// </summary>
    private static int Main(string[] args)
    {
        try
        {
            int wereClosed = StandardDescriptors.Reserve();
            // A reader that goes away is an errno of write(2), not the end of a merge.
            _ = Libc.IgnoreSignal(Libc.SIGPIPE);
            return (int)CommandLine.Run(Verbs.All, args, new Output(wereClosed));
        }
        catch (Exception)
        {
            // Not even the report could be made, for want of memory most likely.
            return (int)ExitCode.Internal;
        }
    }
}

/// <summary>From the words of a command line to an exit code.</summary>
internal static class CommandLine
{
    /// <summary>Runs the verb that <paramref name="words"/> begin with.</summary>
    internal static ExitCode Run(Verb[] verbs, string[] words, Output output)
    {
        bool json = false;
        try
        {
            if (words.Length == 0) throw new SnapuserdException(ExitCode.Usage, $"a verb is missing: {Names(verbs)}; see snapuserd --help");
            if (words[0] is "--help" or "-h") return Print(output, Verbs.HelpText());
            if (words[0] is "--version") return Print(output, $"snapuserd {Version}");
            Verb verb = Array.Find(verbs, one => one.Name == words[0])
                ?? throw new SnapuserdException(ExitCode.Usage, $"{Arguments.Unknown("verb", words[0], NameList(verbs))} (verbs: {Names(verbs)})");
            Arguments arguments = Arguments.Parse(verb, words.AsSpan(1));
            if (arguments.Help) return Print(output, verb.HelpText());
            json = arguments.Has("--json");
            ExitCode code = verb.Run(new Invocation(arguments, output));
            return code == ExitCode.Done && verb.OutputIsResult ? Written(output) : code;
        }
        catch (SnapuserdException e)
        {
            return Report(output, json, e.Code, e.Message, null);
        }
        catch (OutOfMemoryException)
        {
            return Report(output, json, ExitCode.OutOfResources, "out of memory; try a smaller --memory", null);
        }
        catch (Exception e)
        {
            return Report(output, json, ExitCode.Internal, $"a defect of this program ({e.GetType().Name}): {e.Message}", e.StackTrace);
        }
    }

    /// <summary>The version of the binary, as its project file says it.</summary>
    internal const string Version = BuildConstants.Version;

    private static string Names(Verb[] verbs) => string.Join(", ", NameList(verbs));

    private static string[] NameList(Verb[] verbs) => Array.ConvertAll(verbs, verb => verb.Name);

    private static ExitCode Print(Output output, string text)
    {
        output.Result(text);
        return Written(output);
    }

    private static ExitCode Written(Output output)
    {
        // A reader that has seen enough (`inspect | head`) is none of our failures.
        if (output.Failure is 0 or -Errno.EPIPE) return ExitCode.Done;
        output.Diagnose($"snapuserd: standard output: writing failed with {Errno.Name(output.Failure)}");
        return ExitCode.InputOutput;
    }

    private static ExitCode Report(Output output, bool json, ExitCode code, string sentence, string? trace)
    {
        if (json) output.Result(JsonLine.Event("error").Add("exit_code", (int)code).Add("message", sentence).ToString());
        // One sentence is one line, whatever a path in it contains.
        output.Diagnose($"snapuserd: {sentence.ReplaceLineEndings(" ")}");
        if (trace != null) output.Diagnose(trace);
        return code;
    }
}
