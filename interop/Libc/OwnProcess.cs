using System;

namespace Snapuserd.Interop;

/// <summary>
/// Arguments and environment of this process, as strings that keep every byte (<see cref="ByteText"/>); the framework's own replace bytes
/// that are not UTF-8.
/// </summary>
public static class OwnProcess
{
    /// <summary>argv, starting with the program's own name; one empty string if the caller of execve passed none.</summary>
    public static string[] Arguments() =>
        RawArguments.Arguments() is { Length: > 0 } arguments ? Array.ConvertAll(arguments, argument => ByteText.Decode(argument)) : [""];

    /// <summary>The environment, each variable as NAME=value.</summary>
    public static string[] Environment() => Array.ConvertAll(RawArguments.Variables(), variable => ByteText.Decode(variable));

    /// <summary>The value of an environment variable, null if there is none. Like getenv(3), the first one of that name.</summary>
    public static string? Variable(string name)
    {
        string start = name + "=";
        return Array.Find(Environment(), variable => variable.StartsWith(start, StringComparison.Ordinal))?[start.Length..];
    }
}
