using System;

namespace Snapuserd.Serve;

/// <summary>
/// Makes a <see cref="SnapshotView"/> a block device, or what takes the place of one, and answers its requests on threads of its own. The three
/// of them: ublk, NBD, dm-user.
/// <para>
/// Every request gets exactly one answer; a read that fails, a write and whatever else is not a read get an error of their own and change nothing for the others.
/// </para>
/// </summary>
public interface IBlockServer : IDisposable
{
    /// <summary>
    /// Makes the device, which is usable when this returns. Returns what is to be opened: a device path, or a socket path. Exit code 69 when the kernel lacks
    /// what it takes, 76 when the name is taken, 77 without permission, 71 without memory.
    /// </summary>
    string Start();

    /// <summary>Null while it serves; a sentence when the device is gone or a thread of it has failed. The wake-up it was given is signalled then.</summary>
    string? Trouble { get; }

    /// <summary>Clients that are connected to a socket; 0 for a device, whose users the kernel knows.</summary>
    int Clients => 0;

    /// <summary>Takes no more requests, answers those that are under way and removes the device. From any thread; returns when it is done.</summary>
    void Stop();
}
