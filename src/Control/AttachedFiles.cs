using System;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Control;

/// <summary>
/// COW, base and source of a snapshot as descriptors that a client opened and sent: the client's view decides which files are served,
/// whatever this process's root, folder and mounts are. They are opened again through /proc/self/fd, with the rights of this process, and
/// stay open until the snapshot is gone.
/// </summary>
public sealed class AttachedFiles : IDisposable
{
    private readonly int[] _fds;
    private readonly string[] _names;

    /// <summary>
    /// Takes over two descriptors, COW and base, or three with the source. Exit code 64 for another number of descriptors, or without
    /// /proc; the descriptors are closed then.
    /// </summary>
    public AttachedFiles(int[] fds)
    {
        (_fds, _names) = (fds, new string[fds.Length]);
        string? wrong = fds.Length is 2 or 3 ? null : $"attach takes COW and base, and perhaps a source; {fds.Length} files came";
        for (int i = 0; i < fds.Length && wrong == null; i++)
            if (Libc.ReadLink(PathOf(fds[i]), out _names[i]) < 0) wrong = "attach needs /proc, which is not mounted";
        if (wrong == null) return;
        Dispose();
        throw new SnapuserdException(ExitCode.Usage, wrong);
    }

    /// <summary>The path to open.</summary>
    public string Cow => PathOf(_fds[0]);

    /// <inheritdoc cref="Cow"/>
    public string Base => PathOf(_fds[1]);

    /// <summary>The path of the source; that of the base if there is no source.</summary>
    public string Source => PathOf(_fds[^1]);

    /// <summary>The path of the file in this process's view, for messages; the client may know it under another path.</summary>
    public string CowName => _names[0];

    /// <inheritdoc cref="CowName"/>
    public string BaseName => _names[1];

    /// <summary>Replaces the /proc paths in a message by the names.</summary>
    public string Named(string sentence)
    {
        // Replace longer numbers first: 12 begins with 1.
        int[] order = [.. _fds];
        Array.Sort(order, (one, other) => other.CompareTo(one));
        foreach (int fd in order) sentence = sentence.Replace(PathOf(fd), _names[Array.IndexOf(_fds, fd)], StringComparison.Ordinal);
        return sentence;
    }

    /// <summary>Closes the descriptors.</summary>
    public void Dispose()
    {
        foreach (int fd in _fds) _ = Libc.Close(fd);
    }

    private static string PathOf(int fd) => string.Create(CultureInfo.InvariantCulture, $"/proc/self/fd/{fd}");
}
