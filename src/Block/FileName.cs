using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// Checks that a name from a client or the command line is a single path component. Such a name cannot lead out of the folder to whose
/// path it is appended.
/// </summary>
public static class FileName
{
    /// <summary>Longest file name in bytes that Linux permits (NAME_MAX).</summary>
    private const int LongestName = 255;

    /// <summary>The reason why <paramref name="name"/> is not a valid file name, such as "it is empty"; null if it is valid.</summary>
    public static string? Fault(string name)
    {
        if (name.Length == 0) return "it is empty";
        if (name is "." or "..") return "'.' and '..' are reserved";
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
    /// Fails with exit code 64 unless <paramref name="name"/> is a valid file name. <paramref name="what"/> is the named object in the
    /// message: "a server", for example.
    /// </summary>
    public static void Check(string name, string what)
    {
        if (Fault(name) is { } fault) throw new SnapuserdException(ExitCode.Usage, $"'{name}' cannot name {what}: {fault}");
    }
}
