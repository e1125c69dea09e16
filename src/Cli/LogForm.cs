using System;
using Snapuserd.Host;

namespace Snapuserd.Cli;

/// <summary>The option `--log`.</summary>
internal static class LogForms
{
    internal static readonly Option Option = new("--log", OptionKind.Choice, "stderr|kmsg|json",
        "Where records go. With stderr, warnings, errors and progress are lines on standard error. With kmsg, all records and a summary of "
        + "the merge go to the kernel's log; with json, the same as JSON objects on standard error.")
    { Choices = ["stderr", "kmsg", "json"] };

    /// <summary>
    /// The value of `--log`, if the verb has the option. Also read from an invalid command line, because that error is logged there as
    /// well.
    /// </summary>
    internal static LogForm Of(Verb verb, ReadOnlySpan<string> commandLine)
    {
        if (Array.IndexOf(verb.Options, Option) < 0) return LogForm.StandardError;
        string word = "";
        for (int i = 0; i < commandLine.Length; i++)
        {
            if (commandLine[i] == Option.Name && i + 1 < commandLine.Length) word = commandLine[i + 1];
            else if (commandLine[i].StartsWith("--log=", StringComparison.Ordinal)) word = commandLine[i]["--log=".Length..];
        }
        return word switch { "kmsg" => LogForm.Kernel, "json" => LogForm.Json, _ => LogForm.StandardError };
    }
}
