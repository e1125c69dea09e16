using System;
using System.IO;
using System.Text;

namespace Snapuserd.Tests.Support;

/// <summary>The exit code and output of a script. Each character of the output is one byte (Latin-1).</summary>
public sealed record RawResult(int ExitCode, string Output, string Error)
{
    /// <inheritdoc/>
    public override string ToString() => $"exit code {ExitCode}\nstdout: {Output}\nstderr: {Error}";
}

/// <summary>
/// Runs shell scripts in a fresh folder. Scripts, output and file names may contain any bytes, which .NET's Process and File do not allow:
/// each character up to U+00FF is the byte of that value (Latin-1).
/// </summary>
public sealed class RawShell : IDisposable
{
    /// <summary>Holds the script and its output, so that <see cref="Folder"/> contains only files of the test.</summary>
    private readonly TempFolder _own = new();
    private readonly TempFolder _folder = new();

    /// <summary>The working directory of the scripts, empty at first.</summary>
    public string Folder => _folder.Path;

    /// <summary>
    /// The path of a file in <see cref="Folder"/>, for .NET's File. The name must be ASCII, because .NET encodes it as UTF-8.
    /// </summary>
    public string this[string name] => _folder[name];

    /// <summary><paramref name="bytes"/> quoted as one shell word.</summary>
    public static string Quote(string bytes) => $"'{bytes.Replace("'", "'\\''", StringComparison.Ordinal)}'";

    /// <summary>Runs an sh script in which $P is the built program.</summary>
    public RawResult Run(string script)
    {
        File.WriteAllBytes(_own["script"], Encoding.Latin1.GetBytes($"P={Quote(Binary.Path)}\ncd {Quote(Folder)}\n{script}\n"));
        BinaryResult result = Binary.RunProgram("/bin/sh", ["-c", "exec /bin/sh \"$1/script\" >\"$1/out\" 2>\"$1/err\"", "sh", _own.Path]);
        return new RawResult(result.ExitCode, Encoding.Latin1.GetString(File.ReadAllBytes(_own["out"])),
            Encoding.Latin1.GetString(File.ReadAllBytes(_own["err"])));
    }

    /// <summary>The paths of all entries below a subfolder, relative to it and sorted.</summary>
    public string[] Names(string folder)
    {
        string listed = Run($"cd {Quote(folder)} && find . -mindepth 1 -printf '%P\\0'").Output;
        string[] names = listed.Split('\0', StringSplitOptions.RemoveEmptyEntries);
        Array.Sort(names, StringComparer.Ordinal);
        return names;
    }

    /// <summary>Removes the folder with rm: .NET cannot remove files whose names it cannot represent.</summary>
    public void Dispose()
    {
        Binary.RunProgram("rm", ["-rf", _folder.Path]);
        _own.Dispose();
    }
}
