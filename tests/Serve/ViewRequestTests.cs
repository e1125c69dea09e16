using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Serve;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Serve;

/// <summary>
/// Tests which requests a read of the view sends to the devices, in which rounds, and which units it caches for the next read.
/// </summary>
public sealed class ViewRequestTests
{
    private const int Block = CowOp.BlockSize;

    /// <summary>The limits of a round: the number of requests or payloads, and the bytes of payloads.</summary>
    private const int MostPieces = 256, StoredBytes = 128 << 10;

    [Fact]
    public void Data_adjacent_on_the_device_and_in_the_image_is_one_request()
    {
        byte[] old = SmallCases.Random(1, 16);
        CowBuilder cow = new CowBuilder().Zero(4).Replace(8, SmallCases.Random(2, 1)).Copy(10, 2).Copy(11, 3).Copy(12, 9);
        using ViewFixture fixture = new(cow.Build(), old);
        using Requests requests = new(fixture, NaiveMerger.Merge(cow, old));
        long raw = cow.DataOffsets[1];
        requests.Check(0, 16 * Block,
            [[(1, 0, 4 * Block), (1, 5 * Block, 3 * Block), (0, raw, Block), (1, 9 * Block, Block), (1, 2 * Block, 2 * Block),
                (1, 9 * Block, Block), (1, 13 * Block, 3 * Block)]]);
        // Reads that include a single byte of the next or previous block with an op.
        requests.Check(3 * Block, Block + 1, [[(1, 3 * Block, Block)]]);
        requests.Check((3 * Block) + 1, Block - 1, [[(1, (3 * Block) + 1, Block - 1)]]);
        requests.Check((5 * Block) - 1, Block + 1, [[(1, 5 * Block, Block)]]);
        requests.Check(5 * Block, (3 * Block) + 100, [[(1, 5 * Block, 3 * Block), (0, raw, 100)]]);
        requests.Check((5 * Block) + 100, 3 * Block, [[(1, (5 * Block) + 100, (3 * Block) - 100), (0, raw, 100)]]);
        requests.Check((8 * Block) + 7, Block, [[(0, raw + 7, Block - 7), (1, 9 * Block, 7)]]);
        requests.Check((12 * Block) + 7, 9, [[(1, (9 * Block) + 7, 9)]]);
        requests.Check(4 * Block, Block, []);
        fixture.Engine.Run();
        requests.Check(0, 16 * Block, [[(1, 0, 16 * Block)]]);
        requests.Check((4 * Block) + 1, 8 * Block, [[(1, (4 * Block) + 1, 8 * Block)]]);
    }

    [Fact]
    public void Round_has_at_most_256_requests()
    {
        const int Blocks = 300;
        byte[] old = SmallCases.Random(1, 2 * Blocks);
        CowBuilder cow = new();
        for (uint i = 0; i < Blocks; i++) cow.Copy(i, (2 * Blocks) - 1 - i);
        byte[] target = NaiveMerger.Merge(cow, old);
        using ViewFixture fixture = new(cow.Build(), old);
        using (Requests requests = new(fixture, target))
        {
            requests.Read(0, Blocks * Block);
            Assert.Equal([MostPieces, Blocks - MostPieces], requests.Rounds.Select(round => round.Count));
        }
        // A queue with a smaller depth gets the requests of a round in several groups.
        using Requests narrow = new(fixture, target, depth: 16);
        narrow.Read(0, Blocks * Block);
        Assert.Equal(Blocks, narrow.Rounds.Sum(round => round.Count));
        Assert.All(narrow.Rounds, round => Assert.InRange(round.Count, 1, 16));
    }

    [Fact]
    public void Round_has_at_most_256_payloads_and_adjacent_ones_are_one_request()
    {
        const int Blocks = 300;
        byte[] old = SmallCases.Random(1, Blocks);
        CowBuilder cow = new() { Compression = CowCompression.Lz4 };
        for (uint i = 0; i < Blocks; i++) cow.Replace(i, Filled((byte)i));
        using ViewFixture fixture = new(cow.Build(), old);
        using Requests requests = new(fixture, NaiveMerger.Merge(cow, old));
        int[] lengths = [.. Enumerable.Range(0, Blocks).Select(i => fixture.View.Cow[i].DataLength)];
        int first = lengths.Take(MostPieces).Sum();
        requests.Check(0, Blocks * Block, [[(0, cow.DataOffsets[0], first)], [(0, cow.DataOffsets[MostPieces], lengths.Sum() - first)]]);
        Assert.Equal(Blocks, requests.Reader.Decodes);
    }

    /// <summary>An Xor takes two requests, which must be in the same round.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Payload_and_source_of_an_xor_are_read_in_the_same_round(bool odd)
    {
        const int Blocks = 131;
        byte[] old = SmallCases.Random(1, Blocks), source = SmallCases.Random(2, 2 * Blocks);
        CowBuilder cow = new() { Compression = CowCompression.Lz4 };
        // Neither the payloads nor the sources are adjacent in image order.
        for (uint i = Blocks - 1; i > 0; i--) cow.Xor(i, (ulong)((2 * Blocks) - 1 - i) * Block, Filled((byte)i));
        if (odd) cow.Copy(0, 5);
        byte[] target = NaiveMerger.Merge(cow.Ops, source, old);
        using ViewFixture fixture = new(cow.Build(), old, source: source);
        using Requests requests = new(fixture, target);
        int from = odd ? 0 : Block;
        requests.Read(from, (Blocks * Block) - from);
        Assert.Equal(odd ? [MostPieces - 1, 6] : [MostPieces, 4], requests.Rounds.Select(round => round.Count));
        Assert.Equal(Blocks - 1, requests.Reader.Decodes);
    }

    [Theory]
    [InlineData(0, 1)]
    [InlineData(1, 2)]
    public void Round_uses_the_payload_memory_up_to_the_last_byte(int over, int rounds)
    {
        const int Raw = 31, Half = 2000;
        byte[] old = SmallCases.Random(1, Raw + 2), source = SmallCases.Random(2, Raw + 2);
        CowBuilder cow = new() { Compression = CowCompression.Lz4 };
        for (uint i = 0; i < Raw; i++) cow.Xor(i, i * Block, SmallCases.Random(i + 5, 1));
        cow.Xor(Raw, Raw * Block, Sized(Half)).Xor(Raw + 1, (Raw + 1) * Block, Sized(Block - Half + over));
        using ViewFixture fixture = new(cow.Build(), old, source: source);
        using Requests requests = new(fixture, NaiveMerger.Merge(cow.Ops, source, old));
        Assert.Equal(Block - Half + over, fixture.View.Cow[Raw + 1].DataLength);
        requests.Read(0, (Raw + 2) * Block);
        int first = over == 0 ? StoredBytes : StoredBytes - Block + Half;
        Assert.Equal((rounds, (0, cow.DataOffsets[0], first)), (requests.Rounds.Count, requests.Rounds[0][0]));
        // The source of a partly requested Xor also takes a block of the payload memory.
        requests.Rounds.Clear();
        requests.Read(100, (Raw * Block) - 100);
        Assert.Single(requests.Rounds);
        requests.Rounds.Clear();
        requests.Read(100, ((Raw + 1) * Block) - 100);
        Assert.Equal(2, requests.Rounds.Count);
    }

    [Fact]
    public void Part_of_a_unit_is_decoded_once_and_a_whole_block_each_time()
    {
        byte[] old = SmallCases.Random(1, 8);
        CowBuilder cow = new() { Compression = CowCompression.Lz4 };
        cow.Replace(0, Filled(1)).Replace(2, [.. Filled(2), .. Filled(3)]).Replace(4, Filled(4));
        using ViewFixture fixture = new(cow.Build(), old);
        using Requests requests = new(fixture, NaiveMerger.Merge(cow, old));
        int decodes = 0;
        Decoded(0, Block, 1);
        Decoded(0, Block, 1);
        Decoded(1, Block - 1, 1);
        Decoded(0, Block - 1, 0);
        Decoded(Block - 1, 1, 0);
        Decoded(0, Block, 1);
        Decoded(2 * Block, 2 * Block, 1);
        Decoded(3 * Block, Block, 1);
        Decoded(2 * Block, Block, 0);
        Decoded(2 * Block, 2 * Block, 0);
        Decoded((3 * Block) - 5, 10, 0);
        Decoded(3 * Block, Block + 1, 1);

        void Decoded(long offset, int length, int more)
        {
            requests.Rounds.Clear();
            requests.Read(offset, length);
            Assert.Equal(decodes += more, requests.Reader.Decodes);
            Assert.Equal(more, requests.Rounds.Count);
        }
    }

    [Fact]
    public void Only_counted_ops_are_read_from_the_base()
    {
        byte[] old = SmallCases.Random(1, 6), payload = SmallCases.Random(2, 4);
        CowBuilder cow = new();
        for (uint i = 0; i < 4; i++) cow.Replace(i, payload.AsSpan((int)i * Block, Block));
        using ViewFixture fixture = new(cow.Build(), old);
        for (int counted = 0; counted <= 4; counted++)
        {
            fixture.Gate.Publish(new OpLocations(counted, 0));
            using Requests requests =
                new(fixture, [.. old.AsSpan(0, counted * Block), .. payload.AsSpan(counted * Block), .. old.AsSpan(4 * Block)]);
            requests.Read(0, 6 * Block);
            requests.Read(10, (6 * Block) - 20);
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Damaged_payload_fails_a_read_of_all_or_a_part_with_the_reason(bool xor)
    {
        byte[] old = SmallCases.Random(1, 4);
        CowBuilder cow = new() { Compression = CowCompression.Gz };
        if (xor) cow.Xor(1, 3 * Block, Filled(1)).Xor(2, 3 * Block, Filled(2));
        else cow.Replace(1, Filled(1)).Replace(2, Filled(2));
        byte[] target = NaiveMerger.Merge(cow, old), file = cow.Build();
        file.AsSpan((int)cow.DataOffsets[0], 4).Fill(0xff);
        using ViewFixture fixture = new(file, old);
        using Requests requests = new(fixture, target);
        string op = fixture.View.Cow.Describe(0), reason = UnitDecoder.Describe((int)UnitError.Corrupt);
        CowOp damaged = fixture.View.Cow[0];
        foreach ((int from, int length) in ((int, int)[])[(Block, Block), (Block + 10, 100), (0, 4 * Block)])
        {
            Assert.Equal(-Errno.EIO, requests.Reader.Read(from, requests.Buffer.Part(0, length)));
            Assert.Equal($"{fixture.Devices[0].Path}: {op}: its payload of {damaged.DataLength} bytes at {damaged.DataOffset}: {reason}; a "
                + $"read of {length} bytes at {from} gets an I/O error", fixture.Failure);
        }
        requests.Read(2 * Block, 2 * Block);
        Assert.Equal(3, fixture.View.Failures);
    }

    [Fact]
    public void Device_that_ends_early_is_named()
    {
        byte[] old = SmallCases.Random(1, 8), source = SmallCases.Random(2, 8);
        CowBuilder cow = new CowBuilder().Copy(0, 6).Replace(1, SmallCases.Random(3, 1));
        using ViewFixture fixture = new(cow.Build(), old, source: source);
        using Requests requests = new(fixture, old);
        foreach ((int device, int block, long at) in ((int, int, long)[])[(0, 1, cow.DataOffsets[1]), (1, 5, 5 * Block), (2, 0, 6 * Block)])
        {
            using (FileStream stream = new(fixture.Devices[device].Path, FileMode.Open, FileAccess.Write, FileShare.ReadWrite))
                stream.SetLength(at + 100);
            Assert.Equal(-Errno.EIO, requests.Reader.Read(block * Block, requests.Buffer.Part(0, Block)));
            Assert.StartsWith($"{fixture.Devices[device].Path}: reading {Block - 100} bytes at {at + 100} failed: ", fixture.Failure,
                StringComparison.Ordinal);
            Assert.EndsWith($"; a read of {Block} bytes at {block * Block} gets an I/O error", fixture.Failure, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Reader_has_a_fixed_number_of_concurrent_reads()
    {
        byte[] old = SmallCases.Random(1, 8);
        using ViewFixture fixture = new(new CowBuilder().Build(), old);
        Assert.Throws<ArgumentOutOfRangeException>(() => new Requests(fixture, old, reads: 0));
        using Requests requests = new(fixture, old, reads: 3);
        ViewReader reader = requests.Reader;
        for (int i = 0; i < 3; i++)
        {
            Assert.Equal((i, true), (reader.Count, reader.HasRoom));
            Begin(i);
        }
        Assert.Equal((3, false), (reader.Count, reader.HasRoom));
        Assert.Equal("3 reads are under way already", Assert.Throws<InvalidOperationException>(() => Begin(3)).Message);
        Assert.False(reader.TryReap(out ViewCompletion completion));
        Assert.Equal(default, completion);
        reader.Wait();
        List<uint> ended = [];
        for (int i = 3; i < 8; i++)
        {
            Reap();
            Begin(i);
        }
        while (reader.Count > 0) Reap();
        Assert.Equal([0u, 1u, 2u, 3u, 4u, 5u, 6u, 7u], ended.Order());
        Assert.Equal(old, requests.Bytes(8 * Block));
        Assert.False(reader.TryReap(out _));

        void Begin(int block) => reader.Begin(block * Block, requests.Buffer.Part(block * Block, Block), (uint)block);

        void Reap()
        {
            while (!reader.TryReap(out completion)) reader.Wait();
            Assert.Equal(Block, completion.Result);
            ended.Add(completion.Tag);
        }
    }

    [Fact]
    public void Disposed_reader_waits_for_its_requests_and_leaves_the_gate()
    {
        byte[] old = SmallCases.Random(1, 8);
        using ViewFixture fixture = new(new CowBuilder().Copy(0, 1).Build(), old);
        using Requests requests = new(fixture, old, reads: 3);
        for (int i = 0; i < 3; i++) requests.Reader.Begin(i * Block, requests.Buffer.Part(i * Block, Block), (uint)i);
        fixture.Gate.Publish(fixture.Gate.Locations);
        Assert.False(fixture.Gate.IsDone);
        requests.Reader.Dispose();
        Assert.True(fixture.Gate.IsDone);
        Assert.Equal((0, 0), (requests.Reader.Count, requests.InFlight));
        // A read that never began or has ended has nothing to release.
        using (Requests idle = new(fixture, old, reads: 2)) idle.Reader.Read(0, idle.Buffer.Part(0, Block));
        fixture.Gate.Publish(fixture.Gate.Locations);
        Assert.True(fixture.Gate.IsDone);
    }

    [Fact]
    public void Context_has_a_buffer_for_each_read_and_frees_all_memory()
    {
        const int Reads = 3, Bytes = 10_000;
        byte[] old = SmallCases.Random(1, 8);
        using ViewFixture fixture = new(new CowBuilder().Copy(0, 1).Build(), old);
        ReadContext context = fixture.Reader(Reads, Bytes);
        Slice[] buffers = [context.Buffer(0), context.Buffer(1), context.Buffer(2)];
        Assert.All(buffers, buffer => Assert.Equal(Bytes, buffer.Length));
        Assert.Throws<IndexOutOfRangeException>(() => context.Buffer(Reads));
        for (int i = 1; i < Reads; i++) Assert.True(buffers[i].Offset >= buffers[i - 1].Offset + Bytes);
        Assert.Equal(ReadContext.Bytes(fixture.View, Reads, Bytes), buffers[2].Offset + Sizes.RoundUp(Bytes, Arena.Alignment));
        context.Reader.Begin(0, buffers[0], 7);
        fixture.Gate.Publish(fixture.Gate.Locations);
        Assert.False(fixture.Gate.IsDone);
        context.Dispose();
        Assert.True(fixture.Gate.IsDone);
        Assert.Throws<ArgumentOutOfRangeException>(() => context[buffers[0]].Length);
    }

    [Fact]
    public void Cache_keeps_the_most_recently_used_units()
    {
        using UnitCache cache = new(3 * Block, Block);
        Assert.False(Has(cache, -2, 0));
        for (int op = 1; op <= 3; op++) cache.Keep(op, Filled((byte)op));
        // The first unit is the oldest; requesting it makes it the newest.
        Assert.True(Has(cache, 1, 1));
        cache.Keep(4, Filled(4));
        Assert.Equal([true, false, true, true], new[] { 1, 2, 3, 4 }.Select(op => Has(cache, op, op)));
        cache.Keep(5, Filled(5));
        Assert.Equal([false, false, true, true, true], new[] { 1, 2, 3, 4, 5 }.Select(op => Has(cache, op, op)));
        // A unit that is cached already keeps its content and its place in the order.
        cache.Keep(3, Filled(9));
        cache.Keep(6, Filled(6));
        Assert.Equal([false, true, true, true], new[] { 3, 4, 5, 6 }.Select(op => Has(cache, op, op)));
        byte[] counted = new byte[Block];
        for (int i = 0; i < Block; i++) counted[i] = (byte)(i * 7);
        cache.Keep(7, counted);
        byte[] part = new byte[30];
        Assert.True(cache.TryCopy(7, 1000, part));
        Assert.Equal(counted.AsSpan(1000, 30).ToArray(), part);
    }

    [Theory]
    [InlineData(0, 1)]
    [InlineData(Block, 1)]
    [InlineData((3 * Block) - 1, 2)]
    [InlineData(40 * Block, 32)]
    public void Cache_has_1_to_32_entries(int bytes, int places)
    {
        UnitCache cache = new(bytes, Block);
        for (int op = 0; op <= places; op++) cache.Keep(op, Filled((byte)op));
        Assert.False(Has(cache, 0, 0));
        for (int op = 1; op <= places; op++) Assert.True(Has(cache, op, op));
        cache.Dispose();
        Assert.Throws<ArgumentOutOfRangeException>(() => Has(cache, places, places));
    }

    [Fact]
    public void Times_count_all_reads_and_record_the_slowest()
    {
        byte[] old = SmallCases.Random(1, 2);
        using ViewFixture fixture = new(new CowBuilder().Build(), old);
        SnapshotView view = fixture.View;
        long microsecond = Stopwatch.Frequency / 1_000_000;
        Assert.Equal((0, 0), (view.Times.Reads, view.Times.WorstMicroseconds));
        long reads = 0;
        foreach ((long took, long worst) in ((long, long)[])[(1, 1), (3000, 3000), (2999, 3000), (3000, 3000), (3001, 3001), (5, 3001)])
        {
            view.RecordLatency(took * microsecond);
            Assert.Equal((++reads, worst), (view.Times.Reads, view.Times.WorstMicroseconds));
        }
        view.Answered(SnapshotView.Now - (10_000_000 * microsecond));
        Assert.Equal(reads + 1, view.Times.Reads);
        Assert.True(view.Times.WorstMicroseconds >= 10_000_000);
        Assert.Equal(2 * Block, view.Length);
    }

    private static bool Has(UnitCache cache, int op, int value)
    {
        byte[] bytes = new byte[Block];
        if (!cache.TryCopy(op, 0, bytes)) return false;
        Assert.Equal(Filled((byte)value), bytes);
        return true;
    }

    private static byte[] Filled(byte value)
    {
        byte[] bytes = new byte[Block];
        Array.Fill(bytes, value);
        return bytes;
    }

    /// <summary>A block whose compressed payload has <paramref name="stored"/> bytes.</summary>
    private static byte[] Sized(int stored)
    {
        byte[] random = SmallCases.Random(stored, 1);
        // Vary the lengths of the random parts: with LZ4, one more random byte does not always make the payload one byte longer.
        for (int tries = 0; tries < 40 * 60; tries++)
        {
            int end = tries / 60, length = stored - 1 - (tries % 60);
            byte[] block = new byte[Block];
            random.AsSpan(0, length).CopyTo(block);
            random.AsSpan(Block - end).CopyTo(block.AsSpan(Block - end));
            if (Compressors.Compress(CowCompression.Lz4, block, 64 << 10).Length == stored) return block;
        }
        throw new InvalidOperationException($"no block is compressed to {stored} bytes");
    }

    /// <summary>A reader over a queue that records the requests between two waits, and compares the data with the target.</summary>
    private sealed class Requests : IBlockQueue
    {
        private readonly byte[] _target;
        private readonly WakeUp _wakeUp = new();
        private readonly Arena _arena;
        private readonly SyncQueue _queue;
        private readonly IoScheduler _io;
        private bool _waited = true;

        internal Requests(ViewFixture fixture, byte[] target, int depth = 400, int reads = 1)
        {
            _target = target;
            _arena = new Arena((reads * ViewReader.BytesPerRead(fixture.View)) + Sizes.RoundUp(target.Length, Arena.Alignment));
            _queue = new SyncQueue(fixture.Devices, _arena, _wakeUp, depth);
            _io = new IoScheduler(this, [1, 1, 1]);
            Reader = new ViewReader(fixture.View, _io, _arena, reads);
            Buffer = _arena.Take(target.Length)!.Value;
        }

        public int Depth => _queue.Depth;

        internal ViewReader Reader { get; }

        internal Slice Buffer { get; }

        internal List<List<(int Device, long Offset, int Length)>> Rounds { get; } = [];

        internal int InFlight => _io.InFlight;

        internal byte[] Bytes(int length) => _arena[Buffer.Part(0, length)].ToArray();

        internal void Read(long offset, int length)
        {
            Slice buffer = Buffer.Part(0, length);
            _arena[buffer].Fill(0x77);
            Assert.Equal(length, Reader.Read(offset, buffer));
            Assert.True(_target.AsSpan((int)offset, length).SequenceEqual(_arena[buffer]), $"{length} bytes at {offset}");
        }

        internal void Check(long offset, int length, (int Device, long Offset, int Length)[][] rounds)
        {
            Rounds.Clear();
            Read(offset, length);
            Assert.Equal(rounds, Rounds.Select(round => round.ToArray()));
        }

        public bool TryQueue(in BlockRequest request)
        {
            if (_waited) Rounds.Add([]);
            _waited = false;
            Assert.Equal(BlockVerb.Read, request.Verb);
            Rounds[^1].Add((request.Device, request.Offset, request.Buffer.Length));
            return _queue.TryQueue(request);
        }

        public int Wait(Span<BlockCompletion> completions)
        {
            _waited = true;
            return _queue.Wait(completions);
        }

        public int Perform(in BlockRequest request) => _queue.Perform(request);

        public void Dispose()
        {
            Reader.Dispose();
            _queue.Dispose();
            _arena.Dispose();
            _wakeUp.Dispose();
        }
    }
}
