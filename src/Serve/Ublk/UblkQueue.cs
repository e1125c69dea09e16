using System;
using System.Runtime.InteropServices;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Interop;
using static Snapuserd.Interop.UblkAbi;

namespace Snapuserd.Serve;

/// <summary>
/// One queue of a ublk device. One thread must create, use and dispose of it, because the driver accepts a queue's commands only from the
/// thread that fetched its tags. The same ring is used for commands to the driver and for reads of the devices. So the thread can wait for
/// both at once and have many reads in flight.
/// <code>
///   allocate -> fetch every tag -> map -> for each request: wait for a free read, in order of arrival -> read -> copy to the driver
///     -> commit and fetch again -> … until every tag was returned as aborted
/// </code>
/// </summary>
internal sealed class UblkQueue : IDisposable
{
    /// <summary>UBLK_IO_RES_ABORT of linux/ublk_cmd.h: the driver returns the tag because the device is stopping.</summary>
    private const int Aborted = -Errno.ENODEV;

    /// <summary>
    /// Limits for the number of device requests in the ring. A read of 512 KiB of scattered single blocks needs many. On average, more than
    /// four for each read in flight would only wait in the disk's queue.
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
    /// Allocates memory and a ring. Sends nothing to the driver yet. The caller keeps ownership of <paramref name="wakeUp"/>, but only this
    /// queue may wait on it. Throws with exit code 71 if memory is short, and 69 without io_uring.
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

    /// <summary>
    /// The number of tags that the driver holds or that this queue must answer. 0 before the fetch, and after all tags have been returned
    /// as aborted.
    /// </summary>
    public int Tags { get; private set; }

    /// <summary>
    /// Fetches every tag over <paramref name="fd"/>, an open /dev/ublkcN of which the caller keeps ownership. One io_uring_enter call
    /// submits all commands, and no signal interrupts it. So a killed process has fetched either all tags of a queue or none. This is
    /// necessary, because the kernel cannot recover a queue of which only some tags are fetched. Throws with exit code 74 if the driver
    /// refuses a command.
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

    /// <summary>Maps the requests' descriptors into memory. Returns 0 or a negative errno.</summary>
    public int Map() => _driver.MapDescriptors(_fd, _number, _geometry.Depth, out _descriptors);

    /// <summary>
    /// Answers requests until the driver has returned every tag as aborted, or until <paramref name="abandon"/> returns true after a
    /// wake-up. Throws if the ring or the driver fails; when the queue is then disposed of, the driver takes back the unanswered requests.
    /// </summary>
    public void Serve(Func<bool> abandon)
    {
        while (Tags > 0 && !abandon())
        {
            _begun = false;
            while (_arrived.Count > 0) Arrive(_arrived.Take());
            _ = FinishEnded();
            Begin();
            // Do not wait if a read has already ended because it needed no device.
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

    /// <summary>Answers the requests whose reads have ended. True if there was at least one.</summary>
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

    /// <summary>Handles the completion of a command; called while the queue waits.</summary>
    private void Ended(uint tag, int result)
    {
        if (result == UBLK_IO_RES_OK)
        {
            _arrived.Add((int)tag);
            return;
        }
        Tags--;
        // The driver refused the command, for example for lack of memory. Fail the queue, because the tag's request would wait for ever.
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

    /// <summary>Copies the data of a read request to the driver. Returns its length or −EIO.</summary>
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
        // There is always room, because the ring has an entry for each tag, and a tag has at most one command.
        if (!_ring.TryCommand(_fd, command, MemoryMarshal.AsBytes(new ReadOnlySpan<UblksrvIoCmd>(in bytes)), (uint)tag))
            throw new InvalidOperationException($"no room for a command of tag {tag}");
    }

    private ref UblksrvIoDesc Request(int tag) => ref _descriptors!.Span<UblksrvIoDesc>(tag * Marshal.SizeOf<UblksrvIoDesc>(), 1)[0];

    /// <summary>A queue of tags in order of arrival, with room for every tag once.</summary>
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
