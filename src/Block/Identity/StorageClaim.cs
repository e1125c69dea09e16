using System;
using System.Collections.Generic;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// Keeps our other processes away from files and devices while nothing of them is open: from a decision to the child that acts on it, and between two children. This process and those it
/// starts (with <see cref="InheritedHolds.ForChild"/> in their environment) are not kept away.
/// </summary>
public sealed class StorageClaim : IDisposable
{
    private readonly List<StorageLocks> _locks = [];

    /// <summary>Open so that no other file can get the inode of one that is deleted meanwhile.</summary>
    private readonly List<BlockDevice> _devices = [];

    private StorageClaim()
    {
    }

    /// <summary>Locks what the paths lead to, alone; one that leads nowhere is left out. Exit code 76 if another of our processes uses any of it.</summary>
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

    /// <summary>Leaves the locks to the children that inherited them, if there are any; otherwise they end.</summary>
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
