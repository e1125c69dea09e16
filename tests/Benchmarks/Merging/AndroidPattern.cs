using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Runtime.InteropServices;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using static Snapuserd.Interop.IoUringAbi;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>
/// The peer: the requests that Android's engine makes for a COW, in its order and sizes, with its links and syncs, and with decoding at the
/// same points. There are two threads. One reads ahead the next window of 510 ordered ops: runs of neighbouring sources, eight requests at
/// a time, each passed to a kernel thread; meanwhile it decodes Xor payloads one after the other. It then stores the window in scratch
/// through a shared mapping with two msyncs. The other thread writes the window in chains of eight linked writes, syncs the base, and
/// counts with a third msync. Replace and Zero ops follow in batches of up to 1 MiB of neighbours. One thread reads, decodes and writes
/// each batch, one after the other, and syncs the base and the header every 256 ops. The peer performs a real merge, so it does no less
/// work than the engine. It lacks only the parts of Android's engine that take no time here: readers, states, error handling.
/// </summary>
internal sealed unsafe class AndroidPattern : IDisposable
{
    private const int Window = 510;
    private const int MetadataBytes = 8192;
    private const int RingDepth = 8;
    private const int BatchBlocks = 256;
    private const int CommitOps = 256;
    private const byte StateInProgress = 1, StateDone = 2;

    private readonly CowFile _cow;
    private readonly int _cowFd;
    private readonly int _baseFd;
    private readonly nint _head;
    private readonly nint _headBytes;
    private readonly int _ordered;
    private readonly object _gate = new();
    private int _windowOps;
    private bool _windowReady;
    private bool _windowMerged = true;
    private Exception? _failure;

    private AndroidPattern(Place place)
    {
        _cowFd = Open(place.Cow);
        _baseFd = Open(place.Base);
        using (Devices devices = new(place.Cow)) _cow = devices.ReadCow();
        _headBytes = _cow.Header.HeaderBytes + (2 << 20);
        _head = Libc.MMap(0, _headBytes, Libc.PROT_READ | Libc.PROT_WRITE, Libc.MAP_SHARED, _cowFd, 0);
        if (_head is < 0 and > -4096) throw new IOException($"cannot map {place.Cow}: {Errno.Name((int)_head)}");
        while (_ordered < _cow.Order.Count && Op(_ordered).IsOrdered) _ordered++;
    }

    /// <summary>Merges a place; returns seconds.</summary>
    internal static double Merge(Place place)
    {
        long start = Stopwatch.GetTimestamp();
        using (AndroidPattern merge = new(place)) merge.Run();
        return Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    public void Dispose()
    {
        _ = Libc.MUnmap(_head, _headBytes);
        _cow.Dispose();
        _ = Libc.Close(_cowFd);
        _ = Libc.Close(_baseFd);
    }

    private Span<byte> Head => new((void*)_head, (int)_headBytes);

    private int StateOffset => _cow.Header.HeaderBytes;

    private int DataOffset => _cow.Header.HeaderBytes + MetadataBytes;

    private CowOp Op(int position) => _cow[_cow.Order.OpIndex(position)];

    private void Run()
    {
        Thread? ahead = null;
        if (_ordered > 0)
        {
            ahead = new Thread(() => Guard(ReadAhead));
            ahead.Start();
            Guard(MergeOrdered);
            ahead.Join();
        }
        if (_failure == null) MergeOthers();
        if (_failure != null) throw new IOException($"the peer failed: {_failure.Message}", _failure);
    }

    private void Guard(Action action)
    {
        try
        {
            action();
        }
        catch (Exception e)
        {
            lock (_gate)
            {
                _failure ??= e;
                Monitor.PulseAll(_gate);
            }
        }
    }

    private bool Await(Func<bool> condition)
    {
        lock (_gate)
        {
            while (!condition() && _failure == null) Monitor.Wait(_gate);
            return _failure == null;
        }
    }

    private void Tell(Action change)
    {
        lock (_gate)
        {
            change();
            Monitor.PulseAll(_gate);
        }
    }

    private void ReadAhead()
    {
        IoUring uring = NewRing();
        using UnitDecoder decoder = new(_cow.Compression);
        byte[] data = GC.AllocateArray<byte>(Window * CowOp.BlockSize, pinned: true);
        byte[] metadata = new byte[MetadataBytes];
        byte[] payloads = new byte[Window * CowOp.BlockSize];
        byte[] stored = new byte[CowHeader.MaxUnitBytesLimit];
        List<int> xors = new(Window);
        nint dataAddress = (nint)Unsafe(data);
        for (int from = 0; from < _ordered; from += Window)
        {
            int count = Math.Min(Window, _ordered - from), queued = 0;
            metadata.AsSpan().Clear();
            xors.Clear();
            for (int i = 0; i < count;)
            {
                CowOp first = Op(from + i);
                int run = 1;
                while (i + run < count && Op(from + i + run).SourceByte == first.SourceByte + ((long)run * CowOp.BlockSize)) run++;
                Prepare(uring, new IoUringSqe
                {
                    Opcode = IORING_OP_READ,
                    Flags = IOSQE_ASYNC,
                    Fd = _baseFd,
                    Off = (ulong)first.SourceByte,
                    Addr = (ulong)(dataAddress + ((nint)i * CowOp.BlockSize)),
                    Len = (uint)(run * CowOp.BlockSize),
                    UserData = (ulong)(run * CowOp.BlockSize),
                });
                queued++;
                for (int k = i; k < i + run; k++)
                {
                    CowOp op = Op(from + k);
                    BinaryPrimitives.WriteUInt64LittleEndian(metadata.AsSpan(k * 16), op.NewBlock);
                    BinaryPrimitives.WriteUInt64LittleEndian(metadata.AsSpan((k * 16) + 8), (ulong)(DataOffset + (k * CowOp.BlockSize)));
                    if (op.Type == CowOpType.Xor) xors.Add(k);
                }
                i += run;
                if (queued < RingDepth && i < count) continue;
                Enter(uring, queued, 0);
                // While the reads are in flight, the payloads of the window are decoded.
                foreach (int k in xors) Decode(decoder, Op(from + k), stored, payloads.AsSpan(k * CowOp.BlockSize, CowOp.BlockSize));
                Reap(uring, queued);
                foreach (int k in xors)
                    XorKernel.XorInto(data.AsSpan(k * CowOp.BlockSize, CowOp.BlockSize),
                        payloads.AsSpan(k * CowOp.BlockSize, CowOp.BlockSize));
                xors.Clear();
                queued = 0;
            }
            if (!Await(() => _windowMerged)) break;
            metadata.CopyTo(Head[(StateOffset + 1)..]);
            data.AsSpan(0, count * CowOp.BlockSize).CopyTo(Head[DataOffset..]);
            Sync(_headBytes);
            Head[StateOffset] = StateDone;
            Sync(4096);
            Tell(() => (_windowReady, _windowMerged, _windowOps) = (true, false, count));
        }
        uring.Close();
    }

    private void MergeOrdered()
    {
        IoUring uring = NewRing();
        for (int from = 0; from < _ordered;)
        {
            if (!Await(() => _windowReady)) break;
            int count = _windowOps, queued = 0;
            bool synced = false;
            for (int i = 0; i < count;)
            {
                CowOp first = Op(from + i);
                int run = 1;
                while (i + run < count && Op(from + i + run).NewBlock == first.NewBlock + run) run++;
                Prepare(uring, new IoUringSqe
                {
                    Opcode = IORING_OP_WRITE,
                    Flags = IOSQE_ASYNC | IOSQE_IO_LINK,
                    Fd = _baseFd,
                    Off = (ulong)first.NewBlock * CowOp.BlockSize,
                    Addr = (ulong)(_head + DataOffset + ((nint)i * CowOp.BlockSize)),
                    Len = (uint)(run * CowOp.BlockSize),
                    UserData = (ulong)(run * CowOp.BlockSize),
                });
                queued++;
                i += run;
                if (queued < RingDepth && i < count) continue;
                if (i == count && queued < RingDepth)
                {
                    Prepare(uring,
                        new IoUringSqe { Opcode = IORING_OP_FSYNC, Flags = IOSQE_IO_DRAIN | IOSQE_IO_LINK | IOSQE_ASYNC, Fd = _baseFd });
                    queued++;
                    synced = true;
                }
                Enter(uring, queued, 0);
                Reap(uring, queued);
                queued = 0;
            }
            if (!synced && Libc.FSync(_baseFd) < 0) throw new IOException("fsync of the base");
            from += count;
            Commit(from);
            Tell(() => (_windowReady, _windowMerged) = (false, true));
        }
        uring.Close();
    }

    private void MergeOthers()
    {
        using UnitDecoder decoder = new(_cow.Compression);
        byte[] batch = GC.AllocateUninitializedArray<byte>(BatchBlocks * CowOp.BlockSize, pinned: true);
        byte[] stored = new byte[CowHeader.MaxUnitBytesLimit];
        int uncounted = 0;
        for (int position = _ordered; position < _cow.Order.Count;)
        {
            CowOp op = Op(position);
            long start = (long)op.NewBlock * CowOp.BlockSize;
            int filled = 0;
            while (true)
            {
                Span<byte> room = batch.AsSpan(filled, op.UnitBytes);
                if (op.Type == CowOpType.Zero) room.Clear();
                else Decode(decoder, op, stored, room);
                filled += op.UnitBytes;
                uncounted++;
                if (++position == _cow.Order.Count) break;
                op = Op(position);
                if ((long)op.NewBlock * CowOp.BlockSize != start + filled || filled + op.UnitBytes > batch.Length) break;
            }
            if (Libc.PWrite(_baseFd, batch.AsSpan(0, filled), start) != filled) throw new IOException("pwrite of the base");
            if (uncounted < CommitOps && position < _cow.Order.Count) continue;
            if (Libc.FSync(_baseFd) < 0) throw new IOException("fsync of the base");
            Commit(position);
            uncounted = 0;
        }
    }

    private void Decode(UnitDecoder decoder, in CowOp op, byte[] stored, Span<byte> unit)
    {
        Span<byte> payload = stored.AsSpan(0, op.DataLength);
        if (Libc.PRead(_cowFd, payload, op.DataOffset) != payload.Length) throw new IOException("pread of the COW");
        int result = decoder.Decode(_cow.AlgorithmOf(op), payload, unit);
        if (result < 0) throw new InvalidDataException(UnitDecoder.Describe(result));
    }

    private void Commit(int count)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(Head[CowHeader.MergeCountOffset..], (ulong)count);
        if (_ordered > 0) Head[StateOffset] = StateInProgress;
        Sync(4096);
    }

    private void Sync(nint bytes)
    {
        if (msync(_head, bytes, MS_SYNC) < 0) throw new IOException("msync of the COW");
    }

    private static IoUring NewRing()
    {
        int result = IoUring.Open(RingDepth, 0, 0, out IoUring? uring);
        return result == 0 ? uring! : throw new IOException($"no ring for the peer: {Errno.Name(result)}");
    }

    private static void Prepare(IoUring uring, in IoUringSqe request)
    {
        if (!uring.Ring.TryPrepare(request)) throw new IOException("the peer's ring is full");
    }

    private static void Enter(IoUring uring, int submit, uint complete)
    {
        for (int done = 0; done < submit;)
        {
            int taken = uring.Ring.Enter(complete);
            if (taken < 0 && taken != -Errno.EINTR) throw new IOException($"io_uring_enter: {Errno.Name(taken)}");
            done += Math.Max(0, taken);
        }
    }

    private static void Reap(IoUring uring, int count)
    {
        while (count > 0)
        {
            if (!uring.Ring.TryReap(out IoUringCqe completion))
            {
                int taken = uring.Ring.Enter(1);
                if (taken < 0 && taken != -Errno.EINTR) throw new IOException($"io_uring_enter: {Errno.Name(taken)}");
                continue;
            }
            if (completion.Res != (int)completion.UserData)
                throw new IOException($"a request of {completion.UserData} bytes ended with {completion.Res}");
            count--;
        }
    }

    private static int Open(string path)
    {
        int fd = Libc.OpenAt(Libc.AT_FDCWD, path, Libc.O_RDWR | Libc.O_CLOEXEC);
        return fd >= 0 ? fd : throw new IOException($"cannot open {path}: {Errno.Name(fd)}");
    }

    // Allocated as pinned, so the address stays valid.
    private static void* Unsafe(byte[] pinned) =>
        System.Runtime.CompilerServices.Unsafe.AsPointer(ref MemoryMarshal.GetArrayDataReference(pinned));

    private const int MS_SYNC = 4;

    [DllImport("libc", SetLastError = true)]
    private static extern int msync(nint address, nint length, int flags);
}
