using System;
using System.Collections.Generic;

namespace Snapuserd.AndroidDaemon;

/// <summary>
/// Translates Android's command line, which has no verb, to the verb `daemon` with the same options. Android writes flags as gflags does
/// (daemon §1): one dash or two, `_` for `-`, -name=value or -name value; -name, -noname or -name=false for a Boolean flag.
/// </summary>
public static class AndroidArguments
{
    /// <summary>The name of the control socket for Android's init.</summary>
    public const string Socket = "snapuserd";

    /// <summary>The prefix of the environment variable for an inherited socket; the socket's name follows.</summary>
    public const string SocketVariable = "ANDROID_SOCKET_";

    private static readonly string[] s_flags =
    [
        "socket", "no-socket", "socket-handoff", "user-snapshot", "io-uring", "o-direct", "cow-op-merge-size", "worker-count",
    ];

    /// <summary>
    /// The arguments of `daemon` if <paramref name="words"/> are Android's: the program is called as snapuserd or snapuserd_ramdisk, and
    /// the first word is one of the flags or a snapshot; or there is no word, but a socket from init. Null otherwise.
    /// </summary>
    /// <param name="called">The name under which the program was called.</param>
    /// <param name="words">Its arguments.</param>
    /// <param name="takesValue">Returns whether the verb's option of this name ("--socket") takes a value; null if there is no such
    /// option.</param>
    /// <param name="hasSocket">Init has opened the control socket.</param>
    public static string[]? Translate(string called, string[] words, Func<string, bool?> takesValue, bool hasSocket)
    {
        if (!IsAndroid(called, words, takesValue, hasSocket)) return null;
        List<string> result = ["daemon"];
        bool socket = false, log = false;
        for (int i = 0; i < words.Length; i++)
        {
            string word = words[i];
            if (word == "--")
            {
                result.AddRange(words.AsSpan(i));
                break;
            }
            if (Flag(word, takesValue, out bool negated, out string? value) is not { } flag)
            {
                // An operand, or an error that the verb's own parser reports better.
                result.Add(word);
                continue;
            }
            (string option, bool hasValue) = flag;
            if (hasValue)
            {
                if (value == null && i + 1 < words.Length) value = words[++i];
                result.Add($"{option}={value}");
                socket |= option == "--socket";
                log |= option == "--log";
            }
            // A flag that is off is left out; a repeated flag counts once.
            else if (!negated && value is null or "true" or "t" or "yes" or "y" or "1" && !result.Contains(option))
            {
                result.Add(option);
            }
        }
        // Android's daemon accepts both and then ignores the name; in this program's own spelling that is a usage error.
        if (result.Contains("--no-socket")) result.RemoveAll(word => word.StartsWith("--socket=", StringComparison.Ordinal));
        // A boot's records go to the kernel's log.
        if (!log) result.Insert(1, "--log=kmsg");
        if (!socket && !result.Contains("--no-socket")) result.Insert(1, $"--socket={Socket}");
        return [.. result];
    }

    /// <summary>True if Android has started the program: see <see cref="Translate"/>.</summary>
    private static bool IsAndroid(string called, string[] words, Func<string, bool?> takesValue, bool hasSocket)
    {
        string name = called[(called.LastIndexOf('/') + 1)..];
        if (name is not ("snapuserd" or "snapuserd_ramdisk")) return false;
        if (words.Length == 0) return hasSocket;
        return Flag(words[0], takesValue, out _, out _) is { } first
            ? Array.IndexOf(s_flags, first.Option[2..]) >= 0
            : IsSnapshot(words[0]);
    }

    /// <summary>True for a word of the form "name,cow,source,base".</summary>
    public static bool IsSnapshot(string word) => word.Split(',') is { Length: 4 } parts
        && Array.TrueForAll(parts, part => part.Length > 0);

    private static (string Option, bool HasValue)? Flag(string word, Func<string, bool?> takesValue, out bool negated, out string? value)
    {
        (negated, value) = (false, null);
        if (word.Length < 2 || word[0] != '-') return null;
        string name = word.TrimStart('-');
        if (word.Length - name.Length > 2) return null;
        int equals = name.IndexOf('=');
        if (equals >= 0) (name, value) = (name[..equals], name[(equals + 1)..]);
        string full = "--" + name.Replace('_', '-');
        if (takesValue(full) is { } hasValue) return (full, hasValue);
        if (value != null || !full.StartsWith("--no", StringComparison.Ordinal)) return null;
        full = "--" + full["--no".Length..];
        negated = true;
        return takesValue(full) == false ? (full, false) : null;
    }
}
