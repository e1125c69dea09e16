using System;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Daemon;

/// <summary>
/// COW, base and source of a snapshot as descriptors that a client has opened and sent: what it meant is what is served, whatever its root, folder and mounts are. They are opened again through /proc/self/fd, with the rights
/// of this process, and stay open as long as the snapshot is there.
/// </summary>
public sealed class AttachedFiles : IDisposable
{
    private readonly int[] _fds;
    private readonly string[] _names;

    /// <summary>Takes over two descriptors, COW and base, or three: the source as well. Exit code 64 for another number, or without /proc; they are closed then.</summary>
    public AttachedFiles(int[] fds)
    {
        (_fds, _names) = (fds, new string[fds.Length]);
        string? wrong = fds.Length is 2 or 3 ? null : $"attach takes COW and base, and perhaps a source; {fds.Length} files came";
        for (int i = 0; i < fds.Length && wrong == null; i++)
            if (Libc.ReadLink(PathOf(fds[i]), out _names[i]) < 0) wrong = "attach takes /proc, which is not mounted";
        if (wrong == null) return;
        Dispose();
        throw new SnapuserdException(ExitCode.Usage, wrong);
    }

    /// <summary>What to open.</summary>
    public string Cow => PathOf(_fds[0]);

    /// <inheritdoc cref="Cow"/>
    public string Base => PathOf(_fds[1]);

    /// <summary>The base if there is no other.</summary>
    public string Source => PathOf(_fds[^1]);

    /// <summary>What it is called here, in sentences; the client may know another name.</summary>
    public string CowName => _names[0];

    /// <inheritdoc cref="CowName"/>
    public string BaseName => _names[1];

    /// <summary>A sentence with the names in place of the paths.</summary>
    public string Named(string sentence)
    {
        // The longer numbers first: 12 begins with 1.
        int[] order = [.. _fds];
        Array.Sort(order, (one, other) => other.CompareTo(one));
        foreach (int fd in order) sentence = sentence.Replace(PathOf(fd), _names[Array.IndexOf(_fds, fd)], StringComparison.Ordinal);
        return sentence;
    }

    /// <summary>Closes them.</summary>
    public void Dispose()
    {
        foreach (int fd in _fds) _ = Libc.Close(fd);
    }

    private static string PathOf(int fd) => string.Create(CultureInfo.InvariantCulture, $"/proc/self/fd/{fd}");
}
