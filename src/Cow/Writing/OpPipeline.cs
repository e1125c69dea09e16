using System;
using Snapuserd.Block;

namespace Snapuserd.Cow;

/// <summary>
/// Moves ops from the caller to the file: payloads are copied, encoded by the workers, and handed to <see cref="IOpWriter"/> in call order.
/// There are two batches. While one is filled, the workers encode the other, which is written when the first is full. So the number of
/// threads affects the time but never the bytes written.
/// </summary>
internal sealed class OpPipeline : IDisposable
{
    /// <summary>
    /// Payload bytes per job. Passing a job to a worker takes some microseconds; encoding this much by lz4 takes about 100. At brotli's
    /// slowest level a job takes 0.1 s, which is still little compared with a batch.
    /// </summary>
    private const int JobBytes = 64 * 1024;

    /// <summary>Ops per batch in addition to those that fill it with payloads: runs of Copy and Zero, which have none.</summary>
    private const int PlainOps = 1024;

    /// <summary>Message of a stopped writer, here and in <see cref="CowWriter"/>.</summary>
    public const string StoppedSentence = "stopped before the COW was whole";

    private readonly IOpWriter _writer;
    private readonly Arena _arena;
    private readonly bool _encodes;
    private readonly WakeUp? _wakeUp;
    private readonly IWorkQueue<EncodeJob> _queue;
    private readonly OpBatch[] _batches = new OpBatch[2];
    private readonly StopFlag? _stop;
    private int _current;

    /// <summary>
    /// Takes its memory from <paramref name="arena"/>, which must have <see cref="MemoryFor"/> bytes free, and starts the threads.
    /// </summary>
    public OpPipeline(IOpWriter writer, Arena arena, CowWriterOptions options)
    {
        _writer = writer;
        _arena = arena;
        _encodes = options.Compression != CowCompression.None;
        _stop = options.Stop;
        Threads = ThreadsFor(options);
        int bytes = AreaBytes(options);
        int capacity = (bytes / CowOp.BlockSize) + PlainOps;
        for (int i = 0; i < 2; i++) _batches[i] = new OpBatch(arena.Take(bytes)!.Value, capacity);
        // In v2 a gz or brotli stream is stored even if it is longer than its block: readers could not recognize a raw block (cow-format
        // §7.1).
        bool rawIfNotSmaller = options.Version == 3 || options.Compression is CowCompression.Lz4 or CowCompression.Zstd;
        IWorker<EncodeJob> MakeWorker() =>
            new EncodeWorker(arena, new UnitEncoder(options.Compression, options.Level, options.MaxUnitBytes), rawIfNotSmaller);
        int jobs = 2 * ((bytes / JobBytes) + 2);
        if (Threads == 1)
        {
            _queue = new InlineWorkQueue<EncodeJob>(MakeWorker(), jobs);
            return;
        }
        _wakeUp = new WakeUp();
        try
        {
            _queue = new WorkQueue<EncodeJob>(Threads, jobs, MakeWorker, _wakeUp);
        }
        catch
        {
            _wakeUp.Dispose();
            throw;
        }
    }

    /// <summary>Encoding threads; 1 is the caller's own.</summary>
    public int Threads { get; }

    /// <summary>Bytes of arena that a pipeline takes, including the cost of alignment.</summary>
    public static long MemoryFor(CowWriterOptions options) => 2 * ((long)AreaBytes(options) + Arena.Alignment);

    /// <summary>Adds a run of Copy or Zero ops.</summary>
    public void Add(CowOpType type, uint newBlock, int blocks, ulong source)
    {
        if (!_batches[_current].HasRoom(0)) Turn();
        _batches[_current].Add(new PendingOp(type, newBlock, blocks, source, default, default));
    }

    /// <summary>Adds a Replace or Xor op with its payload, which is copied.</summary>
    public void Add(CowOpType type, uint newBlock, ulong source, ReadOnlySpan<byte> payload)
    {
        int room = _encodes ? UnitEncoder.Bound(payload.Length) : 0;
        if (!_batches[_current].HasRoom(payload.Length + room)) Turn();
        OpBatch batch = _batches[_current];
        Slice plain = batch.Take(payload.Length);
        payload.CopyTo(_arena[plain]);
        batch.Add(new PendingOp(type, newBlock, payload.Length / CowOp.BlockSize, source, plain, _encodes ? batch.Take(room) : plain));
        batch.UnpostedBytes += payload.Length;
        if (batch.UnpostedBytes >= JobBytes) Post(batch);
    }

    /// <summary>Encodes everything that was added, and passes it to the writer.</summary>
    public void Drain()
    {
        Post(_batches[_current]);
        Emit(_batches[1 - _current]);
        Emit(_batches[_current]);
    }

    /// <summary>Ends the threads. Ops that were not drained are lost.</summary>
    public void Dispose()
    {
        (_queue as IDisposable)?.Dispose();
        _wakeUp?.Dispose();
    }

    private static int AreaBytes(CowWriterOptions options) => (int)AreaBytes(options, ThreadsFor(options));

    /// <summary>Bytes of one of the two areas, which holds at least a unit per thread.</summary>
    private static long AreaBytes(CowWriterOptions options, int threads) =>
        Math.Max(options.BatchBytes / 2, (options.MaxUnitBytes + (long)UnitEncoder.Bound(options.MaxUnitBytes)) * threads);

    /// <summary>The requested number of threads if areas and contexts fit twice the batch memory, else as many as fit.</summary>
    private static int ThreadsFor(CowWriterOptions options)
    {
        if (options.Compression == CowCompression.None) return 1;
        long context = UnitEncoder.ContextBytes(options.Compression, options.Level, options.MaxUnitBytes);
        int threads = options.Threads;
        while (threads > 1 && (2 * AreaBytes(options, threads)) + (context * threads) > 2L * options.BatchBytes) threads--;
        return threads;
    }

    /// <summary>
    /// Called when the current batch is full. Posts it for encoding, then writes and empties the other batch, which becomes the current
    /// one.
    /// </summary>
    private void Turn()
    {
        Post(_batches[_current]);
        _current = 1 - _current;
        Emit(_batches[_current]);
    }

    private void Post(OpBatch batch)
    {
        int count = batch.Count - batch.Posted;
        if (_encodes && batch.UnpostedBytes > 0)
        {
            var job = new EncodeJob(batch, batch.Posted, count);
            uint tag = batch == _batches[0] ? 0u : 1u;
            while (!_queue.TryPost(job, tag)) Reap();
            batch.Jobs++;
        }
        batch.Posted += count;
        batch.UnpostedBytes = 0;
    }

    private void Emit(OpBatch batch)
    {
        while (batch.Jobs > 0) Reap();
        foreach (ref readonly PendingOp op in batch.Ops.AsSpan(0, batch.Count)) _writer.Add(op, _arena[op.Stored]);
        batch.Clear();
    }

    private void Reap()
    {
        // With the slowest codecs the posted jobs take seconds; a stop request does not wait for them.
        if (_stop is { Requested: true }) throw new SnapuserdException(ExitCode.Interrupted, StoppedSentence);
        _queue.WaitForEnd();
        if (!_queue.TryReap(out uint tag, out int result)) return;
        _batches[tag].Jobs--;
        if (result == WorkQueue<EncodeJob>.Crashed)
            throw new SnapuserdException(ExitCode.Internal, $"an encoding thread failed: {(_queue as WorkQueue<EncodeJob>)?.FirstCrash}");
        if (result < 0)
            throw new SnapuserdException(ExitCode.OutOfResources, $"the encoder failed with {result}, most likely without memory");
    }
}
