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
    private static int Main()
    {
        try
        {
            RawArguments.RuntimeHasStarted();
            int wereClosed = StandardDescriptors.Reserve();
            // A reader that goes away is an errno of write(2), not the end of a merge.
            _ = Libc.IgnoreSignal(Libc.SIGPIPE);
            // A file that reaches its limit (ulimit -f) is one of write(2) as well, and not the end of an extract that could still clean up.
            _ = Libc.IgnoreSignal(Libc.SIGXFSZ);
            bool hasSocket = OwnProcess.Variable(AndroidWords.SocketVariable + AndroidWords.Socket) != null;
            string[] given = OwnProcess.Arguments(), args = given[1..];
            string[] words = AndroidWords.Translate(given[0], args, Array.Find(Verbs.All, verb => verb.Name == "daemon")!, hasSocket) ?? args;
            return (int)CommandLine.Run(Verbs.All, words, new Output(wereClosed));
        }
        catch (Exception e)
        {
            // Not even the report could be made, for want of memory most likely.
            return (int)(CommandLine.IsOutOfMemory(e) ? ExitCode.OutOfResources : ExitCode.Internal);
        }
    }
}

/// <summary>From the words of a command line to an exit code.</summary>
internal static class CommandLine
{
    /// <summary>Runs the verb that <paramref name="words"/> begin with.</summary>
    internal static ExitCode Run(Verb[] verbs, string[] words, Output output)
    {
        // Looked for before anything is understood: who reads JSON wants to read there as well that the command line makes no sense.
        bool json = Array.IndexOf(words, "--json") >= 0;
        try
        {
            if (words.Length == 0) throw new SnapuserdException(ExitCode.Usage, $"a verb is missing: {Names(verbs)}; see snapuserd --help");
            if (words[0] is "--help" or "-h") return Print(output, Verbs.HelpText());
            if (words[0] is "--version" or "version")
            {
                if (words.Length > 1 && words[1] is not ("--json" or "--help" or "-h") || words.Length > 2)
                    throw new SnapuserdException(ExitCode.Usage, $"{words[0]} takes --json and nothing else");
                return Print(output, json ? VersionText.Json : VersionText.Text);
            }
            if (words[0] == "help") return Print(output, words.Length == 1 || words[1] is "help" or "version" ? Verbs.HelpText() : Find(verbs, words[1]).HelpText());
            Verb verb = Find(verbs, words[0]);
            output.LogTo(LogForms.Of(verb, words.AsSpan(1)));
            if (ExtractVerb.Streams(verb, words.AsSpan(1))) output.ResultsToDiagnostics();
            Arguments arguments = Arguments.Parse(verb, words.AsSpan(1));
            if (arguments.Help) return Print(output, verb.HelpText());
            json = arguments.Has("--json");
            ExitCode code = verb.Run(new Invocation(arguments, output));
            if (code != ExitCode.Done) return code;
            if (verb.OutputIsResult) return Written(output);
            // What was done stays done; but an empty file must not look like a merge that had nothing to say.
            if (Lost(output)) output.Write(Priority.Warning, "output_lost", $"the command is done, but its result could not be printed: {Reason.Of(output.Failure)}");
            return code;
        }
        catch (Exception e)
        {
            return Report(output, json, e);
        }
    }

    /// <summary>Tells of an error, in JSON as well if <paramref name="json"/>, and returns its exit code.</summary>
    internal static ExitCode Report(Output output, bool json, Exception e) => e switch
    {
        SnapuserdException expected => Report(output, json, expected.Code, expected.Message, null),
        _ when IsOutOfMemory(e) => Report(output, json, ExitCode.OutOfResources, "out of memory; try a smaller --memory", null),
        _ => Report(output, json, ExitCode.Internal, $"a defect of this program ({e.GetType().Name}): {e.Message}", e.StackTrace),
    };

    /// <summary>The version of the binary, as its project file says it.</summary>
    internal const string Version = BuildConstants.Version;

    /// <summary>Memory ran out, whatever it was that needed it: a type's first use wraps it in an exception of its own.</summary>
    internal static bool IsOutOfMemory(Exception? e)
    {
        for (; e != null; e = e.InnerException)
            if (e is OutOfMemoryException) return true;
        return false;
    }

    private static Verb Find(Verb[] verbs, string name) => Array.Find(verbs, one => one.Name == name)
        ?? throw new SnapuserdException(ExitCode.Usage, $"{Arguments.Unknown(name.StartsWith('-') ? "option" : "verb", name, [.. NameList(verbs), "help", "version", "--help", "--version"])} (verbs: {Names(verbs)}); see snapuserd --help");

    private static string Names(Verb[] verbs) => string.Join(", ", NameList(verbs));

    private static string[] NameList(Verb[] verbs) => Array.ConvertAll(verbs, verb => verb.Name);

    private static ExitCode Print(Output output, string text)
    {
        output.ResultText(text);
        return Written(output);
    }

    private static ExitCode Written(Output output)
    {
        if (!Lost(output)) return ExitCode.Done;
        output.Write(Priority.Error, "output_lost", $"standard output: writing failed: {Reason.Of(output.Failure)}");
        return ExitCode.InputOutput;
    }

    // A reader that has seen enough (`inspect | head`) is none of our failures.
    private static bool Lost(Output output) => output.Failure is not 0 and not -Errno.EPIPE;

    private static ExitCode Report(Output output, bool json, ExitCode code, string sentence, string? trace)
    {
        if (json) output.Result(JsonLine.Event("error").Add("exit_code", (int)code).Add("message", sentence).ToString());
        output.Write(code == ExitCode.Interrupted ? Priority.Warning : Priority.Error, "error", sentence, new LogValue("exit_code", (int)code));
        if (trace != null) output.WriteTrace(trace);
        return code;
    }
}
