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
/// </code>
/// Little-endian, and written at once: a server is not killed in the midst of a system call that copies ten bytes.
/// </summary>
internal sealed class StandingRequests
{
    /// <summary>The variable in a server's environment that has the descriptor.</summary>
    internal const string Variable = "SNAPUSERD_REQUESTS";

    private const int RateAt = 0, PausedAt = 8, MergeAt = 9, Bytes = 10;

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
