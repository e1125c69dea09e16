using System;
using System.Globalization;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>
/// Provides a view as the kernel's /dev/nbdN. The kernel gets one end of each of a few socket pairs, and this process serves the other
/// ends. The kernel uses no handshake and supports only simple replies.
/// <para>
/// If a server is killed, its device stays, and requests wait for up to <see cref="NbdOptions.DeadConnectionSeconds"/>. The next server
/// with the same <see cref="NbdOptions.Identifier"/> takes the device over, so readers see only a pause.
/// </para>
/// </summary>
public sealed class NbdDevice : IBlockServer
{
    /// <summary>The longest identifier in bytes; the kernel shows it as a line in sysfs.</summary>
    private const int LongestIdentifier = 1024;

    /// <summary>The number of devices among which that of a killed predecessor is searched. The module makes 16 by default.</summary>
    private const int MostDevices = 256;

    /// <summary>
    /// The maximum number of attempts, <see cref="TryMilliseconds"/> apart, to restore a connection that the kernel closed because a reply
    /// took too long. The first may fail, because the kernel closes the connection shortly before it accepts a replacement.
    /// </summary>
    private const int Tries = 50;

    private const int TryMilliseconds = 20;

    private readonly SnapshotView _view;
    private readonly BlockDevice[] _devices;
    private readonly NbdOptions _options;
    private readonly NbdExport _export;
    private readonly string _identifier;
    private readonly object _gate = new();
    private readonly object _stopping = new();
    private readonly NbdConnection?[] _connections;
    private readonly Thread?[] _threads;
    private readonly ITimeSource _time = new MonotonicClock();
    private NbdControl? _control;
    private int _index = -1;
    private bool _stop;

    /// <summary>
    /// Creates a server for <paramref name="view"/>. <paramref name="devices"/> are the devices of the view's engine, indexed by device
    /// number. <paramref name="wakeUp"/> is signalled when <see cref="Failure"/> is set. The caller keeps ownership of all three. Throws
    /// with exit code 71 if <see cref="NbdOptions.MemoryBytes"/> is too small.
    /// </summary>
    public NbdDevice(SnapshotView view, BlockDevice[] devices, NbdOptions options, WakeUp wakeUp)
    {
        (_view, _devices, _options) = (view, devices, options);
        _export = new NbdExport(view, devices, options, Math.Max(options.DeviceConnections, 1), wakeUp);
        _connections = new NbdConnection?[_export.Connections];
        _threads = new Thread?[_export.Connections];
        _identifier = options.Identifier.Length > 0 ? options.Identifier : $"snapuserd {view.Devices.Cow.Name} {view.Devices.Base.Name}";
        byte[] identifier = ByteText.Encode(_identifier);
        if (identifier.Length > LongestIdentifier) _identifier = ByteText.Decode(identifier.AsSpan(0, LongestIdentifier));
    }

    /// <inheritdoc/>
    public string? Failure => _export.Failure;

    /// <summary>The number of requests received so far on all connections.</summary>
    public long Requests => _export.Requests;

    /// <summary>
    /// Attaches the device, and returns its path. Throws with these exit codes:
    /// <list type="bullet">
    /// <item>64: the name is invalid;</item>
    /// <item>69: the kernel has no NBD;</item>
    /// <item>71: no descriptors or threads are left;</item>
    /// <item>76: the requested device is in use;</item>
    /// <item>77: the process lacks CAP_SYS_ADMIN.</item>
    /// </list>
    /// </summary>
    public string Start()
    {
        int index = IndexOf(_options.Device);
        int[] ours = new int[_connections.Length], theirs = new int[_connections.Length];
        Array.Fill(ours, -1);
        Array.Fill(theirs, -1);
        try
        {
            _control = new NbdControl();
            if (index < 0)
            {
                index = FindOwn();
                if (index >= 0 && !TryTakeOver(index, ours, theirs)) index = -1;
            }
            if (_index < 0) Attach(index, ours, theirs);
            Serve(ours);
            return $"/dev/nbd{_index.ToString(CultureInfo.InvariantCulture)}";
        }
        catch
        {
            Close(theirs);
            Stop();
            Close(ours);
            throw;
        }
    }

    /// <inheritdoc/>
    public void Stop()
    {
        lock (_stopping)
        {
            lock (_gate) _stop = true;
            if (_control == null) return;
            // The kernel announces the disconnection on every connection. A connection whose thread has not ended by the deadline is hung
            // up.
            if (_index >= 0) _ = _control.Disconnect(_index);
            long end = _time.Milliseconds + _options.DrainMilliseconds;
            for (int i = 0; i < _threads.Length; i++)
            {
                if (_threads[i] is not { } thread) continue;
                if (!thread.Join((int)Math.Clamp(end - _time.Milliseconds, 0, int.MaxValue)))
                {
                    lock (_gate) _connections[i]?.HangUp();
                    thread.Join();
                }
                _threads[i] = null;
            }
            _index = -1;
            _control.Dispose();
            _control = null;
        }
    }

    /// <inheritdoc/>
    public void Dispose() => Stop();

    /// <summary>The device number in <paramref name="device"/>, or −1 (any free device) if that is empty.</summary>
    private static int IndexOf(string device)
    {
        if (device.Length == 0) return -1;
        string number = device.StartsWith("/dev/nbd", StringComparison.Ordinal) ? device[8..]
            : device.StartsWith("nbd", StringComparison.Ordinal) ? device[3..] : device;
        if (!int.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out int index))
            throw new SnapuserdException(ExitCode.Usage, $"{device} is not an NBD device; their names are /dev/nbd0, /dev/nbd1 and so on");
        return index;
    }

    private void Attach(int index, int[] ours, int[] theirs)
    {
        Pair(ours, theirs);
        // Use the base's sector size, because readers may be handed over to the base. It is limited, because a base that is only read may
        // have larger sectors than the driver supports.
        int sector = Math.Min(_devices[_view.Devices.Base.Number].LogicalSector, Sizes.LargestSector);
        int result = _control!.Connect(index, _view.Length, _view.Length % sector == 0 ? sector : 512, NbdExport.Flags(structured: false),
            _options, _identifier, theirs);
        Close(theirs);
        if (result >= 0)
        {
            _index = result;
            return;
        }
        Close(ours);
        if (result == -Errno.EBUSY && TryTakeOver(index, ours, theirs)) return;
        string name = index < 0 ? "an NBD device" : $"/dev/nbd{index.ToString(CultureInfo.InvariantCulture)}";
        throw new SnapuserdException(ErrnoPolicy.CodeOf(FailedCall.Command, result), result switch
        {
            -Errno.EBUSY => $"{name} is in use; detach it (nbd-client -d), or take another one",
            -Errno.EPERM or -Errno.EACCES => $"attaching {name} takes CAP_SYS_ADMIN ({Errno.Name(result)})",
            _ => $"cannot attach {name}: {ErrnoText.Of(result)}",
        });
    }

    /// <summary>Index of the device of a killed predecessor, according to /sys; −1 if there is none or /sys is not mounted.</summary>
    private int FindOwn()
    {
        Span<byte> bytes = stackalloc byte[LongestIdentifier + 1];
        byte[] own = ByteText.Encode(_identifier);
        for (int i = 0; i < MostDevices; i++)
        {
            int fd = Libc.OpenAt(Libc.AT_FDCWD, $"/sys/block/nbd{i.ToString(CultureInfo.InvariantCulture)}/backend",
                Libc.O_RDONLY | Libc.O_CLOEXEC);
            if (fd < 0) continue;
            nint got = Libc.Read(fd, bytes);
            _ = Libc.Close(fd);
            // The kernel appends one line feed.
            if (got > 0 && bytes[(int)got - 1] == (byte)'\n') got--;
            if (got > 0 && bytes[..(int)got].SequenceEqual(own)) return i;
        }
        return -1;
    }

    /// <summary>
    /// Replaces a dead server's sockets. False if the device's server is alive or has another identifier, or if the device's length differs
    /// from the view's.
    /// </summary>
    private bool TryTakeOver(int index, int[] ours, int[] theirs)
    {
        if (LengthOf(index) != _view.Length) return false;
        Pair(ours, theirs);
        int result = _control!.Reconnect(index, _identifier, theirs);
        Close(theirs);
        bool taken = false;
        for (int i = 0; i < ours.Length; i++)
        {
            if (result == 0 && IsTaken(ours[i])) taken = true;
            else Close(ours.AsSpan(i, 1));
        }
        if (taken) _index = index;
        return taken;
    }

    /// <summary>
    /// True if the kernel has kept the other end of the pair. Otherwise this end would hang up, because this process has closed its copy of
    /// the other.
    /// </summary>
    private static bool IsTaken(int socket)
    {
        Span<PollFd> look = [new PollFd { Fd = socket }];
        return Libc.Poll(look, 0) >= 0 && (look[0].ReturnedEvents & Libc.POLLHUP) == 0;
    }

    private static long LengthOf(int index)
    {
        int fd = Libc.OpenAt(Libc.AT_FDCWD, $"/dev/nbd{index.ToString(CultureInfo.InvariantCulture)}", Libc.O_RDONLY | Libc.O_CLOEXEC);
        if (fd < 0) return -1;
        ulong bytes = 0;
        int result = Libc.Ioctl(fd, Libc.BLKGETSIZE64, ref bytes);
        _ = Libc.Close(fd);
        return result < 0 ? -1 : (long)bytes;
    }

    private static void Pair(Span<int> ours, Span<int> theirs)
    {
        for (int i = 0; i < ours.Length; i++)
        {
            int result = Libc.SocketPair(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC, out ours[i], out theirs[i]);
            if (result < 0)
                throw new SnapuserdException(ExitCode.OutOfResources, $"cannot make sockets for an NBD device: {ErrnoText.Of(result)}");
        }
    }

    private void Serve(int[] sockets)
    {
        for (int i = 0; i < sockets.Length; i++)
        {
            if (sockets[i] < 0) continue;
            int place = i;
            _connections[i] = new NbdConnection(_export, sockets[i]);
            sockets[i] = -1;
            _threads[i] = WorkerThread.Start("nbd", StackSize.Usual, () => Serve(place));
        }
    }

    /// <summary>Serves a connection, and a replacement whenever the kernel drops it. Never throws.</summary>
    private void Serve(int place)
    {
        try
        {
            for (int tries = Tries; ;)
            {
                NbdConnection connection = _connections[place]!;
                connection.Run();
                if (connection.Disconnected)
                {
                    lock (_gate)
                    {
                        if (!_stop)
                            _export.Fail($"NBD: another process has detached /dev/nbd{_index.ToString(CultureInfo.InvariantCulture)}");
                    }
                    return;
                }
                if (connection.WasUsed) tries = Tries;
                else Libc.Sleep(TryMilliseconds);
                lock (_gate)
                {
                    if (_stop) return;
                    if (--tries == 0 || !TryReconnect(place))
                    {
                        _export.Fail("NBD: the kernel has closed a connection of "
                            + $"/dev/nbd{_index.ToString(CultureInfo.InvariantCulture)} and does not accept a new one");
                        return;
                    }
                }
            }
        }
        catch (Exception e)
        {
            _export.Caught(e);
        }
    }

    /// <summary>Replaces a connection. The caller must hold the lock, which Stop takes before it disposes of the control.</summary>
    private bool TryReconnect(int place)
    {
        Span<int> ours = [-1], theirs = [-1];
        Pair(ours, theirs);
        int result = _control!.Reconnect(_index, _identifier, theirs);
        Close(theirs);
        if (result < 0)
        {
            Close(ours);
            return false;
        }
        _connections[place] = new NbdConnection(_export, ours[0]);
        return true;
    }

    private static void Close(Span<int> fds)
    {
        foreach (ref int fd in fds)
        {
            if (fd >= 0) _ = Libc.Close(fd);
            fd = -1;
        }
    }
}
