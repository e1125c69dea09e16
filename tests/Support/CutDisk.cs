using System;
using System.Diagnostics;
using System.IO;
using System.Threading;

namespace Snapuserd.Tests.Support;

/// <summary>
/// A block device with a volatile write cache whose power can be cut; needs root, nbdkit and nbdfuse. nbdkit's cache filter holds writes
/// back until a flush, nbdfuse exposes the result as a file, and a loop device makes that file a block device. A flush of the device
/// becomes an fsync of the file, which becomes a flush of nbdkit. After <see cref="Cut"/> the image holds only what was flushed.
/// </summary>
public sealed class CutDisk : IDisposable
{
    private readonly TempFolder _folder = new();
    private readonly Process _server, _fuse;
    private readonly LoopDevice? _loop;
    private bool _ended;

    /// <summary>Powers on the disk over <paramref name="image"/>.</summary>
    public CutDisk(string image)
    {
        Directory.CreateDirectory(_folder["fs"]);
        _server = Binary.StartProgram("nbdkit", ["--foreground", "--exit-with-parent", "-U", _folder["sock"], "-P", _folder["pid"],
            "--filter=cache", "file", image, "cache=writeback", "cache-min-block-size=4096"]);
        try
        {
            // The socket exists before the server listens on it, so the socket does not show that the server is ready. The PID file does:
            // it is written after that.
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

    /// <summary>The process whose death is the power cut. After that, every process that uses the device gets EIO.</summary>
    public int Plug => _server.Id;

    /// <summary>Cuts the power: what was not flushed never reaches the image. The device is gone afterwards.</summary>
    public void Cut()
    {
        _server.Kill();
        _server.WaitForExit();
        End();
    }

    /// <summary>Shuts the disk down in order: all writes reach the image first.</summary>
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

    /// <summary>Waits until the server has created its ready file. If the server ends instead, throws with its error output.</summary>
    private static void Wait(Func<bool> ready, Process server)
    {
        while (!ready())
        {
            if (server.HasExited)
                throw new InvalidOperationException(
                    $"{server.StartInfo.FileName} ended with {server.ExitCode}: {server.StandardError.ReadToEnd()}");
            Thread.Sleep(5);
        }
    }
}
