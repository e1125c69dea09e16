using System;
using Snapuserd.AndroidDaemon;
using Snapuserd.Block;
using Snapuserd.Host;
using Snapuserd.Interop;
using Snapuserd.Text;

namespace Snapuserd.Cli;

internal static class Program
{
    /// <summary>
    /// The only exit of the process: every error becomes a message on standard error and an exit code. The process never aborts, because
    /// the kernel would panic if this is process 1.
    /// </summary>
    private static int Main()
    {
        try
        {
            RawArguments.RuntimeHasStarted();
            int wereClosed = StandardDescriptors.Reserve();
            StopSignals.IgnoreThoseOfWrites();
            bool hasSocket = OwnProcess.Variable(AndroidArguments.SocketVariable + AndroidArguments.Socket) != null;
            string[] given = OwnProcess.Arguments(), args = given[1..];
            string[] commandLine = AndroidArguments.Translate(given[0], args, DaemonVerb.TakesValue, hasSocket) ?? args;
            return (int)CommandLine.Run(Verbs.All, commandLine, new Output(wereClosed));
        }
        catch (Exception e)
        {
            // Even the report failed, most likely for lack of memory.
            return (int)(CommandLine.IsOutOfMemory(e) ? ExitCode.OutOfResources : ExitCode.Internal);
        }
    }
}

/// <summary>Turns the arguments of a command line into an exit code.</summary>
internal static class CommandLine
{
    /// <summary>Runs the verb that <paramref name="commandLine"/> begins with.</summary>
    internal static ExitCode Run(Verb[] verbs, string[] commandLine, Output output)
    {
        // Checked before parsing, so that a program that reads JSON also gets errors of the command line as JSON.
        bool json = Array.IndexOf(commandLine, "--json") >= 0;
        try
        {
            if (commandLine.Length == 0)
                throw new SnapuserdException(ExitCode.Usage, $"a verb is missing: {Names(verbs)}; see snapuserd --help");
            if (commandLine[0] is "--help" or "-h") return Print(output, Verbs.HelpText());
            if (commandLine[0] is "--version" or "version")
            {
                if (commandLine.Length > 1 && commandLine[1] is not ("--json" or "--help" or "-h") || commandLine.Length > 2)
                    throw new SnapuserdException(ExitCode.Usage, $"{commandLine[0]} takes --json and nothing else");
                return Print(output, json ? VersionText.Json : VersionText.Text);
            }
            if (commandLine[0] == "help")
                return Print(output, commandLine.Length == 1 || commandLine[1] is "help" or "version"
                    ? Verbs.HelpText() : Find(verbs, commandLine[1]).HelpText());
            Verb verb = Find(verbs, commandLine[0]);
            output.LogTo(LogForms.Of(verb, commandLine.AsSpan(1)));
            if (ExtractVerb.Streams(verb, commandLine.AsSpan(1))) output.ResultsToDiagnostics();
            Arguments arguments = Arguments.Parse(verb, commandLine.AsSpan(1));
            if (arguments.Help) return Print(output, verb.HelpText());
            json = arguments.Has("--json");
            ExitCode code = verb.Run(new Invocation(arguments, output));
            if (code != ExitCode.Done) return code;
            if (verb.OutputIsResult) return Written(output);
            // The work is done, so the exit code stays 0. The warning explains why the result is missing.
            if (Lost(output))
                output.Write(Priority.Warning, "output_lost",
                    $"the command is done, but its result could not be printed: {ErrnoText.Of(output.Failure)}");
            return code;
        }
        catch (Exception e)
        {
            return Report(output, json, e);
        }
    }

    /// <summary>Reports an error, in JSON as well if <paramref name="json"/>, and returns its exit code.</summary>
    internal static ExitCode Report(Output output, bool json, Exception e) => e switch
    {
        SnapuserdException expected => Report(output, json, expected.Code, expected.Message, null),
        _ when IsOutOfMemory(e) => Report(output, json, ExitCode.OutOfResources, "out of memory; try a smaller --memory", null),
        _ => Report(output, json, ExitCode.Internal, $"a defect of this program ({e.GetType().Name}): {e.Message}", e.StackTrace),
    };

    /// <summary>The version of the binary, from its project file.</summary>
    internal const string Version = BuildConstants.Version;

    /// <summary>True if memory ran out anywhere: the runtime wraps the exception if it happens during the first use of a type.</summary>
    internal static bool IsOutOfMemory(Exception? e)
    {
        for (; e != null; e = e.InnerException)
            if (e is OutOfMemoryException) return true;
        return false;
    }

    private static Verb Find(Verb[] verbs, string name)
    {
        if (Array.Find(verbs, one => one.Name == name) is { } verb) return verb;
        string[] known = [.. NameList(verbs), "help", "version", "--help", "--version"];
        string unknown = Suggestion.Unknown(name.StartsWith('-') ? "option" : "verb", name, known);
        throw new SnapuserdException(ExitCode.Usage, $"{unknown} (verbs: {Names(verbs)}); see snapuserd --help");
    }

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
        output.Write(Priority.Error, "output_lost", $"standard output: writing failed: {ErrnoText.Of(output.Failure)}");
        return ExitCode.InputOutput;
    }

    // A reader that stops early (`inspect | head`) is not a failure.
    private static bool Lost(Output output) => output.Failure is not 0 and not -Errno.EPIPE;

    private static ExitCode Report(Output output, bool json, ExitCode code, string sentence, string? trace)
    {
        if (json) output.Result(JsonLine.Event("error").Add("exit_code", (int)code).Add("message", sentence).ToString());
        output.Write(code == ExitCode.Interrupted ? Priority.Warning : Priority.Error, "error", sentence,
            new LogValue("exit_code", (int)code));
        if (trace != null) output.WriteTrace(trace);
        return code;
    }
}
