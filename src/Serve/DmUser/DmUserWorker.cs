using System;
using System.Runtime.InteropServices;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>
/// One thread of a <see cref="DmUserServer"/> with a channel: takes a request, answers it, takes the next.
/// <para>
/// If a read fails before the header of its reply is sent, the reply reports an error. After the header only data can follow, so after a
/// later failure the worker closes its channel. The kernel then fails only the request that this channel had not answered. The worker opens
/// a new channel before it closes the old one, because the kernel fails all waiting requests when the last channel closes.
/// </para>
/// </summary>
internal sealed class DmUserWorker
{
    /// <summary>
    /// The offset of the data in the buffer, so that the data is aligned for direct I/O. The reply's header is stored just before the data,
    /// so that one system call sends both.
    /// </summary>
    internal const int HeadRoom = Sizes.Granule;

    /// <summary>
    /// The server fails after this many channels in a row that failed without answering a request: another one would not help.
    /// </summary>
    private const int MostFruitless = 3;

    private readonly SnapshotView _view;
    private readonly BlockDevice[] _devices;
    private readonly int _part;
    private readonly Func<int> _open;
    private readonly StopFlag _stop;
    private readonly byte[] _head = new byte[DmUser.MessageBytes];
    private Thread? _thread;
    private int _channel;
    private int _threadId;
    private int _interruptions;
    private string _why = "";

    private enum Outcome
    {
        Done,
        /// <summary>The server is stopping.</summary>
        Stopped,
        /// <summary>The device was removed.</summary>
        Gone,
        /// <summary>This channel is unusable; <see cref="_why"/> has the reason.</summary>
        Broken,
    }

    /// <summary>
    /// A worker that takes ownership of <paramref name="channel"/>, and calls <paramref name="open"/> for a new channel after a failure. It
    /// sends replies in parts of up to <paramref name="part"/> bytes.
    /// </summary>
    public DmUserWorker(SnapshotView view, BlockDevice[] devices, int part, int channel, Func<int> open, StopFlag stop)
    {
        (_view, _devices, _part, _channel, _open, _stop) = (view, devices, part, channel, open, stop);
    }

    /// <summary>As <see cref="DmUserOptions.Report"/>.</summary>
    public required Action<string>? Report { get; init; }

    /// <summary>As <see cref="DmUserOptions.Patience"/>.</summary>
    public required int Patience { get; init; }

    /// <summary>Called on the thread with null when it starts to serve, or with the reason why it cannot.</summary>
    public required Action<SnapuserdException?> Ready { get; init; }

    /// <summary>Called on the thread at its end: with null if it was stopped or the device is gone, otherwise with the reason.</summary>
    public required Action<string?> Ended { get; init; }

    /// <summary>The kernel's ID of the thread (TID) while it may wait for a request, otherwise 0.</summary>
    public int ThreadId => Volatile.Read(ref _threadId);

    /// <summary>Starts the thread; false if the system cannot create another.</summary>
    public bool TryStart(int number)
    {
        _thread = WorkerThread.TryStart($"dm-user {number}", StackSize.Usual, Run);
        return _thread != null;
    }

    /// <summary>Waits for the thread's end, if it was started.</summary>
    public bool Join(int milliseconds) => _thread is null || _thread.Join(milliseconds);

    /// <summary>Closes the channel of a worker that was not started.</summary>
    public void CloseUnused() => Close();

    private void Run()
    {
        string? failure = null;
        bool ready = false;
        try
        {
            using ReadContext context = new(_view, _devices, 1, HeadRoom + _part);
            Volatile.Write(ref _threadId, Libc.GetTid());
            ready = true;
            Ready(null);
            failure = Serve(context);
        }
        catch (SnapuserdException e)
        {
            if (ready) failure = e.Message;
            else Ready(e);
        }
        catch (Exception e)
        {
            failure = $"a thread of dm-user failed: {e}";
            if (!ready) Ready(new SnapuserdException(ExitCode.Internal, failure));
        }
        Volatile.Write(ref _threadId, 0);
        Close();
        Ended(failure);
    }

    /// <summary>
    /// Serves until the server stops or the device is gone (returns null), or until no channel works (returns the reason).
    /// </summary>
    private string? Serve(ReadContext context)
    {
        for (int fruitless = 0; ;)
        {
            int answered = 0;
            Outcome outcome = Outcome.Done;
            while (outcome == Outcome.Done)
            {
                outcome = Receive(_head);
                if (outcome == Outcome.Done) outcome = Answer(context, MemoryMarshal.Read<DmUserMessage>(_head));
                if (outcome == Outcome.Done) answered++;
            }
            if (outcome != Outcome.Broken || _stop.Requested) return null;
            fruitless = answered > 0 ? 0 : fruitless + 1;
            if (fruitless == MostFruitless) return $"dm-user: {_why}, {MostFruitless} times in a row";
            Report?.Invoke($"dm-user: {_why}; the channel is closed, and another is opened");
            int channel = _open();
            Close();
            if (channel is -Errno.ENOENT or -Errno.ENXIO or -Errno.ENODEV) return null;
            if (channel < 0) return $"dm-user: {_why}, and another channel cannot be opened: {ErrnoText.Of(channel)}";
            _channel = channel;
        }
    }

    private Outcome Answer(ReadContext context, in DmUserMessage request)
    {
        switch (request.Type)
        {
            case DmUser.DM_USER_REQ_MAP_READ:
                return AnswerRead(context, request);
            case DmUser.DM_USER_REQ_MAP_FLUSH:
            case DmUser.DM_USER_REQ_MAP_WRITE when request.Len == 0:
                // Nothing was written, so there is nothing to flush.
                return Reply(request, DmUser.DM_USER_RESP_SUCCESS);
            case DmUser.DM_USER_REQ_MAP_WRITE:
                Outcome outcome = Drop(context, request.Len);
                return outcome == Outcome.Done ? Reply(request, DmUser.DM_USER_RESP_ERROR) : outcome;
            default:
                return Reply(request, DmUser.DM_USER_RESP_UNSUPPORTED);
        }
    }

    private Outcome AnswerRead(ReadContext context, in DmUserMessage request)
    {
        ulong image = (ulong)_view.Length;
        if (request.Len > image || request.Sector > (image - request.Len) / 512)
        {
            _view.Report($"dm-user: a read of {request.Len} bytes at sector {request.Sector} goes beyond the image's {image} bytes and "
                + "gets an I/O error");
            return Reply(request, DmUser.DM_USER_RESP_ERROR);
        }
        Slice buffer = context.Buffer(0);
        long offset = (long)request.Sector * 512, end = offset + (long)request.Len;
        int headBytes = DmUser.MessageBytes;
        long ticks = 0;
        do
        {
            int bytes = (int)Math.Min(_part, end - offset);
            long began = SnapshotView.Now;
            bool read = context.Reader.Read(offset, buffer.Part(HeadRoom, bytes)) == bytes;
            ticks += SnapshotView.Now - began;
            if (!read || offset + bytes == end) _view.RecordLatency(ticks);
            if (!read)
            {
                // The view has reported the reason.
                if (headBytes > 0) return Reply(request, DmUser.DM_USER_RESP_ERROR);
                _why = $"a read of {request.Len} bytes at sector {request.Sector} failed after its first part was sent";
                return Outcome.Broken;
            }
            Span<byte> answer = context[buffer.Part(HeadRoom - headBytes, headBytes + bytes)];
            if (headBytes > 0) WriteHead(request, DmUser.DM_USER_RESP_SUCCESS, answer);
            Outcome outcome = Send(answer);
            if (outcome != Outcome.Done) return outcome;
            offset += bytes;
            headBytes = 0;
        }
        while (offset < end);
        return Outcome.Done;
    }

    private Outcome Reply(in DmUserMessage request, ulong how)
    {
        WriteHead(request, how, _head);
        return Send(_head);
    }

    private static void WriteHead(DmUserMessage request, ulong how, Span<byte> answer)
    {
        request.Type = how;
        MemoryMarshal.Write(answer, request);
    }

    /// <summary>
    /// Reads and discards a write's data: the kernel does not accept the reply, or send the next request, before all data was read.
    /// </summary>
    private Outcome Drop(ReadContext context, ulong bytes)
    {
        Span<byte> buffer = context[context.Buffer(0)];
        while (bytes > 0)
        {
            int part = (int)Math.Min((ulong)buffer.Length, bytes);
            Outcome outcome = Receive(buffer[..part], begun: true);
            if (outcome != Outcome.Done) return outcome;
            bytes -= (ulong)part;
        }
        return Outcome.Done;
    }

    /// <summary>Reads all of <paramref name="bytes"/>. Waits for the first byte unless a message has <paramref name="begun"/>.</summary>
    private Outcome Receive(Span<byte> bytes, bool begun = false)
    {
        while (bytes.Length > 0)
        {
            if (!begun && _stop.Requested) return Outcome.Stopped;
            nint got = Libc.Read(_channel, bytes);
            if (Retry.Interrupted(got))
            {
                if (_stop.Requested && ++_interruptions > Patience) return Outcome.Stopped;
                continue;
            }
            if (got == -Errno.ENOTBLK || (got == 0 && !begun)) return Outcome.Gone;
            if (got <= 0)
            {
                _why = got == 0 ? $"a message ended {bytes.Length} bytes early" : $"a request cannot be read: {ErrnoText.Of((int)got)}";
                return Outcome.Broken;
            }
            bytes = bytes[(int)got..];
            begun = true;
        }
        return Outcome.Done;
    }

    private Outcome Send(ReadOnlySpan<byte> bytes)
    {
        while (bytes.Length > 0)
        {
            nint sent = Libc.Write(_channel, bytes);
            if (Retry.Interrupted(sent))
            {
                if (_stop.Requested && ++_interruptions > Patience) return Outcome.Stopped;
                continue;
            }
            if (sent <= 0)
            {
                _why = sent == 0 ? "the driver does not accept a reply" : $"the driver does not accept a reply: {ErrnoText.Of((int)sent)}";
                return Outcome.Broken;
            }
            bytes = bytes[(int)sent..];
        }
        return Outcome.Done;
    }

    private void Close()
    {
        if (_channel >= 0) _ = Libc.Close(_channel);
        _channel = -1;
    }
}
