using System;
using System.Collections.Generic;
using Snapuserd.Block;

namespace Snapuserd.Control;

/// <summary>
/// The client's half of `attach`: opens the files and sends their descriptors, because the same paths may lead to other files under
/// the server's root, working folder and mounts (<see cref="AttachedFiles"/>).
/// </summary>
public sealed class SentFiles : IDisposable
{
    private readonly List<BlockDevice> _files = [];

    /// <summary>Opens COW, base and, unless it is null, the source. Exit codes of <see cref="BlockDevice.Open"/>.</summary>
    public SentFiles(string cow, string basePath, string? source)
    {
        try
        {
            foreach (string? path in (ReadOnlySpan<string?>)[cow, basePath, source])
                if (path != null) _files.Add(BlockDevice.Open(path, DeviceAccess.Read));
        }
        catch (SnapuserdException)
        {
            Dispose();
            throw;
        }
    }

    /// <summary>
    /// Asks <paramref name="server"/> to serve the files as <paramref name="name"/>. Passes every line of the reply to
    /// <paramref name="show"/>; its second argument is true for a '~' line (<see cref="ControlConnection"/>).
    /// </summary>
    public void Attach(ControlConnection server, string name, Action<string, bool> show)
    {
        server.Begin($"attach {name}", [.. _files.ConvertAll(file => file.Fd)]);
        server.Finish(show);
    }

    /// <summary>Closes the files.</summary>
    public void Dispose()
    {
        foreach (BlockDevice file in _files) file.Dispose();
    }
}
