using System;
using System.IO;

namespace Snapuserd.Tests.Support;

/// <summary>
/// A folder that programs see through a file system with missing features (lackingfs.c, over FUSE), in a separate mount namespace; needs
/// root. This process sees the files directly.
/// </summary>
public sealed class LackingFileSystem : IDisposable
{
    private static readonly Lazy<string> s_program =
        new(() => CProgram.Compile("Support", "lackingfs", "-D_FILE_OFFSET_BITS=64 -I/usr/include/fuse3 -lfuse3"));

    private readonly TempFolder _folder = new();
    private readonly TempFolder _mounted = new();

    /// <summary>The path of a file as this process sees it.</summary>
    public string this[string name] => _folder[name];

    /// <summary>The path of a file as the program sees it.</summary>
    public string Inside(string name) => _mounted[name];

    /// <summary>The names of the files in the folder.</summary>
    public string[] Names => [.. Array.ConvertAll(Directory.GetFileSystemEntries(_folder.Path), path => Path.GetFileName(path)!)];

    /// <summary>
    /// Runs a command that sees the folder with <paramref name="rules"/> in force. Blanks separate rules; lackingfs.c lists them.
    /// </summary>
    public BinaryResult Run(string rules, params string[] command) =>
        Binary.RunProgram(s_program.Value,
            [_folder.Path, _mounted.Path, .. rules.Split(' ', StringSplitOptions.RemoveEmptyEntries), "--", .. command]);

    public void Dispose()
    {
        _mounted.Dispose();
        _folder.Dispose();
    }
}
