using System;
using System.Collections.Generic;
using System.Globalization;
using System.Text.RegularExpressions;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// The product broke a rule on a hostile file: a crash, a hang, an access out of range, too much memory, or an image that differs from that
/// of the reference reader.
/// </summary>
public sealed class HostileException(string what, Exception? inner = null) : Exception(what, inner);

/// <summary>
/// The outcome for a file: the first rule that it breaks according to the reference reader (null if it has an image), and the product's
/// error message without its numbers.
/// </summary>
public readonly record struct HostileOutcome(string? Rule, string Sentence)
{
    public bool Accepted => Rule == null;
}

/// <summary>
/// Passes one file to everything that reads files: inspect, verify, extract and merge, with and without the check of payloads. Compares
/// each result with that of the reference reader (<see cref="NaiveReader"/>). For one thread.
/// </summary>
public sealed partial class HostileTrial : IDisposable
{
    /// <summary>The most managed bytes per run: what docs/ramdisk.md allows besides --memory, without the bytes per op.</summary>
    private const long ManagedBytes = 16 << 20;

    // Small enough to be filled with garbage for every run, and large enough for any unit and a v2 payload; the minimum of --memory is 8
    // MiB.
    private readonly Arena _small = new(1 << 20);
    private readonly Arena _least = new(8 << 20);
    // Shared by all files: every file must leave a decoder in its initial state.
    private readonly DecodeWorker _smallWorker = new();
    private readonly DecodeWorker _leastWorker = new();

    /// <summary>Runs of the product.</summary>
    public long Runs { get; private set; }

    public void Dispose()
    {
        _smallWorker.Dispose();
        _leastWorker.Dispose();
        _small.Dispose();
        _least.Dispose();
    }

    /// <summary>
    /// Tries <paramref name="file"/> on <paramref name="baseImage"/>; neither is changed. Throws <see cref="HostileException"/>.
    /// </summary>
    public HostileOutcome Try(byte[] file, byte[] baseImage, ulong seed)
    {
        NaiveVerdict verdict = NaiveReader.Judge(file, baseImage);
        string sentence = Inspect(file, verdict);
        Sentence(ref sentence, Verify(file, baseImage, verdict, seed));
        Sentence(ref sentence, Extract(file, baseImage, verdict, seed));
        Sentence(ref sentence, Merge(file, baseImage, verdict, seed, verifyFirst: true));
        Sentence(ref sentence, Merge(file, baseImage, verdict, seed, verifyFirst: false));
        return new HostileOutcome(verdict.ForImage ?? verdict.Payload ?? (verdict.Major == 1 ? "version 1 is not merged" : verdict.InPlace),
            sentence);
    }

    /// <summary>
    /// Tries a COW that changes while it is read: from the <paramref name="from"/>-th read on, <paramref name="lie"/> changes the results.
    /// The right image is then undefined. Still, every range must be valid, every error must have its type, and writes may only go to
    /// blocks of ops that were read.
    /// </summary>
    public HostileOutcome TryLiar(byte[] file, byte[] baseImage, ulong seed, int from, Action<long, Memory<byte>> lie)
    {
        int reads = 0;
        void Lie(int device, long offset, Memory<byte> bytes)
        {
            if (device == 0 && reads++ >= from) lie(offset, bytes);
        }
        byte[] cow = (byte[])file.Clone(), image = (byte[])baseImage.Clone();
        HashSet<long> mayChange = [];
        string sentence = Run("a merge from a liar", cow, image, seed, _small, Lie, setup =>
        {
            using MergeEngine engine =
                MergeEngine.Open(setup with { Options = new MergeOptions { VerifyFirst = (seed & 1) == 0, CheckpointBytes = 3 << 12 } });
            for (int i = 0; i < engine.Cow.OpCount; i++)
                for (int block = 0; block < engine.Cow[i].Blocks; block++) mayChange.Add((long)engine.Cow[i].NewBlock + block);
            engine.Run();
        }, out ExitCode code, out _);
        if (code is not (ExitCode.Done or ExitCode.CowCorrupt or ExitCode.Usage or ExitCode.InUse or ExitCode.OutOfResources))
            throw new HostileException($"a COW that changes while it is read ends with {code}: {sentence}");
        for (int block = 0; block * 4096 < image.Length; block++)
            if (!mayChange.Contains(block) && !Block(image, block).SequenceEqual(Block(baseImage, block)))
                throw new HostileException($"block {block} changed although no op writes it");
        return new HostileOutcome(code == ExitCode.Done ? null : code.ToString(), sentence);
    }

    private static ReadOnlySpan<byte> Block(byte[] image, int block) =>
        image.AsSpan(block * 4096, Math.Min(4096, image.Length - (block * 4096)));

    private static void Sentence(ref string first, string next)
    {
        if (first.Length == 0) first = next;
    }

    /// <summary>
    /// Does what `inspect` does: reads the file, compares its ops with those of the reference reader, walks the raw records, and queries
    /// every property.
    /// </summary>
    private string Inspect(byte[] file, NaiveVerdict verdict)
    {
        Runs++;
        long before = GC.GetAllocatedBytesForCurrentThread();
        CountedSource source = new(file, 64 + (file.Length / 4));
        ExitCode code = ExitCode.Done;
        string sentence = "";
        try
        {
            using CowFile cow = CowFile.Read(source);
            Compare(cow, verdict);
            _ = cow.Order.AndroidCanMerge(out _);
            if (Order(cow) != (verdict.Order == null))
                throw new HostileException(
                    $"the reference reader's verdict on the order is '{verdict.Order ?? "consistent"}'; the product disagrees");
            if (cow.Header.Major >= 2 && verdict.Order == null) _ = MergeForecast.Of(cow, from: (int)cow.Header.NumMergeOps);
            long records = 0;
            CowFile.WalkRecords(source, cow.Header, _ => records++);
            foreach (long block in (ReadOnlySpan<long>)[-1, 0, 1, uint.MaxValue, 1L << 32])
                if (cow.Order.PositionWriting(block) >= 0 != (cow.Order.NextWritten(block) == block))
                    throw new HostileException($"the product's list of written blocks is wrong about block {block}");
        }
        catch (SnapuserdException e)
        {
            (code, sentence) = (e.Code, e.Message);
        }
        catch (Exception e) when (e is not HostileException)
        {
            throw new HostileException($"inspect: {e.GetType().Name}: {e.Message}", e);
        }
        Expect("inspect", code, sentence, verdict.Read, ExitCode.CowCorrupt);
        long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        if (allocated > ManagedBytes) throw new HostileException($"inspect allocates {allocated} bytes");
        return Plain(sentence);
    }

    private static bool Order(CowFile cow)
    {
        try
        {
            cow.Order.Check(sharedDevices: true, default);
            return true;
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.CowCorrupt)
        {
            return false;
        }
    }

    private static void Compare(CowFile cow, NaiveVerdict verdict)
    {
        if (verdict.Read != null) throw new HostileException($"the product reads a file that breaks the rule '{verdict.Read}'");
        if (cow.OpCount != verdict.Ops.Count)
            throw new HostileException($"the product reads {cow.OpCount} ops, the reference reader {verdict.Ops.Count}");
        for (int i = 0; i < cow.OpCount; i++)
        {
            CowOp op = cow[i];
            NaiveOp expected = verdict.Ops[i];
            NaiveOp read = new((int)op.Type, op.NewBlock, op.Blocks, op.Source, op.DataOffset, op.DataLength);
            if (read != expected) throw new HostileException($"the product reads op {i} as {read}, the reference reader as {expected}");
        }
        if (cow.Order.Count != verdict.MergeOrder.Count)
            throw new HostileException(
                $"the product's merge order has {cow.Order.Count} positions, the reference reader's {verdict.MergeOrder.Count}");
        for (int i = 0; i < cow.Order.Count; i++)
            if (cow.Order.OpIndex(i) != verdict.MergeOrder[i])
                throw new HostileException(
                    $"position {i} of the merge order: op {cow.Order.OpIndex(i)}, for the reference reader {verdict.MergeOrder[i]}");
    }

    /// <summary>`verify` without a base.</summary>
    private string Verify(byte[] file, byte[] baseImage, NaiveVerdict verdict, ulong seed)
    {
        byte[] cow = (byte[])file.Clone();
        string sentence = Run("verify", cow, baseImage, seed, _small, null, setup =>
        {
            MergeDevice alone = new(0, "cow", cow.Length);
            using CowFile read = PayloadCheck.Run(setup with { Base = alone, Source = alone });
        }, out ExitCode code, out _);
        // A file that does not fit this base may still be intact.
        Expect("verify", code, sentence, verdict.Read ?? verdict.Order ?? verdict.Payload, ExitCode.CowCorrupt);
        return Plain(sentence);
    }

    /// <summary>`extract`, and `verify` with a base.</summary>
    private string Extract(byte[] file, byte[] baseImage, NaiveVerdict verdict, ulong seed)
    {
        byte[] cow = (byte[])file.Clone(), image = (byte[])baseImage.Clone();
        byte[] made = new byte[image.Length];
        string sentence = Run("extract", cow, image, seed, _small, null, setup =>
        {
            using MergedImage merged = MergedImage.Open(setup);
            int chunks = 0;
            for (long offset = 0; offset < merged.Length;)
            {
                ReadOnlySpan<byte> chunk = merged.Read(offset);
                chunk.CopyTo(made.AsSpan((int)offset));
                offset += chunk.Length;
                if (++chunks > (made.Length / 4096) + 1) throw new HangException("the image does not end");
            }
        }, out ExitCode code, out ByteQueue queue);
        if (queue.Writes[0] + queue.Writes[1] > 0) throw new HostileException("extract writes");
        Expect("extract", code, sentence, verdict.ForImage, ExitCode.CowCorrupt);
        if (code == ExitCode.Done && !verdict.Ambiguous) Compare("extract", made, verdict.Image);
        return Plain(sentence);
    }

    /// <summary>`merge`.</summary>
    private string Merge(byte[] file, byte[] baseImage, NaiveVerdict verdict, ulong seed, bool verifyFirst)
    {
        byte[] cow = (byte[])file.Clone(), image = (byte[])baseImage.Clone();
        bool allowUnsafe = (seed & 8) != 0;
        string name = verifyFirst ? "merge" : "merge --no-verify-first";
        string sentence = Run(name, cow, image, seed, _small, null, setup =>
        {
            using MergeEngine engine = MergeEngine.Open(setup with
            {
                Options = new MergeOptions { VerifyFirst = verifyFirst, AllowUnsafe = allowUnsafe, CheckpointBytes = 3 << 12 },
            });
            engine.Run();
        }, out ExitCode code, out ByteQueue queue);

        string? before = verdict.Read ?? (verdict.Major == 1 ? "version 1 is not merged" : null) ?? verdict.Devices ?? verdict.Order;
        if (before == null && !allowUnsafe && verdict.InPlace != null)
        {
            Expect(name, code, sentence, verdict.InPlace, ExitCode.Usage);
            before = verdict.InPlace;
        }
        else
        {
            before ??= verdict.Scratch ?? (verifyFirst && verdict.Count == 0 ? verdict.Payload : null);
            Expect(name, code, sentence, before ?? verdict.NeededPayload, ExitCode.CowCorrupt);
        }
        if (before != null)
        {
            if (queue.Writes[1] > 0) throw new HostileException($"{name} writes to the base before it fails: {sentence}");
            Compare(name, image, baseImage);
        }
        else if (code == ExitCode.Done)
        {
            if (!verdict.Ambiguous) Compare(name, image, verdict.Image);
            MergeAgain(cow, image, seed);
        }
        else if (!verdict.Ambiguous)
        {
            // Payloads were not checked first, so every block must hold either its old or its new contents.
            for (int block = 0; block * 4096 < image.Length; block++)
                if (!Block(image, block).SequenceEqual(Block(baseImage, block))
                    && !Block(image, block).SequenceEqual(Block(verdict.Image, block)))
                    throw new HostileException($"{name}: block {block} has neither its old nor its new contents after: {sentence}");
        }
        return Plain(sentence);
    }

    /// <summary>A finished merge stays finished, and the next run recognises it.</summary>
    private void MergeAgain(byte[] cow, byte[] image, ulong seed)
    {
        byte[] merged = (byte[])image.Clone();
        string sentence = Run("a second merge", cow, image, seed, _small, null, setup =>
        {
            using MergeEngine engine = MergeEngine.Open(setup);
            if (!engine.Run().AlreadyMerged) throw new HostileException("a second merge does not find the merge finished");
        }, out ExitCode code, out _);
        Expect("a second merge", code, sentence, null, ExitCode.Done);
        Compare("a second merge", image, merged);
    }

    private static void Compare(string name, byte[] image, byte[] right)
    {
        if (image.AsSpan().SequenceEqual(right)) return;
        throw new HostileException($"{name}: block {image.AsSpan().CommonPrefixLength(right) / 4096} differs from the expected image");
    }

    /// <summary>
    /// The product's result must match the reference reader's: exit code 0 if <paramref name="rule"/> is null, else
    /// <paramref name="refusal"/> and a message.
    /// </summary>
    private static void Expect(string name, ExitCode code, string sentence, string? rule, ExitCode refusal)
    {
        ExitCode due = rule == null ? ExitCode.Done : refusal;
        if (code != due) throw new HostileException($"{name} ends with {(int)code} ({sentence}); the rule '{rule}' requires {(int)due}");
        if (code != ExitCode.Done && sentence.Length < 10) throw new HostileException($"{name} refuses without a reason: '{sentence}'");
    }

    private string Run(string name, byte[] cow, byte[] image, ulong seed, Arena arena, Action<int, long, Memory<byte>>? lie,
        Action<MergeSetup> run, out ExitCode code, out ByteQueue queue)
    {
        Runs++;
        arena.Reset();
        if (arena == _small) arena[new Slice(0, 256 << 10)].Fill((byte)seed);
        // A small file needs few requests per page. The limit catches a product that believes the sizes which a file claims.
        queue = new ByteQueue([cow, image], arena, 1 + (int)(seed % 9), seed, 2000 + ((cow.Length + image.Length) / 4), lie);
        InlineWorkQueue<DecodeJob> workers = new(arena == _small ? _smallWorker : _leastWorker, 1 + (int)(seed % 5));
        long before = GC.GetAllocatedBytesForCurrentThread();
        string sentence = "";
        code = ExitCode.Done;
        try
        {
            run(new MergeSetup
            {
                Io = new IoScheduler(queue, [1, 1]),
                Arena = arena,
                Workers = workers,
                Time = new SimTime(seed),
                Cow = new MergeDevice(0, "cow", cow.Length),
                Base = new MergeDevice(1, "base", image.Length),
                Source = new MergeDevice(1, "base", image.Length),
            });
        }
        catch (SnapuserdException e)
        {
            (code, sentence) = (e.Code, e.Message);
        }
        catch (Exception e) when (e is not HostileException)
        {
            throw new HostileException($"{name}: {e.GetType().Name}: {e.Message}", e);
        }
        // Nothing may be in flight after the run, whatever its result.
        queue.Dispose();
        long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        if (allocated > ManagedBytes + image.Length) throw new HostileException($"{name} allocates {allocated} bytes");
        if (code != ExitCode.OutOfResources || arena != _small || lie != null) return sentence;
        // The smallest --memory must be sufficient. If memory is insufficient, the run must fail before the first write.
        if (queue.Writes[0] + queue.Writes[1] > 0)
            throw new HostileException($"{name} writes before it reports insufficient memory: {sentence}");
        return Run(name, cow, image, seed, _least, lie, run, out code, out queue);
    }

    /// <summary>The error message without the file name and without its numbers: the reason.</summary>
    private static string Plain(string sentence) => Numbers().Replace(sentence, "#");

    [GeneratedRegex("(0x)?[0-9a-f]*[0-9][0-9a-f]*")]
    private static partial Regex Numbers();

    private sealed class CountedSource(byte[] bytes, int limit) : IByteSource
    {
        private int _reads;

        public string Name => "cow";

        public long Length => bytes.Length;

        public void Read(long offset, Span<byte> destination)
        {
            if (++_reads > limit) throw new HangException(string.Create(CultureInfo.InvariantCulture, $"more than {limit} reads"));
            bytes.AsSpan(checked((int)offset), destination.Length).CopyTo(destination);
        }
    }
}
