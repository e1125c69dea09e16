using System;

namespace Snapuserd.Serve;

/// <summary>
/// Provides a <see cref="SnapshotView"/> as a block device or a substitute for one, and answers its requests on threads of its own. There
/// are three kinds: ublk, NBD, dm-user.
/// <para>
/// Every request gets exactly one answer. A read that fails, a write, and any other request get an error of their own and do not affect
/// other requests.
/// </para>
/// </summary>
public interface IBlockServer : IDisposable
{
    /// <summary>
    /// Makes the device, which is usable when this returns. Returns the path to open: a device or a socket. Exit code 69 when the kernel
    /// lacks a feature, 76 when the name is taken, 77 without permission, 71 without memory.
    /// </summary>
    string Start();

    /// <summary>
    /// Starts <paramref name="server"/> and returns it; disposes of it if that fails. <paramref name="device"/> is the path to open.
    /// </summary>
    static IBlockServer Started(IBlockServer server, out string device)
    {
        try
        {
            device = server.Start();
            return server;
        }
        catch
        {
            server.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Null while it serves; the reason once the device is gone or a thread has failed. The server's wake-up is signalled then.
    /// </summary>
    string? Failure { get; }

    /// <summary>Clients connected to a socket; 0 for a device, whose users the kernel knows.</summary>
    int Clients => 0;

    /// <summary>
    /// Accepts no more requests, answers those in flight and removes the device. From any thread; returns when it is done.
    /// </summary>
    void Stop();
}
