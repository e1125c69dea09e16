using System;

namespace Snapuserd.Interop;

/// <summary>
/// What this process was started with, as strings that keep every byte (<see cref="ByteText"/>): the framework's own replace what is
/// not UTF-8.
/// </summary>
public static class OwnProcess
{
    /// <summary>argv, the program's own name first; one empty string if the caller of execve gave none.</summary>
    public static string[] Arguments() =>
        RawArguments.Arguments() is { Length: > 0 } arguments ? Array.ConvertAll(arguments, argument => ByteText.Decode(argument)) : [""];

    /// <summary>The environment, each variable as NAME=value.</summary>
    public static string[] Environment() => Array.ConvertAll(RawArguments.Variables(), variable => ByteText.Decode(variable));

    /// <summary>The value of an environment variable, the first of that name, as getenv(3) has it; null if there is none.</summary>
    public static string? Variable(string name)
    {
        string start = name + "=";
        return Array.Find(Environment(), variable => variable.StartsWith(start, StringComparison.Ordinal))?[start.Length..];
    }
}
