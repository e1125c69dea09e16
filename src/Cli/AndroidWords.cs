using System;
using System.Collections.Generic;

namespace Snapuserd.Cli;

/// <summary>
/// Android's way of calling: no verb, but the flags of its daemon in gflags' spelling (daemon §1): one dash or two, `_` for `-`, -name=value or -name value, -name, -noname or -name=false
/// for a flag that is on or off. It becomes the verb `daemon` with the same options.
/// </summary>
internal static class AndroidWords
{
    /// <summary>What Android's init calls the control socket, and the variable that says where it is inherited.</summary>
    internal const string Socket = "snapuserd";

    /// <summary>Before the name of an inherited socket, in the environment.</summary>
    internal const string SocketVariable = "ANDROID_SOCKET_";

    private static readonly string[] s_flags = ["socket", "no-socket", "socket-handoff", "user-snapshot", "io-uring", "o-direct", "cow-op-merge-size", "worker-count"];

    /// <summary>
    /// The words of `daemon` if <paramref name="words"/> are Android's: called as snapuserd or snapuserd_ramdisk, with one of its flags or a snapshot in the first word; or without a word
    /// and with a socket from init. Null otherwise.
    /// </summary>
    internal static string[]? Translate(string called, string[] words, Verb daemon, bool hasSocket)
    {
        string name = called[(called.LastIndexOf('/') + 1)..];
        if (name is not ("snapuserd" or "snapuserd_ramdisk")) return null;
        bool android = words.Length == 0 ? hasSocket : Flag(words[0], daemon, out _, out _, out _) is { } first ? Array.IndexOf(s_flags, first.Name[2..]) >= 0 : IsSnapshot(words[0]);
        if (!android) return null;

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
            if (Flag(word, daemon, out bool negated, out string? value, out _) is not { } option)
            {
                // Operands; and what is wrong, which the verb says better.
                result.Add(word);
                continue;
            }
            if (option.Kind != OptionKind.Flag)
            {
                if (value == null && i + 1 < words.Length) value = words[++i];
                result.Add($"{option.Name}={value}");
                socket |= option.Name == "--socket";
                log |= option.Name == "--log";
            }
            // Off is as if it were not there; on twice is on.
            else if (!negated && value is null or "true" or "t" or "yes" or "y" or "1" && !result.Contains(option.Name))
            {
                result.Add(option.Name);
            }
        }
        // Android's daemon takes both and does not look at the name then; in our own spelling that is wrong usage.
        if (result.Contains("--no-socket")) result.RemoveAll(word => word.StartsWith("--socket=", StringComparison.Ordinal));
        // What a boot does is told in the kernel's log.
        if (!log) result.Insert(1, "--log=kmsg");
        if (!socket && !result.Contains("--no-socket")) result.Insert(1, $"--socket={Socket}");
        return [.. result];
    }

    /// <summary>"name,cow,source,base".</summary>
    internal static bool IsSnapshot(string word) => word.Split(',') is { Length: 4 } parts && Array.TrueForAll(parts, part => part.Length > 0);

    private static Option? Flag(string word, Verb daemon, out bool negated, out string? value, out string name)
    {
        (negated, value, name) = (false, null, "");
        if (word.Length < 2 || word[0] != '-') return null;
        name = word.TrimStart('-');
        if (word.Length - name.Length > 2) return null;
        int equals = name.IndexOf('=');
        if (equals >= 0) (name, value) = (name[..equals], name[(equals + 1)..]);
        string full = "--" + name.Replace('_', '-');
        if (Array.Find(daemon.Options, option => option.Name == full) is { } option) return option;
        if (value != null || !full.StartsWith("--no", StringComparison.Ordinal)) return null;
        full = "--" + full["--no".Length..];
        negated = true;
        return Array.Find(daemon.Options, option => option.Kind == OptionKind.Flag && option.Name == full);
    }
}
