using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using Microsoft.Win32.SafeHandles;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Serve;

namespace Snapuserd.Tests.Benchmarks.Merging;

/// <summary>
/// Reads the merged image with one thread in this process, before and after the merge. Compared with reading the same bytes and decoding
/// the same units without other work.
/// </summary>
internal static class Serving
{
    private const int Large = 1 << 20;
    private const int Turns = 3;

    /// <summary>A range that is read from a device into the buffer (<paramref name="Payload"/> false) or into the payload buffer.</summary>
    private readonly record struct Piece(int Device, long Offset, int Length, int At, bool Payload);

    /// <summary>A unit that is decoded completely, from the position of its payload.</summary>
    private readonly record struct Unit(CowCompression Algorithm, int Stored, int StoredLength, int Bytes);

    private sealed record Work(Piece[] Pieces, Unit[] Units);

    internal static void Run(TextWriter output, BenchOptions options, string folder)
    {
        bool headed = false;
        foreach (string name in new[] { "v2-gz", "v2-brotli-xor", "v3-lz4", "v3-zstd-64k-xor", "replace-v3-zstd-64k" })
        {
            if (!options.Wants($"serve {name}")) continue;
            CowVariant variant = Array.Find(CowVariant.All, one => one.Name == name)!;
            string cow = MergeBenchmark.Prepare(output, options, folder, variant);
            if (!headed)
                output.WriteLine("| COW | | 1 MiB sequential, MiB/s | ceiling | ratio | 4 KiB random, k/s | ceiling | ratio | decodes per "
                    + "unit | KiB per reader |\n|---|---|---|---|---|---|---|---|---|---|");
            headed = true;
            Measure(output, options, name, "before", cow, Path.Combine(folder, "old.img"));
            string merged = Path.Combine(Path.GetTempPath(), $"serve-{Environment.ProcessId}.cow");
            try
            {
                Merged(cow, merged);
                Measure(output, options, name, "after", merged, Path.Combine(folder, $"new-{variant.Mix}.img"));
            }
            finally
            {
                File.Delete(merged);
            }
            output.Flush();
        }
    }

    /// <summary>Writes the COW as a finished merge leaves it: with the count of all ops.</summary>
    private static void Merged(string cow, string to)
    {
        File.Copy(cow, to, overwrite: true);
        using Devices devices = new(to);
        using CowFile file = devices.ReadCow();
        byte[] count = new byte[sizeof(long)];
        BinaryPrimitives.WriteInt64LittleEndian(count, file.Order.Count);
        using FileStream stream = File.OpenWrite(to);
        stream.Position = CowHeader.MergeCountOffset;
        stream.Write(count);
    }

    private static void Measure(TextWriter output, BenchOptions options, string name, string when, string cowPath, string basePath)
    {
        using Devices devices = new([(cowPath, DeviceAccess.Read), (basePath, DeviceAccess.Read)], 8 << 20);
        using WorkQueue<DecodeJob> workers = new(1, 8, () => new DecodeWorker(), devices.WakeUp);
        MergeDevice target = new(1, basePath, devices[1].Length);
        MergeSetup setup = new()
        {
            Io = new IoScheduler(devices.Queue, devices.Granules),
            Arena = devices.Arena,
            Workers = workers,
            Time = new MonotonicClock(),
            Cow = new MergeDevice(0, cowPath, devices[0].Length),
            Base = target,
            Source = target,
            Readers = new ReaderGate(devices.WakeUp),
        };
        using MergeEngine engine = MergeEngine.Open(setup);
        engine.Open();
        using SnapshotView view = new(engine, setup, 1 << 20);
        BlockDevice[] both = [devices[0], devices[1]];
        using ReadContext context = new(view, both, 1, Large);
        bool merged = setup.Readers.Locations.Counted == engine.Cow.Order.Count;

        long[] sequential = new long[view.Length / Large], random = new long[options.Quick ? 5000 : 20000];
        Random chance = new(1);
        for (int i = 0; i < sequential.Length; i++) sequential[i] = (long)i * Large;
        for (int i = 0; i < random.Length; i++) random[i] = chance.NextInt64(view.Length / 4096) * 4096;
        (double ours, double ceiling, double decodes) large = Compare(options, engine.Cow, both, context, sequential, Large, merged),
            small = Compare(options, engine.Cow, both, context, random, 4096, merged);
        output.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"| {name} | {when} | {sequential.Length / large.ours:F0} | {sequential.Length / large.ceiling:F0} | "
            + $"{large.ceiling / large.ours:F2} | {random.Length / small.ours / 1000:F0} | {random.Length / small.ceiling / 1000:F0} | "
            + $"{small.ceiling / small.ours:F2} | {large.decodes:F3} | {ReadContext.Bytes(view, 1, Large) >> 10} |"));
    }

    /// <summary>Medians in seconds, measured in turns, and decodes per unit.</summary>
    private static (double Ours, double Ceiling, double Decodes) Compare(BenchOptions options, CowFile cow, BlockDevice[] devices,
        ReadContext context, long[] offsets, int length, bool merged)
    {
        Work[] work = Array.ConvertAll(offsets, offset => Plan(cow, offset, length, merged));
        HashSet<long> units = [];
        foreach (Work one in work)
            foreach (Piece piece in one.Pieces)
                if (piece.Payload) units.Add(piece.Offset);
        int runs = Math.Max(Turns, options.Runs);
        double[] ours = new double[runs], ceiling = new double[runs];
        long decodes = 0, expected = 0;
        foreach (Work one in work) expected += one.Units.Length;
        // Plain descriptors, like those of a program that does nothing else.
        using SafeFileHandle cowFile = File.OpenHandle(devices[0].Path), baseFile = File.OpenHandle(devices[1].Path);
        int[] descriptors = [(int)cowFile.DangerousGetHandle(), (int)baseFile.DangerousGetHandle()];
        byte[] buffer = new byte[Large + (256 << 10)], stored = new byte[4 << 20];
        using UnitDecoder decoder = new(cow.Compression);
        for (int run = -1; run < runs; run++)
        {
            long start = Stopwatch.GetTimestamp();
            foreach (Work one in work) Bare(one, descriptors, buffer, stored, decoder);
            double bare = Stopwatch.GetElapsedTime(start).TotalSeconds;
            long before = context.Reader.Decodes;
            start = Stopwatch.GetTimestamp();
            foreach (long offset in offsets)
                if (context.Reader.Read(offset, context.Buffer(0).Part(0, length)) != length)
                    throw new IOException($"the read at {offset} failed");
            double view = Stopwatch.GetElapsedTime(start).TotalSeconds;
            decodes = context.Reader.Decodes - before;
            if (run >= 0) (ours[run], ceiling[run]) = (view, bare);
        }
        return (Times.Of(ours).Median, Times.Of(ceiling).Median, expected == 0 ? 0 : (double)decodes / expected);
    }

    /// <summary>
    /// The reads and decodes of a range. A unit that begins before the range counts for the range in which it begins, unless the request is
    /// a single block.
    /// </summary>
    private static Work Plan(CowFile cow, long offset, int length, bool merged)
    {
        List<Piece> pieces = [];
        List<Unit> units = [];
        int stored = 0;
        for (long at = offset; at < offset + length;)
        {
            int position = merged ? -1 : cow.Order.PositionWriting(at / CowOp.BlockSize), into = (int)(at - offset);
            if (position < 0)
            {
                Add(pieces, new Piece(1, at, CowOp.BlockSize, into, false));
                at += CowOp.BlockSize;
                continue;
            }
            CowOp op = cow[cow.Order.OpIndex(position)];
            bool begins = op.NewBlock * (long)CowOp.BlockSize >= offset || length < Large;
            at = Math.Min(offset + length, (op.NewBlock * (long)CowOp.BlockSize) + op.UnitBytes);
            if (op.IsOrdered) Add(pieces, new Piece(1, op.SourceByte, CowOp.BlockSize, into, false));
            if (!op.HasData || !begins) continue;
            CowCompression algorithm = cow.AlgorithmOf(op);
            Add(pieces, algorithm == CowCompression.None && !op.IsOrdered
                ? new Piece(0, op.DataOffset, Math.Min(op.DataLength, length), into, false)
                : new Piece(0, op.DataOffset, op.DataLength, stored, true));
            if (algorithm == CowCompression.None) continue;
            units.Add(new Unit(algorithm, stored, op.DataLength, op.UnitBytes));
            stored += op.DataLength;
        }
        return new Work(pieces.ToArray(), units.ToArray());
    }

    private static void Add(List<Piece> pieces, Piece piece)
    {
        if (pieces.Count > 0 && pieces[^1] is var last && last.Device == piece.Device && last.Payload == piece.Payload
            && last.Offset + last.Length == piece.Offset && last.At + last.Length == piece.At)
            pieces[^1] = last with { Length = last.Length + piece.Length };
        else pieces.Add(piece);
    }

    private static void Bare(Work work, int[] descriptors, byte[] buffer, byte[] stored, UnitDecoder decoder)
    {
        foreach (Piece piece in work.Pieces)
        {
            nint got = Libc.PRead(descriptors[piece.Device], (piece.Payload ? stored : buffer).AsSpan(piece.At, piece.Length),
                piece.Offset);
            if (got != piece.Length) throw new IOException($"{got} bytes of {piece}");
        }
        int at = 0;
        foreach (Unit unit in work.Units)
        {
            if (at + unit.Bytes > buffer.Length) at = 0;
            if (decoder.Decode(unit.Algorithm, stored.AsSpan(unit.Stored, unit.StoredLength), buffer.AsSpan(at, unit.Bytes)) < 0)
                throw new InvalidDataException($"{unit}");
            at += unit.Bytes;
        }
    }
}
