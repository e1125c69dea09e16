using System;
using System.Collections.Generic;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// Excludes other snapuserd processes from files and devices that no process has open at the moment: between a decision and the start of
/// the child that acts on it, and between two children. Does not block this process and its children that have
/// <see cref="InheritedHolds.ForChild"/> in their environment.
/// </summary>
public sealed class StorageClaim : IDisposable
{
    private readonly List<StorageLocks> _locks = [];

    /// <summary>Kept open, so that no new file can reuse the inode of a file deleted in the meantime.</summary>
    private readonly List<BlockDevice> _devices = [];

    private StorageClaim()
    {
    }

    /// <summary>
    /// Exclusively locks the files and devices at the paths; a path that does not exist is skipped. Exit code 76 if another snapuserd
    /// process uses any of them.
    /// </summary>
    public static StorageClaim Take(params ReadOnlySpan<string> paths)
    {
        StorageClaim claim = new();
        try
        {
            foreach (string path in paths) claim.Add(path);
            return claim;
        }
        catch
        {
            claim.Dispose();
            throw;
        }
    }

    /// <summary>Leaves the locks to the children that inherited them, if there are any; otherwise the locks end.</summary>
    public void Dispose()
    {
        foreach (StorageLocks locks in _locks)
        {
            foreach (int fd in locks.Descriptors) InheritedHolds.Remove(fd);
            locks.Leave();
        }
        _locks.Clear();
        foreach (BlockDevice device in _devices) device.Dispose();
        _devices.Clear();
    }

    private void Add(string path)
    {
        BlockDevice? device = TryOpen(path);
        if (device == null) return;
        _devices.Add(device);
        _locks.Add(device.Reserve());
        foreach (int fd in _locks[^1].Descriptors) InheritedHolds.Add(fd);
    }

    private static BlockDevice? TryOpen(string path)
    {
        try
        {
            return BlockDevice.Open(path, DeviceAccess.Read);
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.InputMissing)
        {
            return null;
        }
    }
}
