using System;
using System.Runtime.InteropServices;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;
using static Snapuserd.Interop.UblkAbi;

namespace Snapuserd.Serve;

/// <summary>
/// One queue of a ublk device. One thread makes, uses and disposes of it: the driver requires all commands of a queue from the thread that
/// fetched its tags. One ring carries the driver's commands and the device reads, so a single wait covers both, and one thread has many
/// reads in flight.
/// <code>
///   allocate -> fetch every tag -> map -> (request comes) -> wait for a free read, in order of arrival -> read -> copy to the driver
///     -> commit and fetch again -> …
///                                                                                                 until every tag came back aborted
/// </code>
/// </summary>
internal sealed class UblkQueue : IDisposable
{
    /// <summary>UBLK_IO_RES_ABORT of linux/ublk_cmd.h: the tag comes back because the device is stopping.</summary>
    private const int Aborted = -Errno.ENODEV;

    /// <summary>
    /// A read of 512 KiB of single blocks needs many device requests; more than four per read, over all reads together, only queue in the
    /// disk.
    /// </summary>
    private const int RequestsPerRead = 4, FewestRequests = 32, MostRequests = 256;

    private readonly SnapshotView _view;
    private readonly IUblkDriver _driver;
    private readonly int _number;
    private readonly UblkGeometry _geometry;
    private readonly WakeUp _wakeUp;
    private readonly Arena _arena;
    private readonly RingQueue _ring;
    private readonly ViewReader _reader;
    private MappedMemory? _descriptors;
    private int _fd = -1;
    private readonly Slice[] _buffers;
    private readonly int[] _tagOf;
    private readonly int[] _freeReads;
    private readonly long[] _came;
    private readonly TagQueue _arrived;
    private readonly TagQueue _waiting;
    private int _freeReadCount;
    private int _lostErrno;
    private bool _begun;

    /// <summary>
    /// Allocates memory and ring, and sends nothing to the driver yet. <paramref name="wakeUp"/> stays the caller's, and only this queue
    /// waits on it. Exit code 71 without memory, 69 without io_uring.
    /// </summary>
    public UblkQueue(SnapshotView view, BlockDevice[] devices, IUblkDriver driver, int number, UblkGeometry geometry, WakeUp wakeUp)
    {
        (_view, _driver, _number, _geometry, _wakeUp) = (view, driver, number, geometry, wakeUp);
        int reads = geometry.Reads;
        _arena = new Arena(reads * (ViewReader.BytesPerRead(view) + geometry.MaxIoBytes));
        try
        {
            _ring = driver.MakeRing(devices, _arena, wakeUp, Math.Clamp(reads * RequestsPerRead, FewestRequests, MostRequests),
                geometry.Depth);
            _reader = new ViewReader(view, new IoScheduler(_ring, Array.ConvertAll(devices, device => device.Granule)), _arena, reads);
            _buffers = new Slice[reads];
            for (int i = 0; i < reads; i++) _buffers[i] = _arena.Take(geometry.MaxIoBytes)!.Value;
        }
        catch
        {
            _ring?.Dispose();
            _arena.Dispose();
            throw;
        }
        _tagOf = new int[reads];
        _freeReads = new int[reads];
        for (int i = reads - 1; i >= 0; i--) _freeReads[_freeReadCount++] = i;
        _came = new long[geometry.Depth];
        _arrived = new TagQueue(geometry.Depth);
        _waiting = new TagQueue(geometry.Depth);
        _ring.ListenToCommands(Ended);
    }

    /// <summary>Tags that the driver holds or that this queue must answer. 0: all came back aborted, or none was fetched.</summary>
    public int Tags { get; private set; }

    /// <summary>
    /// Fetches every tag over <paramref name="fd"/>, an open /dev/ublkcN that stays the caller's. All commands go into one io_uring_enter,
    /// which no signal interrupts: a killed process has fetched all tags of a queue or none. The kernel cannot recover a queue with only
    /// some tags fetched. Exit code 74 when the driver refused one.
    /// </summary>
    public void Fetch(int fd)
    {
        _fd = fd;
        for (int tag = 0; tag < _geometry.Depth; tag++) Issue(UBLK_U_IO_FETCH_REQ, tag, 0);
        Tags = _geometry.Depth;
        // The wait submits the commands, and this wake-up makes it return.
        _wakeUp.Signal();
        _reader.Wait();
        CheckLost();
    }

    /// <summary>Maps the descriptors of the requests. Returns 0 or a negative errno.</summary>
    public int Map() => _driver.MapDescriptors(_fd, _number, _geometry.Depth, out _descriptors);

    /// <summary>
    /// Answers requests until every tag came back aborted, or <paramref name="abandon"/> returns true after a wake-up. Throws when the ring
    /// or the driver fails; disposing of the queue then makes the driver take back the unanswered requests.
    /// </summary>
    public void Serve(Func<bool> abandon)
    {
        while (Tags > 0 && !abandon())
        {
            _begun = false;
            while (_arrived.Count > 0) Arrive(_arrived.Take());
            _ = FinishEnded();
            Begin();
            // A read that needed no device has already ended.
            if (!_begun || !FinishEnded()) _reader.Wait();
            CheckLost();
        }
    }

    /// <summary>Waits for the device reads and closes the ring; the driver takes back all its requests.</summary>
    public void Dispose()
    {
        _reader.Dispose();
        _ring.Dispose();
        _arena.Dispose();
        _descriptors?.Dispose();
    }

    /// <summary>Answers the requests whose reads have ended. True if there was one.</summary>
    private bool FinishEnded()
    {
        bool any = false;
        while (_reader.TryReap(out ViewCompletion completion))
        {
            Finish(completion);
            any = true;
        }
        return any;
    }

    /// <summary>Handles the completion of a command, during a wait.</summary>
    private void Ended(uint tag, int result)
    {
        if (result == UBLK_IO_RES_OK)
        {
            _arrived.Add((int)tag);
            return;
        }
        Tags--;
        // The driver rejected the command or has no memory. The tag's request would wait for ever.
        if (result != Aborted && _lostErrno == 0) _lostErrno = result;
    }

    private void CheckLost()
    {
        if (_lostErrno != 0)
            throw new SnapuserdException(ExitCode.InputOutput,
                $"ublk: queue {_number}: the driver refused a command: {ErrnoText.Of(_lostErrno)}");
    }

    private void Arrive(int tag)
    {
        ref readonly UblksrvIoDesc request = ref Request(tag);
        switch ((byte)request.OpFlags)
        {
            case UBLK_IO_OP_READ when request.NrSectors > 0 && request.NrSectors <= (uint)_geometry.MaxIoBytes / 512:
                _came[tag] = SnapshotView.Now;
                _waiting.Add(tag);
                break;
            case UBLK_IO_OP_READ: Commit(tag, -Errno.EIO); break;
            case UBLK_IO_OP_FLUSH: Commit(tag, 0); break;
            case UBLK_IO_OP_WRITE: Commit(tag, -Errno.EPERM); break;
            default: Commit(tag, -Errno.EOPNOTSUPP); break;
        }
    }

    private void Begin()
    {
        while (_waiting.Count > 0 && _freeReadCount > 0)
        {
            int tag = _waiting.Take();
            int read = _freeReads[--_freeReadCount];
            _tagOf[read] = tag;
            ref readonly UblksrvIoDesc request = ref Request(tag);
            // A sector above 2^54 is past the end of any image, and the multiplication must not overflow.
            long offset = request.StartSector < 1UL << 54 ? (long)request.StartSector * 512 : long.MaxValue;
            _reader.Begin(offset, _buffers[read].Part(0, (int)request.NrSectors * 512), (uint)read);
            _begun = true;
        }
    }

    private void Finish(ViewCompletion completion)
    {
        int read = (int)completion.Tag, tag = _tagOf[read];
        _freeReads[_freeReadCount++] = read;
        int result = completion.Result > 0 ? Copy(tag, _buffers[read].Part(0, completion.Result)) : -Errno.EIO;
        _view.Answered(_came[tag]);
        Commit(tag, result);
    }

    /// <summary>Copies the bytes of a request to the driver. Returns their number, or −EIO.</summary>
    private int Copy(int tag, Slice bytes)
    {
        for (int done = 0; done < bytes.Length;)
        {
            nint written = Libc.PWrite(_fd, _arena.AddressOf(bytes) + done, bytes.Length - done, UserCopyOffset(_number, tag) + done);
            if (Retry.Interrupted(written)) continue;
            if (written <= 0) return -Errno.EIO;
            done += (int)written;
        }
        return bytes.Length;
    }

    private void Commit(int tag, int result) => Issue(UBLK_U_IO_COMMIT_AND_FETCH_REQ, tag, result);

    private void Issue(uint command, int tag, int result)
    {
        UblksrvIoCmd bytes = new() { QueueId = (ushort)_number, Tag = (ushort)tag, Result = result };
        // The ring has an entry per tag, and a tag has at most one command.
        if (!_ring.TryCommand(_fd, command, MemoryMarshal.AsBytes(new ReadOnlySpan<UblksrvIoCmd>(in bytes)), (uint)tag))
            throw new InvalidOperationException($"no room for a command of tag {tag}");
    }

    private ref UblksrvIoDesc Request(int tag) => ref _descriptors!.Span<UblksrvIoDesc>(tag * Marshal.SizeOf<UblksrvIoDesc>(), 1)[0];

    /// <summary>Tags in their order of arrival; every tag is in it at most once.</summary>
    private sealed class TagQueue(int capacity)
    {
        private readonly int[] _tags = new int[capacity];
        private int _first;

        public int Count { get; private set; }

        public void Add(int tag) => _tags[(_first + Count++) % _tags.Length] = tag;

        public int Take()
        {
            int tag = _tags[_first];
            _first = (_first + 1) % _tags.Length;
            Count--;
            return tag;
        }
    }
}
