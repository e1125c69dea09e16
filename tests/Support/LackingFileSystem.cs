using System;
using System.IO;

namespace Snapuserd.Tests.Support;

/// <summary>
/// A folder that programs see through a file system that lacks something (lackingfs.c, over FUSE), in a mount namespace of their own; needs root. From here the files are seen as
/// they are.
/// </summary>
public sealed class LackingFileSystem : IDisposable
{
    private static readonly Lazy<string> s_program = new(() => CProgram.Compile("Support", "lackingfs", "-D_FILE_OFFSET_BITS=64 -I/usr/include/fuse3 -lfuse3"));

    private readonly TempFolder _folder = new();
    private readonly TempFolder _mounted = new();

    /// <summary>The path of a file as the framework finds it.</summary>
    public string this[string name] => _folder[name];

    /// <summary>The path of a file as the program finds it.</summary>
    public string Inside(string name) => _mounted[name];

    /// <summary>Names in the folder.</summary>
    public string[] Names => [.. Array.ConvertAll(Directory.GetFileSystemEntries(_folder.Path), path => Path.GetFileName(path)!)];

    /// <summary>Runs a command that finds the folder with <paramref name="rules"/> in force, which blanks separate; lackingfs.c lists them.</summary>
    public BinaryResult Run(string rules, params string[] command) =>
        Binary.RunProgram(s_program.Value, [_folder.Path, _mounted.Path, .. rules.Split(' ', StringSplitOptions.RemoveEmptyEntries), "--", .. command]);

    public void Dispose()
    {
        _mounted.Dispose();
        _folder.Dispose();
    }
}
