using System;
using System.Buffers.Binary;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Daemon;
using Snapuserd.Interop;

namespace Snapuserd.Cli;

/// <summary>
/// What `ctl` has told a supervised server about its merge, so that the one that takes its place when it was killed goes on as it was told: a pause is not over, a rate holds, and a merge
/// was asked for. The supervisor makes a file in memory, every server inherits it and notes what is asked of it before whoever asked has an answer.
/// <code>
///   0 | 8 bytes | bytes per second; 0 for no limit
///   8 | 1 byte  | 1: the merge is paused
///   9 | 1 byte  | 1: the merge was asked for
///  10 | 1 byte  | 1: the server was asked to stop
///  11 | 1 byte  | 1: the device is the supervisor's: a server has made it or taken it over
///  16 | 4 bytes | ops whose payloads are checked: the COW is locked by the supervisor, so the next server need not do it again
/// </code>
/// Little-endian, and written at once: a server is not killed in the midst of a system call that copies ten bytes.
/// </summary>
internal sealed class StandingRequests
{
    /// <summary>The variable in a server's environment that has the descriptor.</summary>
    internal const string Variable = "SNAPUSERD_REQUESTS";

    private const int RateAt = 0, PausedAt = 8, MergeAt = 9, Bytes = 10, StopAt = 10, DeviceAt = 11, CheckedAt = 16;

    private readonly object _gate = new();
    private readonly int _fd;
    private readonly Output _output;
    private readonly long _rate;
    private readonly bool _paused;
    private bool _failed;
    private bool _mergeAsked;
    private bool _restored;

    private StandingRequests(int fd, Output output)
    {
        (_fd, _output) = (fd, output);
        Span<byte> record = stackalloc byte[Bytes];
        int read = (int)Libc.PRead(fd, record, 0);
        if (read != Bytes)
        {
            Forget(read);
            return;
        }
        (_rate, _paused, _mergeAsked) = (BinaryPrimitives.ReadInt64LittleEndian(record[RateAt..]), record[PausedAt] != 0, record[MergeAt] != 0);
    }

    /// <summary>Somebody has asked an earlier server for the merge.</summary>
    internal bool MergeAsked
    {
        get
        {
            lock (_gate) return _mergeAsked;
        }
    }

    /// <summary>For a supervisor: the file, with nothing asked for, which its children inherit. A descriptor or a negative errno.</summary>
    internal static int Make()
    {
        int fd = Libc.MemFdCreate();
        if (fd < 0) return fd;
        Span<byte> nothing = stackalloc byte[Bytes];
        nothing.Clear();
        int result = (int)Libc.PWrite(fd, nothing, 0);
        // Open in whoever is executed, unlike all the others.
        if (result >= 0) result = Libc.Fcntl(fd, Libc.F_SETFD, 0);
        if (result >= 0) return fd;
        _ = Libc.Close(fd);
        return result;
    }

    /// <summary>For a server: what its supervisor has; null if there is none.</summary>
    internal static StandingRequests? Inherited(Output output) =>
        int.TryParse(OwnProcess.Variable(Variable), NumberStyles.None, CultureInfo.InvariantCulture, out int fd) ? new StandingRequests(fd, output) : null;

    /// <summary>Has a snapshot that is new keep the pause and the rate. The merge is asked for when it can be (<see cref="MergeAsked"/>).</summary>
    internal void Restore(Snapshot snapshot)
    {
        if (_paused) snapshot.Pause();
        // A file that is not what it should be is no reason to end.
        if (_rate > 0) snapshot.SetRate(_rate);
        lock (_gate) _restored = true;
    }

    /// <summary>Ops whose payloads an earlier server has checked.</summary>
    internal int CheckedOps
    {
        get
        {
            Span<byte> ops = stackalloc byte[sizeof(int)];
            return Libc.PRead(_fd, ops, CheckedAt) == ops.Length ? Math.Max(0, BinaryPrimitives.ReadInt32LittleEndian(ops)) : 0;
        }
    }

    /// <summary>Notes how far the check of the payloads is. If that fails the next server checks more than it needs to.</summary>
    internal void NoteChecked(int ops)
    {
        Span<byte> record = stackalloc byte[sizeof(int)];
        BinaryPrimitives.WriteInt32LittleEndian(record, ops);
        _ = Libc.PWrite(_fd, record, CheckedAt);
    }

    /// <summary>Notes that the server was asked to stop, before the client has an answer: if it is killed before it ends, the supervisor does not start another.</summary>
    internal void NoteStop() => NoteStop(_fd);

    /// <summary>The same for the supervisor, of the file that it made.</summary>
    internal static void NoteStop(int fd) => _ = Libc.PWrite(fd, [1], StopAt);

    /// <summary>Notes for the supervisor, if there is one, that the device that it asked for is this image's.</summary>
    internal static void NoteDevice()
    {
        if (int.TryParse(OwnProcess.Variable(Variable), NumberStyles.None, CultureInfo.InvariantCulture, out int fd)) _ = Libc.PWrite(fd, [1], DeviceAt);
    }

    /// <summary>For the supervisor, of the file that it made: a server had the device. Without it, the device may be another image's.</summary>
    internal static bool HadDevice(int fd)
    {
        Span<byte> record = stackalloc byte[1];
        return fd < 0 || Libc.PRead(fd, record, DeviceAt) != record.Length || record[0] != 0;
    }

    /// <summary>For the supervisor, of the file that it made: a server was asked to stop; and whether it was asked for its merge.</summary>
    internal static (bool Stop, bool Merge) Asked(int fd)
    {
        Span<byte> record = stackalloc byte[StopAt + 1];
        record.Clear();
        _ = Libc.PRead(fd, record, 0);
        return (record[StopAt] != 0, record[MergeAt] != 0);
    }

    /// <summary>Notes what is asked of a snapshot now. Any thread.</summary>
    internal void Note(Snapshot snapshot)
    {
        lock (_gate)
        {
            if (_failed || !_restored) return;
            // Once asked for stays asked for; a server that has just begun has not been asked yet.
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
        _output.Write(Priority.Warning, "requests_forgotten", $"what ctl asks for is forgotten if this server is killed: {Reason.Of(Math.Min(result, 0))}");
    }
}
