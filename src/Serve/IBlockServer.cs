using System;

namespace Snapuserd.Serve;

/// <summary>
/// Provides a <see cref="SnapshotView"/> as a block device or an equivalent (an NBD socket), and answers the requests on threads of its
/// own. There are three kinds: ublk, NBD and dm-user.
/// <para>
/// Every request gets exactly one reply. A failed read, a write and an unsupported request each get an error, and do not affect other
/// requests.
/// </para>
/// </summary>
public interface IBlockServer : IDisposable
{
    /// <summary>
    /// Makes the device, which is usable when this returns. Returns the path to open: a device or a socket. Throws with exit code 69 if the
    /// kernel lacks a feature, 76 if the name is in use, 77 without permission, and 71 if memory is short.
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
    /// Null while the server works. Once the device is gone or a thread has failed, the reason; the server's wake-up is signalled then.
    /// </summary>
    string? Failure { get; }

    /// <summary>The number of clients connected to a socket. 0 for a device, whose users only the kernel knows.</summary>
    int Clients => 0;

    /// <summary>
    /// Stops accepting requests, answers those in flight, and removes the device; returns afterwards. May be called from any thread.
    /// </summary>
    void Stop();
}
