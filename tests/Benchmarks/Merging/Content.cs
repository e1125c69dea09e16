using System;
using System.Collections.Generic;
using System.IO;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>
/// The source of the images' bytes: this machine's own programs, libraries and documents, in the order of their names, each padded to a
/// whole block. When the files run out, or are not used, generated words between distinct numbers follow. One machine yields the same bytes
/// every time.
/// </summary>
internal sealed class Content : IDisposable
{
    // File sizes as in an image of a phone's system partition. With smaller files, the images would consist mostly of padded last blocks;
    // with larger ones, of a single file.
    private static readonly string[] s_folders = ["/usr/bin", "/usr/lib", "/usr/share/dotnet", "/usr/share"];
    private const long Smallest = 16 << 10, Largest = 8 << 20;

    private readonly IEnumerator<string> _files;
    private readonly Random _random = new(1);
    private FileStream? _open;

    internal Content(bool ofThisMachine) => _files = (ofThisMachine ? Files() : []).GetEnumerator();

    /// <summary>Bytes that were generated.</summary>
    internal long Invented { get; private set; }

    /// <summary>Fills <paramref name="bytes"/>, whole blocks, with the next contents.</summary>
    internal void Read(Span<byte> bytes)
    {
        while (bytes.Length > 0)
        {
            if (_open == null && !Next())
            {
                Invent(bytes);
                return;
            }
            int count = _open!.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false);
            if (count < bytes.Length)
            {
                _open.Dispose();
                _open = null;
                // The rest of the last block is zero, as in a file system.
                int whole = (count + Pair.Block - 1) & -Pair.Block;
                bytes[count..whole].Clear();
                count = whole;
            }
            bytes = bytes[count..];
        }
    }

    public void Dispose()
    {
        _open?.Dispose();
        _files.Dispose();
    }

    private bool Next()
    {
        while (_files.MoveNext())
        {
            try
            {
                _open = new FileStream(_files.Current, FileMode.Open, FileAccess.Read, FileShare.ReadWrite, 1);
                return true;
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                // A file that cannot be read is skipped; the next one is used instead.
            }
        }
        return false;
    }

    private static IEnumerable<string> Files()
    {
        EnumerationOptions all =
            new() { RecurseSubdirectories = true, IgnoreInaccessible = true, AttributesToSkip = FileAttributes.ReparsePoint };
        HashSet<string> seen = [];
        foreach (string folder in s_folders)
        {
            if (!Directory.Exists(folder)) continue;
            List<string> files = [];
            foreach (FileInfo file in new DirectoryInfo(folder).EnumerateFiles("*", all))
                if (file.Length is >= Smallest and <= Largest && file.LinkTarget == null) files.Add(file.FullName);
            files.Sort(string.CompareOrdinal);
            foreach (string file in files)
                if (seen.Add(file)) yield return file;
        }
    }

    /// <summary>Generates bytes that compress about as well as programs, to half.</summary>
    private void Invent(Span<byte> bytes)
    {
        Invented += bytes.Length;
        for (int at = 0; at < bytes.Length;)
        {
            if (_random.Next(3) == 0)
            {
                int count = Math.Min(_random.Next(4, 24), bytes.Length - at);
                _random.NextBytes(bytes.Slice(at, count));
                at += count;
            }
            else
            {
                int word = _random.Next(2000), count = Math.Min(6 + (word % 9), bytes.Length - at);
                for (int i = 0; i < count; i++) bytes[at + i] = (byte)(word * (i + 7) % 251);
                at += count;
            }
        }
    }
}
