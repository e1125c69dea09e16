using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>Whether a name that came from elsewhere (a socket, a command line) may become the last part of a path: it must lead to an entry of the folder before it, and to nothing else.</summary>
public static class FileName
{
    /// <summary>Bytes that a name may have on every file system of Linux (NAME_MAX).</summary>
    private const int LongestName = 255;

    /// <summary>Null if <paramref name="name"/> is the name of one file; otherwise what is wrong with it, as the end of a sentence.</summary>
    public static string? Fault(string name)
    {
        if (name.Length == 0) return "it is empty";
        if (name is "." or "..") return "that is a folder in every folder";
        if (ByteText.GetByteCount(name) > LongestName) return $"it has more than {LongestName} bytes";
        foreach (char c in name)
        {
            if (c == '/') return "it has a slash in it";
            // It would end the path early. Any other byte is as good as a letter.
            if (c == '\0') return "it has a zero byte in it";
        }
        return null;
    }

    /// <summary>Exit code 64 unless <paramref name="name"/> is the name of one file; <paramref name="what"/> says what it should name.</summary>
    public static void Check(string name, string what)
    {
        if (Fault(name) is { } fault) throw new SnapuserdException(ExitCode.Usage, $"'{name}' cannot name {what}: {fault}");
    }
}
