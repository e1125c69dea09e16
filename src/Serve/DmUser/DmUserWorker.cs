using System;
using System.Runtime.InteropServices;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Serve;

/// <summary>
/// One thread of a <see cref="DmUserServer"/> with a channel: takes a request, answers it, takes the next.
/// <para>
/// A read that fails before its answer's header is sent is answered with an error. After the header only data can follow, so a later
/// failure closes the channel. The kernel then fails the one request that this channel had not answered, and no other. The new channel is
/// opened first, because the kernel fails all waiting requests when the last channel closes. (Android's daemon ends its worker after the
/// former and itself after the latter.)
/// </para>
/// </summary>
internal sealed class DmUserWorker
{
    /// <summary>
    /// Bytes of the buffer before the data, so that the data is aligned for direct I/O. The answer's header ends there, so that one call
    /// sends both.
    /// </summary>
    internal const int HeadRoom = Sizes.Granule;

    /// <summary>Channels in a row that fail before they answer a request; after that a new channel will not help.</summary>
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
    /// A worker for <paramref name="channel"/>, which it owns from here on, and for the channels that <paramref name="open"/> opens after a
    /// failure. Parts of answers have up to <paramref name="part"/> bytes.
    /// </summary>
    public DmUserWorker(SnapshotView view, BlockDevice[] devices, int part, int channel, Func<int> open, StopFlag stop)
    {
        (_view, _devices, _part, _channel, _open, _stop) = (view, devices, part, channel, open, stop);
    }

    /// <summary>Receives the sentences of <see cref="DmUserOptions.Report"/>.</summary>
    public required Action<string>? Report { get; init; }

    /// <summary>As <see cref="DmUserOptions.Patience"/>.</summary>
    public required int Patience { get; init; }

    /// <summary>Called on the thread when it starts to serve, or with the reason why it cannot.</summary>
    public required Action<SnapuserdException?> Ready { get; init; }

    /// <summary>Called on the thread at its end, with a sentence unless it was stopped or the device is gone.</summary>
    public required Action<string?> Ended { get; init; }

    /// <summary>The kernel's number of the thread while it may wait for a request, else 0.</summary>
    public int ThreadId => Volatile.Read(ref _threadId);

    /// <summary>Starts the thread; false if the system has no thread left.</summary>
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

    /// <summary>Serves until the end. Returns null after a regular end, else the reason.</summary>
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
            if (fruitless == MostFruitless) return $"dm-user: {_why}, {MostFruitless} times one after another";
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
                _why = $"a read of {request.Len} bytes at sector {request.Sector} failed when the first part of it had been sent";
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
    /// Reads and discards a write's data: only after them does the kernel accept an answer and hand out the next request.
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
                _why = sent == 0 ? "an answer is not taken" : $"an answer is not taken: {ErrnoText.Of((int)sent)}";
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
