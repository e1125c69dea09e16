using System;
using System.Diagnostics;
using System.IO;
using System.Threading;

namespace Snapuserd.Tests.Support;

/// <summary>
/// A block device with a volatile write cache whose power can be cut; needs root, nbdkit and nbdfuse. nbdkit's cache filter keeps writes aside until a
/// flush, nbdfuse shows that as a file, and a loop device makes it a block device: a flush of it becomes an fsync of the file, which becomes a flush of nbdkit.
/// After <see cref="Cut"/> the image holds what was flushed, and nothing else.
/// </summary>
public sealed class CutDisk : IDisposable
{
    private readonly TempFolder _folder = new();
    private readonly Process _server, _fuse;
    private readonly LoopDevice? _loop;
    private bool _ended;

    /// <summary>Switches the disk over <paramref name="image"/> on.</summary>
    public CutDisk(string image)
    {
        Directory.CreateDirectory(_folder["fs"]);
        _server = Binary.StartProgram("nbdkit", ["--foreground", "--exit-with-parent", "-U", _folder["sock"], "-P", _folder["pid"], "--filter=cache", "file", image, "cache=writeback", "cache-min-block-size=4096"]);
        try
        {
            // The socket is there a little sooner than the server listens to it; the file with its number is written afterwards.
            Wait(() => File.Exists(_folder["pid"]), _server);
        }
        catch
        {
            End();
            throw;
        }
        _fuse = Binary.StartProgram("nbdfuse", [_folder["fs/disk"], "--unix", _folder["sock"]]);
        try
        {
            Wait(() => File.Exists(_folder["fs/disk"]), _fuse);
            _loop = new LoopDevice(_folder["fs/disk"]);
        }
        catch
        {
            End();
            throw;
        }
    }

    /// <summary>/dev/loopN.</summary>
    public string Path => _loop!.Path;

    /// <summary>The process whose death is the power cut; whoever uses the device gets EIO from then on.</summary>
    public int Plug => _server.Id;

    /// <summary>A power cut: what was not flushed never reaches the image. The device is gone afterwards.</summary>
    public void Cut()
    {
        _server.Kill();
        _server.WaitForExit();
        End();
    }

    /// <summary>An orderly end: what was written reaches the image first.</summary>
    public void Dispose()
    {
        if (_ended) return;
        _ = Binary.RunProgram("blockdev", ["--flushbufs", Path]);
        _ = Binary.RunProgram("sync", [_folder["fs/disk"]]);
        End();
    }

    private void End()
    {
        if (_ended) return;
        _ended = true;
        try
        {
            _loop?.Dispose();
        }
        finally
        {
            _ = Binary.RunProgram("umount", ["--lazy", _folder["fs"]]);
            foreach (Process? process in new[] { _fuse, _server })
            {
                if (process == null) continue;
                if (!process.HasExited) process.Kill();
                process.WaitForExit();
                process.Dispose();
            }
            _folder.Dispose();
        }
    }

    /// <summary>Waits for what a server does when it is ready; a server that ended instead is asked why.</summary>
    private static void Wait(Func<bool> ready, Process server)
    {
        while (!ready())
        {
            if (server.HasExited) throw new InvalidOperationException($"{server.StartInfo.FileName} ended with {server.ExitCode}: {server.StandardError.ReadToEnd()}");
            Thread.Sleep(5);
        }
    }
}
