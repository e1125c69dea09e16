using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// Checks whether an external name (from a socket or a command line) may become the last part of a path: it must name an entry of the
/// folder before it, and nothing else.
/// </summary>
public static class FileName
{
    /// <summary>Longest name in bytes on every Linux file system (NAME_MAX).</summary>
    private const int LongestName = 255;

    /// <summary>Null if <paramref name="name"/> can name a file; otherwise the reason why not, as the end of a sentence.</summary>
    public static string? Fault(string name)
    {
        if (name.Length == 0) return "it is empty";
        if (name is "." or "..") return "that is a folder in every folder";
        if (ByteText.GetByteCount(name) > LongestName) return $"it has more than {LongestName} bytes";
        foreach (char c in name)
        {
            if (c == '/') return "it has a slash in it";
            // A zero byte would end the path early. Every other byte is allowed.
            if (c == '\0') return "it has a zero byte in it";
        }
        return null;
    }

    /// <summary>
    /// Exit code 64 unless <paramref name="name"/> can name a file; <paramref name="what"/> is the kind of object that it should name.
    /// </summary>
    public static void Check(string name, string what)
    {
        if (Fault(name) is { } fault) throw new SnapuserdException(ExitCode.Usage, $"'{name}' cannot name {what}: {fault}");
    }
}
