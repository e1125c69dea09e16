using System;
using System.Globalization;
using System.IO;

namespace Snapuserd.Tests.Support;

/// <summary>A small tmpfs that can be filled up; needs root.</summary>
public sealed class TmpFs : IDisposable
{
    private readonly TempFolder _folder = new();

    /// <summary>Mounts a tmpfs of <paramref name="bytes"/> bytes.</summary>
    public TmpFs(long bytes) =>
        LoopDevice.Call("mount", "-t", "tmpfs", "-o", string.Create(CultureInfo.InvariantCulture, $"size={bytes},huge=never"), "tmpfs",
            _folder.Path);

    private TmpFs(string type) => LoopDevice.Call("mount", "-t", type, type, _folder.Path);

    /// <summary>
    /// A file system that has no fallocate(2) and counts no blocks. The program has no rule for how this file system reports holes.
    /// </summary>
    public static TmpFs WithoutHoles() => new("ramfs");

    /// <summary>The path of a file in it.</summary>
    public string this[string name] => _folder[name];

    /// <summary>Writes a file whose pages of zeros are holes.</summary>
    public void WriteSparse(string name, ReadOnlySpan<byte> bytes)
    {
        using FileStream file = new(this[name], FileMode.Create, FileAccess.Write);
        for (int at = 0; at < bytes.Length; at += 4096)
        {
            ReadOnlySpan<byte> page = bytes[at..Math.Min(bytes.Length, at + 4096)];
            if (!page.ContainsAnyExcept((byte)0)) continue;
            file.Position = at;
            file.Write(page);
        }
        file.SetLength(bytes.Length);
    }

    /// <summary>Fills the file system until <paramref name="left"/> bytes are free; <see cref="MakeRoom"/> undoes that.</summary>
    public void Fill(long left)
    {
        using FileStream file = new(this["ballast"], FileMode.Create, FileAccess.Write);
        byte[] page = new byte[4096];
        for (long free = new DriveInfo(_folder.Path).AvailableFreeSpace; free > left; free -= page.Length) file.Write(page);
    }

    public void MakeRoom() => File.Delete(this["ballast"]);

    public void Dispose()
    {
        LoopDevice.Call("umount", "--lazy", _folder.Path);
        _folder.Dispose();
    }
}
