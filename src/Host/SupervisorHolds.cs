using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Host;

/// <summary>
/// The storage of a supervised server, held by its supervisor: opened and locked once, as the server needs it, and inherited by every
/// server. So the storage stays locked between a kill and the start of the next server, and no other process can mount it, merge it or
/// overwrite it (`create --output`) in between.
/// <para>
/// The server opens the same files again for its I/O. So the next server can distinguish the I/O that the kernel still completes for a
/// killed server from the supervisor's holds (<see cref="BlockDevice"/>). Before a server maps a device to the base, it asks the supervisor
/// to give up its exclusive hold on the base, because the kernel permits only one holder. The file locks, which exclude other processes of
/// this program, stay.
/// </para>
/// </summary>
public sealed class SupervisorHolds : IDisposable
{
    private readonly object _gate = new();
    private readonly SupervisorOptions _options;
    private readonly int _ours;
    private BlockDevice? _cow, _base, _source;
    private bool _baseIsGivenUp;
    private int _baseAgain = -1;

    /// <summary>Creates the object without opening any storage. Throws with exit code 71 if no descriptors are left.</summary>
    public SupervisorHolds(SupervisorOptions options)
    {
        _options = options;
        int result = Libc.SocketPair(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC, out _ours, out int theirs);
        if (result >= 0) result = Libc.Fcntl(theirs, Libc.F_SETFD, 0);
        if (result < 0) throw Child.CannotStart("the server", result);
        ReleaseSocket = theirs;
    }

    /// <summary>The end of the socket that servers inherit.</summary>
    public int ReleaseSocket { get; }

    /// <summary>
    /// Opens and locks each file that is not held yet. Ignores failures: the server opens the files as well and reports the error, unless
    /// it is expected. For example, after the hand-over the mapped device holds the base.
    /// </summary>
    public void TakeMissing()
    {
        lock (_gate)
        {
            DeviceAccess access = (_options.MayMerge ? DeviceAccess.Write | DeviceAccess.Exclusive : DeviceAccess.Shared)
                | DeviceAccess.HoldOnly | (_options.WithoutLock ? DeviceAccess.WithoutLock : 0);
            try
            {
                _cow ??= BlockDevice.Open(_options.Cow, access);
                if (!_baseIsGivenUp) _base ??= BlockDevice.Open(_options.Base, access);
                if (_options.Source is { } source && _source == null && _base != null && !IsBase(source))
                    _source = BlockDevice.Open(source, DeviceAccess.Shared | DeviceAccess.HoldOnly, _base);
            }
            catch (SnapuserdException)
            {
                // The server opens the files as well and reports the error.
            }
            foreach (int fd in All()) _ = Libc.Fcntl(fd, Libc.F_SETFD, 0);
        }
    }

    /// <summary>The description of the descriptors for a server's environment (<see cref="InheritedHolds"/>).</summary>
    public string ForChild()
    {
        lock (_gate) return InheritedHolds.ForChild(All());
    }

    /// <summary>Starts the thread that answers servers' requests to release the base.</summary>
    public void Listen() => WorkerThread.Start("release", StackSize.Small, Answer);

    /// <summary>Releases everything. A server that is still alive has descriptors of its own.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            _source?.Dispose();
            _base?.Dispose();
            _cow?.Dispose();
            (_source, _base, _cow) = (null, null, null);
            if (_baseAgain >= 0) _ = Libc.Close(_baseAgain);
            _baseAgain = -1;
        }
        _ = Libc.Shutdown(_ours, Libc.SHUT_RDWR);
    }

    private void Answer()
    {
        Span<byte> one = stackalloc byte[1];
        while (true)
        {
            nint got = Libc.Read(_ours, one);
            if (Retry.Interrupted(got)) continue;
            if (got <= 0) return;
            lock (_gate)
            {
                _baseIsGivenUp = true;
                _base?.KeepLocks();
                if (_baseAgain >= 0) _ = Libc.Close(_baseAgain);
                _baseAgain = -1;
            }
            _ = Libc.Send(_ours, one, Libc.MSG_NOSIGNAL);
        }
    }

    /// <summary>
    /// Holds the base again. A server that was killed after the release may not have mapped its device to the base; with this hold no
    /// program can mount the base before the next server starts. If the server had mapped it, the mapped device holds the base, and this
    /// call has no effect.
    /// </summary>
    public void TakeBaseAgain()
    {
        lock (_gate)
        {
            if (!_baseIsGivenUp || _baseAgain >= 0 || _base is not { IsBlockDevice: true }) return;
            _baseAgain = Libc.OpenAt(Libc.AT_FDCWD, _base.Path, Libc.O_RDWR | Libc.O_EXCL | Libc.O_CLOEXEC | Libc.O_NONBLOCK);
        }
    }

    private bool IsBase(string source)
    {
        using BlockDevice device = BlockDevice.Open(source, DeviceAccess.Read);
        return device.Storage.RelationTo(_base!.Storage, out _) == StorageRelation.Equal;
    }

    private List<int> All()
    {
        List<int> all = [];
        foreach (BlockDevice? device in (ReadOnlySpan<BlockDevice?>)[_cow, _base, _source])
            if (device != null) all.AddRange(device.Holds);
        if (_baseAgain >= 0) all.Add(_baseAgain);
        return all;
    }
}
