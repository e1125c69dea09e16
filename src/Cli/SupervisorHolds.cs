using System;
using System.Collections.Generic;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Cli;

/// <summary>
/// The storage of a supervised server, held by its supervisor: opened and locked as the server needs it, once, and inherited by every server. When one is killed, nothing becomes free before the next
/// one is there: no merge, mount or `create --output` of another process can begin in between.
/// <para>
/// The server opens the same files once more for its I/O, so that what the kernel still does for a killed server can be told from what is held (<see cref="BlockDevice"/>). Before it puts a mapped device on the
/// base it asks for the base's hold to be given up, because the kernel lets only one have it; the locks among our own processes stay.
/// </para>
/// </summary>
internal sealed class SupervisorHolds : IDisposable
{
    private readonly object _gate = new();
    private readonly Arguments _arguments;
    private readonly int _ours;
    private BlockDevice? _cow, _base, _source;
    private bool _baseIsGivenUp;
    private int _baseAgain = -1;

    /// <summary>Holds nothing yet. Exit code 71 without descriptors.</summary>
    internal SupervisorHolds(Invocation invocation)
    {
        _arguments = invocation.Arguments;
        int result = Libc.SocketPair(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC, out _ours, out int theirs);
        if (result >= 0) result = Libc.Fcntl(theirs, Libc.F_SETFD, 0);
        if (result < 0) throw new SnapuserdException(ExitCode.OutOfResources, $"the server cannot be started: {Reason.Of(result)}");
        ReleaseSocket = theirs;
    }

    /// <summary>The end of the socket that servers inherit.</summary>
    internal int ReleaseSocket { get; }

    /// <summary>
    /// Holds what is not held yet. What cannot be held is left to the server, whose error it is then, or which knows why: after the hand-over the base is the mapped device's.
    /// </summary>
    internal void TakeMissing()
    {
        lock (_gate)
        {
            DeviceAccess access = (BlockServers.Merges(_arguments) ? DeviceAccess.Write | DeviceAccess.Exclusive : DeviceAccess.Shared) | DeviceAccess.HoldOnly | (_arguments.Has("--no-lock") ? DeviceAccess.WithoutLock : 0);
            try
            {
                _cow ??= BlockDevice.Open(_arguments.Required("--cow"), access);
                if (!_baseIsGivenUp) _base ??= BlockDevice.Open(_arguments.Required("--base"), access);
                if (_arguments.Text("--source") is { } source && _source == null && _base != null && !IsBase(source)) _source = BlockDevice.Open(source, DeviceAccess.Shared | DeviceAccess.HoldOnly, _base);
            }
            catch (SnapuserdException)
            {
                // The server opens them as well, and ends with the reason.
            }
            foreach (int fd in All()) _ = Libc.Fcntl(fd, Libc.F_SETFD, 0);
        }
    }

    /// <summary>What a server's environment says of the descriptors (<see cref="InheritedHolds"/>).</summary>
    internal string ForChild()
    {
        lock (_gate) return InheritedHolds.ForChild(All());
    }

    /// <summary>Begins to answer servers that ask for the base's hold to be given up.</summary>
    internal void Listen() => new Thread(Answer, 128 << 10) { IsBackground = true, Name = "release" }.Start();

    /// <summary>Lets go of everything. A server that still lives has its own descriptors of it.</summary>
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
            if (got == -Errno.EINTR) continue;
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
    /// A server that was killed after the base was given up may not have put the mapped device there. While it is held again, no program can mount the base before the next server starts. Without waiting: if it did, the mapped device has it.
    /// </summary>
    internal void TakeBaseAgain()
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
