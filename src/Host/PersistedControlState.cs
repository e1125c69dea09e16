using System;
using System.Buffers.Binary;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Interop;

namespace Snapuserd.Host;

/// <summary>
/// Persists the requests of `ctl` to a supervised server, so that after a kill the next server continues with them: a pause stays, a rate
/// holds, and a requested merge is requested again. The supervisor makes a file in memory, and every server inherits it. A server records
/// each request there before it answers the client.
/// <code>
///   0 | 8 bytes | bytes per second; 0 for no limit
///   8 | 1 byte  | 1: the merge is paused
///   9 | 1 byte  | 1: the merge was requested
///  10 | 1 byte  | 1: the server was asked to stop
///  11 | 1 byte  | 1: the device belongs to this supervisor: a server has made it or taken it over
///  16 | 4 bytes | ops whose payloads are checked: the supervisor holds the COW's lock, so the next server need not check them again
/// </code>
/// Little-endian. The first three fields are written in one call, and a kill does not interrupt a system call that copies ten bytes.
/// </summary>
public sealed class PersistedControlState
{
    /// <summary>The environment variable with the file's descriptor.</summary>
    public const string Variable = "SNAPUSERD_REQUESTS";

    private const int RateAt = 0, PausedAt = 8, MergeAt = 9, Bytes = 10, StopAt = 10, DeviceAt = 11, CheckedAt = 16;

    private readonly object _gate = new();
    private readonly int _fd;
    private readonly ILog _log;
    private readonly long _rate;
    private readonly bool _paused;
    private bool _failed;
    private bool _mergeAsked;
    private bool _restored;

    /// <summary>Reads the requests from the supervisor's file.</summary>
    public PersistedControlState(int fd, ILog log)
    {
        (_fd, _log) = (fd, log);
        Span<byte> record = stackalloc byte[Bytes];
        int read = (int)Libc.PRead(fd, record, 0);
        if (read != Bytes)
        {
            Forget(read);
            return;
        }
        (_rate, _paused, _mergeAsked) =
            (BinaryPrimitives.ReadInt64LittleEndian(record[RateAt..]), record[PausedAt] != 0, record[MergeAt] != 0);
    }

    /// <summary>True if an earlier server got a merge request.</summary>
    public bool MergeAsked
    {
        get
        {
            lock (_gate) return _mergeAsked;
        }
    }

    /// <summary>
    /// For a supervisor: makes the file, with no request in it. Its children inherit it. Returns a descriptor or a negative errno.
    /// </summary>
    public static int Make()
    {
        int fd = Libc.MemFdCreate();
        if (fd < 0) return fd;
        Span<byte> nothing = stackalloc byte[Bytes];
        nothing.Clear();
        int result = (int)Libc.PWrite(fd, nothing, 0);
        // Unlike all other descriptors, this one stays open across execve.
        if (result >= 0) result = Libc.Fcntl(fd, Libc.F_SETFD, 0);
        if (result >= 0) return fd;
        _ = Libc.Close(fd);
        return result;
    }

    /// <summary>For a server: the supervisor's requests; null if there is no supervisor.</summary>
    public static PersistedControlState? Inherited(ILog log) =>
        int.TryParse(OwnProcess.Variable(Variable), NumberStyles.None, CultureInfo.InvariantCulture, out int fd)
            ? new PersistedControlState(fd, log) : null;

    /// <summary>
    /// Applies the pause and the rate to a new snapshot. The caller requests the merge as soon as that is possible
    /// (<see cref="MergeAsked"/>).
    /// </summary>
    public void Restore(Snapshot snapshot)
    {
        if (_paused) snapshot.Pause();
        // Invalid content of the file must not end the server.
        if (_rate > 0) snapshot.SetRate(_rate);
        lock (_gate) _restored = true;
    }

    /// <summary>Ops whose payloads an earlier server has checked.</summary>
    public int CheckedOps
    {
        get
        {
            Span<byte> ops = stackalloc byte[sizeof(int)];
            return Libc.PRead(_fd, ops, CheckedAt) == ops.Length ? Math.Max(0, BinaryPrimitives.ReadInt32LittleEndian(ops)) : 0;
        }
    }

    /// <summary>Records the progress of the payload check. If that fails, the next server checks more than necessary.</summary>
    public void NoteChecked(int ops)
    {
        Span<byte> record = stackalloc byte[sizeof(int)];
        BinaryPrimitives.WriteInt32LittleEndian(record, ops);
        _ = Libc.PWrite(_fd, record, CheckedAt);
    }

    /// <summary>
    /// Records that the server was asked to stop, before the client gets its reply. If the server is killed before it ends, the supervisor
    /// does not start another.
    /// </summary>
    public void NoteStop() => NoteStop(_fd);

    /// <summary>Records a stop for the supervisor itself, in the file that it made.</summary>
    public static void NoteStop(int fd) => _ = Libc.PWrite(fd, [1], StopAt);

    /// <summary>Records for the supervisor, if there is one, that the requested device belongs to this image.</summary>
    public static void NoteDevice()
    {
        if (int.TryParse(OwnProcess.Variable(Variable), NumberStyles.None, CultureInfo.InvariantCulture, out int fd))
            _ = Libc.PWrite(fd, [1], DeviceAt);
    }

    /// <summary>
    /// For the supervisor: true if a server had the device, according to the file, or if the file cannot be read. If false, the device may
    /// belong to another image.
    /// </summary>
    public static bool HadDevice(int fd)
    {
        Span<byte> record = stackalloc byte[1];
        return fd < 0 || Libc.PRead(fd, record, DeviceAt) != record.Length || record[0] != 0;
    }

    /// <summary>
    /// For the supervisor: whether a server was asked to stop, and whether it got a merge request, according to the file.
    /// </summary>
    public static (bool Stop, bool Merge) Asked(int fd)
    {
        Span<byte> record = stackalloc byte[StopAt + 1];
        record.Clear();
        _ = Libc.PRead(fd, record, 0);
        return (record[StopAt] != 0, record[MergeAt] != 0);
    }

    /// <summary>Records the current requests to a snapshot. Any thread.</summary>
    public void Note(Snapshot snapshot)
    {
        lock (_gate)
        {
            if (_failed || !_restored) return;
            // Keep a recorded merge request: a server that has just started may not have been asked again yet.
            _mergeAsked |= snapshot.MergeRequested;
            SnapshotStatus status = snapshot.Status;
            Span<byte> record = stackalloc byte[Bytes];
            BinaryPrimitives.WriteInt64LittleEndian(record[RateAt..], status.BytesPerSecond);
            (record[PausedAt], record[MergeAt]) = (status.Paused ? (byte)1 : (byte)0, _mergeAsked ? (byte)1 : (byte)0);
            int written = (int)Libc.PWrite(_fd, record, 0);
            if (written != Bytes) Forget(written);
        }
    }

    private void Forget(int result)
    {
        _failed = true;
        _log.Write(Priority.Warning, "requests_forgotten",
            $"requests of ctl are lost if this server is killed: {ErrnoText.Of(Math.Min(result, 0))}");
    }
}
