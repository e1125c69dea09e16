using System;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Text;

namespace Snapuserd.Host;

/// <summary>
/// Writes records to the kernel's log: one write(2) each to /dev/kmsg, "&lt;5&gt;snapuserd[123]: message". Not thread-safe.
/// <para>
/// Unless printk.devkmsg=on is set, the kernel silently drops records after the tenth within five seconds from one descriptor. This class
/// applies that limit itself, with a reserve for important records, and the next record says how many were left out.
/// </para>
/// </summary>
public sealed class KernelLog
{
    public const string Path = "/dev/kmsg";

    /// <summary>
    /// The longest record in bytes, including its header. Depending on its version, the kernel refuses a record of 976 bytes or more
    /// (EINVAL), and a console truncates it.
    /// </summary>
    public const int MostBytes = 900;

    /// <summary>
    /// The maximum number of records for one message: enough for two paths of the maximum length and an error. A stack trace is truncated.
    /// </summary>
    private const int MostParts = 10;

    /// <summary>
    /// The kernel's own limit (DEFAULT_RATELIMIT_BURST in DEFAULT_RATELIMIT_INTERVAL). The interval here is a tenth of a second longer,
    /// because the kernel counts in ticks. The last two records of a burst are reserved for errors and notices.
    /// </summary>
    private const int Burst = 10, Reserve = 2, IntervalMilliseconds = 5_100;

    private readonly int _fd;
    private readonly ITimeSource _time;
    private readonly string _name;
    private readonly byte[] _bytes = new byte[MostBytes];

    // Times of the last records; the oldest is at _next.
    private readonly long[] _sent = new long[Burst];
    private int _next;
    private int _leftOut;

    /// <summary>
    /// Writes to an open descriptor, which stays open. <paramref name="process"/> is the process ID in each record's header.
    /// </summary>
    public KernelLog(int fd, ITimeSource time, int process)
    {
        (_fd, _time) = (fd, time);
        _name = string.Create(CultureInfo.InvariantCulture, $"snapuserd[{process}]: ");
        Array.Fill(_sent, long.MinValue / 2);
    }

    /// <summary>
    /// Writes a record, or several if it is too long for one. Returns 0 or a negative errno; a record that is left out is not an error.
    /// </summary>
    public int Write(Priority priority, string sentence)
    {
        if (!HasRoom(priority))
        {
            _leftOut++;
            return 0;
        }
        if (_leftOut > 0) sentence = $"{sentence} ({Units.Count(_leftOut, "record")} left out before this one)";
        byte[] text = ByteText.Encode(VisibleText.OnTerminal(sentence));
        int head = ByteText.Encode($"<{(int)priority}>{_name}", _bytes);
        int done = 0;
        for (int part = 0; part < MostParts; part++)
        {
            int room = MostBytes - head - 1, length = text.Length - done;
            if (length > room)
            {
                length = room;
                // Do not split a character: its bytes after the first are 10xxxxxx.
                while (length > 0 && (text[done + length] & 0xc0) == 0x80) length--;
            }
            text.AsSpan(done, length).CopyTo(_bytes.AsSpan(head));
            // Without a line feed some kernels hold the record back, and the next one may continue its line.
            _bytes[head + length] = (byte)'\n';
            int error = Send(_bytes.AsSpan(0, head + length + 1));
            if (error < 0) return error;
            done += length;
            if (done == text.Length || !HasRoom(priority)) break;
        }
        _leftOut = 0;
        return 0;
    }

    private bool HasRoom(Priority priority)
    {
        bool important = priority is Priority.Error or Priority.Notice;
        return _time.Milliseconds - _sent[(_next + (important ? 0 : Reserve)) % Burst] > IntervalMilliseconds;
    }

    private int Send(ReadOnlySpan<byte> record)
    {
        nint written;
        do written = Libc.Write(_fd, record);
        while (Retry.Interrupted(written));
        if (written < 0) return (int)written;
        _sent[_next] = _time.Milliseconds;
        _next = (_next + 1) % Burst;
        return 0;
    }
}
