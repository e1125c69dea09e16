using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>Bounds on the speed of a merge of one COW, each for one resource (README).</summary>
internal static class Ceilings
{
    private const int Large = 1 << 20;

    /// <summary>
    /// (a) The engine's own requests, repeated without any work between them: same ring, same memory, same order. A write waits for the
    /// reads that had ended before it was queued, a flush for the writes, and everything for the flushes. Because memory is finite, a
    /// request is queued only after as many requests have ended as had ended in the trace. Returns seconds.
    /// </summary>
    internal static double Replay(Place place, Trace trace, EngineChoices choices)
    {
        long start = Stopwatch.GetTimestamp();
        using (Devices devices = choices.Open(place.Cow, place.Base))
        {
            List<TracedRequest> requests = trace.Requests;
            bool[] ended = new bool[requests.Count];
            int[] reads = Of(trace, BlockVerb.Read), writes = Of(trace, BlockVerb.Write), flushes = Of(trace, BlockVerb.Flush);
            int endedCount = 0, readsEnded = 0, writesEnded = 0, flushesEnded = 0;
            BlockCompletion[] completions = new BlockCompletion[devices.Queue.Depth];

            for (int i = 0; i < requests.Count; i++)
            {
                TracedRequest request = requests[i];
                while (!IsFree(request) || !devices.Queue.TryQueue(request.Request with { Tag = (uint)i })) Wait();
            }
            while (endedCount < requests.Count) Wait();

            bool IsFree(in TracedRequest request) => endedCount >= request.Ended && flushesEnded >= request.FlushesEnded
                && request.Request.Verb switch
                {
                    BlockVerb.Write => readsEnded >= request.ReadsEnded,
                    BlockVerb.Flush => writesEnded >= request.WritesEnded,
                    _ => true,
                };

            void Wait()
            {
                int count = devices.Queue.Wait(completions);
                if (count < 0) throw new IOException($"replay: the queue failed: {count}");
                foreach (BlockCompletion completion in completions.AsSpan(0, count))
                {
                    if (completion.Result < 0)
                        throw new IOException($"replay: {requests[(int)completion.Tag].Request} ended with {completion.Result}");
                    ended[completion.Tag] = true;
                    endedCount++;
                }
                while (readsEnded < reads.Length && ended[reads[readsEnded]]) readsEnded++;
                while (writesEnded < writes.Length && ended[writes[writesEnded]]) writesEnded++;
                while (flushesEnded < flushes.Length && ended[flushes[flushesEnded]]) flushesEnded++;
            }
        }
        return Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    /// <summary>
    /// (b) Reads every needed byte once and writes every block of the target once, both in ascending order, with requests of up to 1 MiB in
    /// parallel, and flushes once at the end. The written bytes are not those of the target. Returns seconds.
    /// </summary>
    internal static double Ideal(Place place, IdealTrace ideal, bool direct)
    {
        DeviceAccess access = Devices.Alone | (direct ? DeviceAccess.Direct : 0);
        const int depth = 32;
        long start = Stopwatch.GetTimestamp();
        using (Devices devices = new([(place.Cow, access), (place.Base, access)], depth * Large, depth))
        {
            Stack<int> free = new(depth);
            for (int slot = depth - 1; slot >= 0; slot--) free.Push(slot);
            BlockCompletion[] completions = new BlockCompletion[depth];
            // Neither list waits for the other; they advance at the same rate, because a machine reads and writes at the same time.
            int read = 0, written = 0;
            long readBytes = 0, writtenBytes = 0;
            List<(int Device, long Offset, int Length)> reads = direct ? ideal.AlignedReads : ideal.Reads, writes = ideal.Writes;
            while (read < reads.Count || written < writes.Count)
            {
                bool reading = written == writes.Count
                    || (read < reads.Count && (double)readBytes / ideal.ReadBytes <= (double)writtenBytes / ideal.WriteBytes);
                (int device, long offset, int length) = reading ? reads[read] : writes[written];
                while (free.Count == 0) Wait();
                int slot = free.Pop();
                devices.Queue.TryQueue(new BlockRequest(reading ? BlockVerb.Read : BlockVerb.Write, device, offset,
                    new Slice(slot * Large, length), (uint)slot));
                if (reading) (read, readBytes) = (read + 1, readBytes + length);
                else (written, writtenBytes) = (written + 1, writtenBytes + length);
            }
            while (free.Count < depth) Wait();
            devices.Queue.TryQueue(new BlockRequest(BlockVerb.Flush, 1, 0, default, (uint)free.Pop()));
            Wait();

            void Wait()
            {
                int count = devices.Queue.Wait(completions);
                if (count < 0) throw new IOException($"ideal trace: the queue failed: {count}");
                foreach (BlockCompletion completion in completions.AsSpan(0, count))
                {
                    if (completion.Result < 0) throw new IOException($"ideal trace: a request ended with {completion.Result}");
                    free.Push((int)completion.Tag);
                }
            }
        }
        return Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    /// <summary>
    /// (c) Decodes every compressed unit once, from memory to memory, with one thread per core. Returns seconds; 0 if nothing is
    /// compressed.
    /// </summary>
    internal static double Codec(byte[] file, List<CowOp> units, CowCompression algorithm, int threads)
    {
        if (units.Count == 0) return 0;
        // The batch is small enough that the threads end together, and large enough that they rarely contend for the counter.
        const int batch = 32;
        int next = 0;
        Exception? failure = null;
        long start = Stopwatch.GetTimestamp();
        Thread[] all = new Thread[threads];
        for (int i = 0; i < threads; i++)
        {
            all[i] = new Thread(() =>
            {
                using UnitDecoder decoder = new(algorithm);
                byte[] room = new byte[CowHeader.MaxUnitBytesLimit];
                for (int at; (at = Interlocked.Add(ref next, batch) - batch) < units.Count;)
                {
                    for (int unit = at; unit < Math.Min(at + batch, units.Count); unit++)
                    {
                        CowOp op = units[unit];
                        int result = decoder.Decode(algorithm, file.AsSpan((int)op.DataOffset, op.DataLength),
                            room.AsSpan(0, op.UnitBytes));
                        if (result < 0) failure = new InvalidDataException($"{op}: {UnitDecoder.Describe(result)}");
                    }
                }
            });
            all[i].Start();
        }
        foreach (Thread thread in all) thread.Join();
        if (failure != null) throw failure;
        return Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    private static int[] Of(Trace trace, BlockVerb verb)
    {
        List<int> ends = [];
        foreach (int index in trace.Ends)
            if (trace.Requests[index].Request.Verb == verb) ends.Add(index);
        return ends.ToArray();
    }
}

/// <summary>The reads and writes of the ideal trace of a COW.</summary>
internal sealed class IdealTrace
{
    private const int Large = 1 << 20;

    // The alignment for direct I/O: no file system requires more than a page.
    private const int Aligned = 4096;

    internal IdealTrace(CowFile cow)
    {
        List<(long, long)> sources = [], targets = [];
        for (int i = 0; i < cow.OpCount; i++)
        {
            CowOp op = cow[i];
            if (op.IsOrdered) sources.Add((op.SourceByte, CowOp.BlockSize));
            targets.Add(((long)op.NewBlock * CowOp.BlockSize, op.UnitBytes));
        }
        // The whole COW except its scratch is read, because a merge needs all ops and payloads.
        List<(long, long)> file = [(0, CowOp.BlockSize), (cow.Header.ScratchEnd, cow.Length - cow.Header.ScratchEnd)];
        Cut(Reads, 0, Ranges.Joined(file), 1);
        Cut(Reads, 1, Ranges.Joined(sources), 1);
        Cut(AlignedReads, 0, Ranges.Joined(file), Aligned);
        Cut(AlignedReads, 1, Ranges.Joined(sources), Aligned);
        Cut(Writes, 1, Ranges.Joined(targets), 1);
        foreach ((int _, long _, int length) in Reads) ReadBytes += length;
        foreach ((int _, long _, int length) in Writes) WriteBytes += length;
    }

    /// <summary>
    /// Device (0 COW, 1 base), offset and length of each request, in ascending order; <see cref="AlignedReads"/> has them aligned for
    /// direct I/O.
    /// </summary>
    internal List<(int Device, long Offset, int Length)> Reads { get; } = [];

    internal List<(int Device, long Offset, int Length)> AlignedReads { get; } = [];

    internal List<(int Device, long Offset, int Length)> Writes { get; } = [];

    internal long ReadBytes { get; }

    internal long WriteBytes { get; }

    private static void Cut(List<(int, long, int)> requests, int device, List<(long Offset, long Length)> ranges, int alignment)
    {
        if (alignment > 1)
        {
            for (int i = 0; i < ranges.Count; i++)
            {
                long from = ranges[i].Offset & -alignment, to = (ranges[i].Offset + ranges[i].Length + alignment - 1) & -alignment;
                ranges[i] = (from, to - from);
            }
            ranges = Ranges.Joined(ranges);
        }
        foreach ((long offset, long length) in ranges)
            for (long done = 0; done < length; done += Large) requests.Add((device, offset + done, (int)Math.Min(Large, length - done)));
    }
}
