using System;
using System.Collections.Generic;
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

/// <summary>Tests which requests reads of a view send to the devices, which units they cache, and which errors they report.</summary>
public sealed class ViewTrafficTests
{
    private const int Block = CowOp.BlockSize;
    private static readonly string[] s_names = ["cow", "base", "source"];

    /// <summary>A queue that records each request with its device's number, and can fail one request.</summary>
    private sealed class Recorder(IBlockQueue inner) : IBlockQueue
    {
        private readonly List<(uint Tag, int Number)> _flights = [];

        internal List<string> Requests { get; } = [];

        internal int FailAt { get; set; } = -1;

        public int Depth => inner.Depth;

        public bool TryQueue(in BlockRequest request)
        {
            if (!inner.TryQueue(request)) return false;
            _flights.Add((request.Tag, Requests.Count));
            Requests.Add($"{s_names[request.Device]} {request.Offset}+{request.Buffer.Length}");
            return true;
        }

        public int Wait(Span<BlockCompletion> completions)
        {
            int count = inner.Wait(completions);
            foreach (ref BlockCompletion completion in completions[..Math.Max(0, count)])
            {
                uint tag = completion.Tag;
                int at = _flights.FindIndex(flight => flight.Tag == tag);
                if (_flights[at].Number == FailAt) completion = new BlockCompletion(tag, -Errno.EIO);
                _flights.RemoveAt(at);
            }
            return count;
        }

        public int Perform(in BlockRequest request) => inner.Perform(request);

        public void Dispose() => inner.Dispose();
    }

    /// <summary>A reader with a recorder as its queue, and one buffer.</summary>
    private sealed class Bench : IDisposable
    {
        private readonly WakeUp _wakeUp = new();
        private readonly SyncQueue _queue;

        internal Bench(ViewFixture fixture, int reads = 1, int depth = 32)
        {
            Fixture = fixture;
            Arena = new Arena((reads * ViewReader.BytesPerRead(fixture.View)) + (4 << 20));
            _queue = new SyncQueue(fixture.Devices, Arena, _wakeUp, depth);
            Recorder = new Recorder(_queue);
            Reader = new ViewReader(fixture.View, new IoScheduler(Recorder, [1, 1, 1]), Arena, reads);
            Buffer = Arena.Take(2 << 20)!.Value;
        }

        internal ViewFixture Fixture { get; }

        internal Arena Arena { get; }

        internal Recorder Recorder { get; }

        internal ViewReader Reader { get; }

        internal Slice Buffer { get; }

        /// <summary>Reads, checks the data, and returns the requests and the number of decoded payloads.</summary>
        internal string Read(byte[] target, long offset, int length)
        {
            int before = Recorder.Requests.Count;
            long decodes = Reader.Decodes;
            Slice buffer = Buffer.Part(100, length);
            Arena[Buffer].Fill(0x77);
            Assert.Equal(length, Reader.Read(offset, buffer));
            Assert.True(target.AsSpan((int)offset, length).SequenceEqual(Arena[buffer]), $"{length} bytes at {offset}");
            Assert.Equal(0x77, Arena[Buffer][99]);
            Assert.Equal(0x77, Arena[Buffer][100 + length]);
            return $"{string.Join(", ", Recorder.Requests.Skip(before))}; {Reader.Decodes - decodes} decoded";
        }

        public void Dispose()
        {
            Reader.Dispose();
            _queue.Dispose();
            Arena.Dispose();
            _wakeUp.Dispose();
        }
    }

    private static void AssertSame(string expected, IEnumerable<string> seen)
    {
        string all = string.Join('\n', seen);
        Assert.True(expected.ReplaceLineEndings("\n").Trim() == all, $"something else was seen:\n{all}\n");
    }

    private static byte[] Plain(int seed, int blocks) =>
        Enumerable.Range(0, blocks * Block).Select(i => (byte)(i % 50 == 0 ? seed : i / 700)).ToArray();

    private static CowBuilder Mixed()
    {
        CowBuilder cow = new() { ScratchBytes = SmallCases.ScratchFor(2), MaxUnitBytes = 4 * Block, Compression = CowCompression.Lz4 };
        cow.Copy(2, 30).Copy(3, 31).Copy(4, 33).Xor(6, (34 * Block) + 100, Plain(1, 1)).Xor(7, (35 * Block) + 100, Plain(2, 1))
            .Xor(8, 36 * Block, SmallCases.Random(4, 1));
        return cow.Replace(10, Plain(3, 4)).Replace(14, SmallCases.Random(5, 4)).Replace(18, SmallCases.Random(6, 1))
            .Replace(19, Plain(7, 1)).Zero(20).Zero(21).Replace(24, Plain(8, 2));
    }

    [Fact]
    public void Reads_send_one_request_for_each_contiguous_range()
    {
        byte[] old = SmallCases.Random(1, 40), source = SmallCases.Random(2, 40);
        CowBuilder cow = Mixed();
        byte[] target = NaiveMerger.Merge(cow.Ops, source, old);
        using ViewFixture fixture = new(cow.Build(), old, source: source);
        using Bench bench = new(fixture);
        List<string> seen = [];
        foreach ((double block, double blocks) in new[]
        {
            (0, 1), (0, 2), (0, 3), (0.5, 1.5), (0.5, 1.25), (1, 40 - 1), (2, 3), (2.25, 1.5), (4.5, 1), (5, 1), (5, 1.001953125), (6, 1),
            (6, 2), (6.25, 0.5), (6.5, 2), (8, 1), (8.5, 0.25),
            (10, 4), (10, 1), (11, 1), (11.5, 3), (14, 4), (14.5, 1), (18, 1), (18.25, 0.5), (19, 1), (19.25, 0.5), (19.5, 0.5), (20, 2),
            (20.5, 0.5), (22, 2), (22, 2.5), (24, 1), (24, 2), (25, 1), (26, 14),
            (39.5, 0.5), (0, 40),
        })
        {
            seen.Add($"{block}+{blocks}: {bench.Read(target, (long)(block * Block), (int)(blocks * Block))}");
        }
        AssertSame("""
            0+1: base 0+4096; 0 decoded
            0+2: base 0+8192; 0 decoded
            0+3: base 0+8192, source 122880+4096; 0 decoded
            0.5+1.5: base 2048+6144; 0 decoded
            0.5+1.25: base 2048+5120; 0 decoded
            1+39: base 4096+4096, source 122880+8192, source 135168+4096, base 20480+4096, cow 12894+4270, source 139364+8192, source 147456+4096, base 36864+4096, cow 17164+374, cow 17538+20480, cow 38018+280, base 90112+8192, base 106496+57344; 5 decoded
            2+3: source 122880+8192, source 135168+4096; 0 decoded
            2.25+1.5: source 123904+6144; 0 decoded
            4.5+1: source 137216+2048, base 20480+2048; 0 decoded
            5+1: base 20480+4096; 0 decoded
            5+1.001953125: base 20480+4096, cow 12894+87, source 139364+4096; 1 decoded
            6+1: cow 12894+87, source 139364+4096; 1 decoded
            6+2: cow 12894+174, source 139364+8192; 2 decoded
            6.25+0.5: cow 12894+87, source 139364+4096; 1 decoded
            6.5+2: cow 12894+87, source 139364+4096, cow 12981+4183, source 143460+4096, source 147456+4096; 2 decoded
            8+1: cow 13068+4096, source 147456+4096; 0 decoded
            8.5+0.25: cow 13068+4096, source 147456+4096; 0 decoded
            10+4: cow 17164+374; 1 decoded
            10+1: cow 17164+374; 1 decoded
            11+1: ; 0 decoded
            11.5+3: cow 17538+2048; 0 decoded
            14+4: cow 17538+16384; 0 decoded
            14.5+1: cow 19586+4096; 0 decoded
            18+1: cow 33922+4096; 0 decoded
            18.25+0.5: cow 34946+2048; 0 decoded
            19+1: cow 38018+97; 1 decoded
            19.25+0.5: cow 38018+97; 1 decoded
            19.5+0.5: ; 0 decoded
            20+2: ; 0 decoded
            20.5+0.5: ; 0 decoded
            22+2: base 90112+8192; 0 decoded
            22+2.5: base 90112+8192, cow 38115+183; 1 decoded
            24+1: ; 0 decoded
            24+2: ; 0 decoded
            25+1: ; 0 decoded
            26+14: base 106496+57344; 0 decoded
            39.5+0.5: base 161792+2048; 0 decoded
            0+40: base 0+8192, source 122880+8192, source 135168+4096, base 20480+4096, cow 12894+4270, source 139364+8192, source 147456+4096, base 36864+4096, cow 17538+20480, cow 38018+97, base 90112+8192, base 106496+57344; 3 decoded
            """, seen);
        fixture.Engine.Run();
        Assert.Equal("base 0+163840; 0 decoded", bench.Read(target, 0, 40 * Block));
        Assert.Equal("base 45158+1; 0 decoded", bench.Read(target, 45158, 1));
    }

    /// <summary>
    /// Copies from scattered locations, and Xors that each take two requests. Those that do not fit into a round are read in the next.
    /// </summary>
    [Theory]
    [InlineData(255, 0, 1)]
    [InlineData(256, 0, 1)]
    [InlineData(257, 0, 2)]
    [InlineData(256, 1, 2)]
    [InlineData(255, 1, 2)]
    [InlineData(254, 1, 1)]
    [InlineData(254, 2, 2)]
    [InlineData(253, 2, 2)]
    [InlineData(0, 31, 1)]
    [InlineData(0, 32, 1)]
    [InlineData(0, 33, 2)]
    [InlineData(0, 64, 2)]
    [InlineData(0, 65, 3)]
    public void Rounds_are_limited_by_requests_and_memory(int copies, int xors, int rounds)
    {
        CowBuilder cow = new() { MaxUnitBytes = Block, ScratchBytes = 0 };
        int blocks = copies + xors;
        for (int i = 0; i < copies; i++) cow.Copy((uint)i, (ulong)(blocks + 2 + (2 * (copies - i))));
        for (int i = 0; i < xors; i++)
            cow.Xor((uint)(copies + i), (ulong)((blocks + 2 + (2 * (xors - i))) * Block), SmallCases.Random(i, 1));
        byte[] old = SmallCases.Random(3, (3 * blocks) + 10);
        byte[] target = NaiveMerger.Merge(cow, old);
        using ViewFixture fixture = new(cow.Build(), old);
        using Bench bench = new(fixture, depth: 300);
        int entered = 0;
        // New locations that are published in the middle of a read must find the reader in the gate only until the current round ends.
        bench.Reader.Begin(0, bench.Buffer.Part(0, blocks * Block), 9);
        for (; ; entered++)
        {
            fixture.Gate.Publish(fixture.Gate.Locations);
            Assert.False(fixture.Gate.IsDone);
            if (bench.Reader.TryReap(out ViewCompletion early))
                throw new InvalidOperationException($"{early} completed without a wait");
            int before = bench.Recorder.Requests.Count;
            while (!fixture.Gate.IsDone)
            {
                bench.Reader.Wait();
                if (!bench.Reader.TryReap(out ViewCompletion done)) continue;
                Assert.Equal(new ViewCompletion(9, blocks * Block), done);
                Assert.True(target.AsSpan(0, blocks * Block).SequenceEqual(bench.Arena[bench.Buffer.Part(0, blocks * Block)]));
                Assert.Equal(rounds, entered + 1);
                return;
            }
            Assert.True(bench.Recorder.Requests.Count > before || entered < rounds);
        }
    }

    [Fact]
    public void Failures_name_the_device_and_leave_the_gate()
    {
        byte[] old = SmallCases.Random(1, 40), source = SmallCases.Random(2, 40);
        CowBuilder cow = Mixed();
        using ViewFixture fixture = new(cow.Build(), old, source: source);
        using Bench bench = new(fixture);
        List<string> seen = [];
        Slice buffer = bench.Buffer.Part(0, 9 * Block);
        Assert.Equal(buffer.Length, bench.Reader.Read(Block, buffer));
        int requests = bench.Recorder.Requests.Count;
        for (int fail = 0; fail < requests; fail++)
        {
            bench.Recorder.FailAt = bench.Recorder.Requests.Count + fail;
            Assert.Equal(-Errno.EIO, bench.Reader.Read(Block, buffer));
            seen.Add(fixture.Failure!.Replace(fixture.Devices[0].Path[..^3], "", StringComparison.Ordinal));
            Assert.Equal(fail + 1, fixture.View.Failures);
            fixture.Gate.Publish(fixture.Gate.Locations);
            Assert.True(fixture.Gate.IsDone);
        }
        AssertSame("""
            base: reading 4096 bytes at 4096 failed: input/output error (EIO); a read of 36864 bytes at 4096 gets an I/O error
            source: reading 8192 bytes at 122880 failed: input/output error (EIO); a read of 36864 bytes at 4096 gets an I/O error
            source: reading 4096 bytes at 135168 failed: input/output error (EIO); a read of 36864 bytes at 4096 gets an I/O error
            base: reading 4096 bytes at 20480 failed: input/output error (EIO); a read of 36864 bytes at 4096 gets an I/O error
            cow: reading 4270 bytes at 12894 failed: input/output error (EIO); a read of 36864 bytes at 4096 gets an I/O error
            source: reading 8192 bytes at 139364 failed: input/output error (EIO); a read of 36864 bytes at 4096 gets an I/O error
            source: reading 4096 bytes at 147456 failed: input/output error (EIO); a read of 36864 bytes at 4096 gets an I/O error
            base: reading 4096 bytes at 36864 failed: input/output error (EIO); a read of 36864 bytes at 4096 gets an I/O error
            """, seen);
    }

    [Fact]
    public void Concurrent_reads_have_tags_and_abandoned_reads_leave_the_gate()
    {
        byte[] old = SmallCases.Random(1, 40);
        CowBuilder cow = new CowBuilder { MaxUnitBytes = Block, ScratchBytes = 0 }.Copy(0, 20).Replace(1, SmallCases.Random(5, 1)).Zero(2);
        byte[] target = NaiveMerger.Merge(cow, old);
        using ViewFixture fixture = new(cow.Build(), old);
        Assert.Throws<ArgumentOutOfRangeException>(() => new Bench(fixture, 0));
        Bench bench = new(fixture, 3);
        Slice[] buffers = [.. Enumerable.Range(0, 3).Select(i => bench.Buffer.Part(i * Block, Block))];
        for (int i = 0; i < 3; i++)
        {
            Assert.Equal((i, true), (bench.Reader.Count, bench.Reader.HasRoom));
            bench.Reader.Begin(i * Block, buffers[i], (uint)(70 + i));
        }
        Assert.Equal((3, false), (bench.Reader.Count, bench.Reader.HasRoom));
        Assert.Throws<InvalidOperationException>(() => bench.Reader.Begin(0, buffers[0], 1));
        List<uint> tags = [];
        while (tags.Count < 3)
        {
            if (!bench.Reader.TryReap(out ViewCompletion completion))
            {
                bench.Reader.Wait();
                continue;
            }
            tags.Add(completion.Tag);
            Assert.Equal((Block, 3 - tags.Count), (completion.Result, bench.Reader.Count));
        }
        tags.Sort();
        Assert.Equal([70u, 71u, 72u], tags);
        Assert.True(target.AsSpan(0, 3 * Block).SequenceEqual(bench.Arena[bench.Buffer.Part(0, 3 * Block)]));
        Assert.False(bench.Reader.TryReap(out _));
        // Three reads have begun. One of them needs no device, so it is complete, but it was not reaped.
        bench.Reader.Begin(2 * Block, buffers[0], 1);
        bench.Reader.Begin(0, buffers[1], 2);
        bench.Reader.Begin(Block, buffers[2], 3);
        fixture.Gate.Publish(fixture.Gate.Locations);
        Assert.False(fixture.Gate.IsDone);
        bench.Reader.Dispose();
        Assert.True(fixture.Gate.IsDone);
        Assert.Equal(0, bench.Reader.Count);
        bench.Dispose();
    }

    [Fact]
    public void Recovered_window_is_read_from_memory()
    {
        ScratchLayout layout = new(78, (uint)SmallCases.ScratchFor(3));
        CowBuilder cow = new() { ScratchBytes = SmallCases.ScratchFor(3), MaxUnitBytes = Block, NumMergeOps = 1 };
        cow.Copy(0, 10).Copy(1, 11).Copy(2, 12).Copy(3, 13).Copy(4, 14);
        byte[] slots = SmallCases.Random(9, 3);
        cow.Patch = file =>
        {
            file[78] = ScratchLayout.Valid;
            for (int i = 0; i < 3; i++)
            {
                BitConverter.TryWriteBytes(file.AsSpan((int)layout.EntryOffset(i)), (ulong)(i + 1));
                BitConverter.TryWriteBytes(file.AsSpan((int)layout.EntryOffset(i) + 8), (ulong)layout.SlotOffset(i));
            }
            slots.CopyTo(file, layout.SlotOffset(0));
        };
        byte[] old = SmallCases.Random(1, 20);
        byte[] target = [.. old[..Block], .. slots, .. old[(14 * Block)..(15 * Block)], .. old[(5 * Block)..]];
        using ViewFixture fixture = new(cow.Build(), old);
        using Bench bench = new(fixture);
        Assert.Equal(new OpLocations(1, 3), fixture.Gate.Locations);
        Assert.Equal("base 0+4096, base 57344+4096, base 20480+61440; 0 decoded", bench.Read(target, 0, 20 * Block));
        Assert.Equal("base 4095+1; 0 decoded", bench.Read(target, 4095, (3 * Block) + 1));
        Assert.Equal("; 0 decoded", bench.Read(target, Block + 1000, 2 * Block));
        Assert.Equal("base 57344+1; 0 decoded", bench.Read(target, (3 * Block) + 1000, Block - 999));
    }

    [Theory]
    [InlineData(0, 1)]
    [InlineData(4096, 1)]
    [InlineData(12287, 2)]
    [InlineData(12288, 3)]
    [InlineData(1 << 20, 32)]
    public void Cache_keeps_the_most_recently_used_units(int bytes, int entries)
    {
        const int unitBytes = Block;
        UnitCache cache = new(bytes, unitBytes);
        byte[] part = new byte[10];
        byte[] Unit(int op) => [.. Enumerable.Range(0, unitBytes).Select(i => (byte)((op * 7) + i))];
        Assert.False(cache.TryCopy(0, 0, part));
        for (int op = 0; op < entries; op++) cache.Keep(op, Unit(op));
        for (int op = 0; op < entries; op++)
        {
            Assert.True(cache.TryCopy(op, 20 + op, part));
            Assert.Equal(Unit(op)[(20 + op)..(30 + op)], part);
        }
        // Two threads may have decoded the same unit. It is cached once, and keeps its age.
        cache.Keep(0, Unit(50));
        Assert.True(cache.TryCopy(0, 0, part));
        Assert.Equal(Unit(0)[..10], part);
        // The cache first drops the unit that was requested longest ago, then the next one.
        cache.Keep(100, Unit(100));
        if (entries > 1)
        {
            Assert.False(cache.TryCopy(1, 0, part));
            Assert.True(cache.TryCopy(0, 0, part));
        }
        Assert.True(cache.TryCopy(100, unitBytes - 10, part));
        Assert.Equal(Unit(100)[(unitBytes - 10)..], part);
        for (int op = 2; op < entries; op++) Assert.True(cache.TryCopy(op, 0, part));
        cache.Dispose();
        Assert.Throws<ArgumentOutOfRangeException>(() => cache.TryCopy(100, 0, part));
    }

    [Fact]
    public void Times_include_the_slowest_of_all_reads()
    {
        using ViewFixture fixture = new(new CowBuilder().Zero(0).Build(), SmallCases.Random(1, 2));
        long microsecond = System.Diagnostics.Stopwatch.Frequency / 1_000_000;
        foreach ((long took, long worst) in new[] { (0L, 0L), (5, 5), (4, 5), (6, 6), (5, 6), (7, 7), (7, 7) })
        {
            fixture.View.RecordLatency(took * microsecond);
            Assert.Equal(worst, fixture.View.Times.WorstMicroseconds);
        }
        Assert.Equal(7, fixture.View.Times.Reads);
        fixture.View.Answered(SnapshotView.Now - (1_000_000 * microsecond));
        Assert.Equal(8, fixture.View.Times.Reads);
        Assert.InRange(fixture.View.Times.WorstMicroseconds, 1_000_000, 3_600_000_000);
    }

    [Theory]
    [InlineData(1, 4096)]
    [InlineData(3, 5000)]
    [InlineData(40, 8192)]
    public void Context_has_the_stated_memory_and_a_buffer_for_each_read(int reads, int bufferBytes)
    {
        using ViewFixture fixture = new(new CowBuilder().Zero(0).Build(), SmallCases.Random(1, 4));
        Assert.Equal(reads * (ViewReader.BytesPerRead(fixture.View) + ((bufferBytes + 4095) & -4096)),
            ReadContext.Bytes(fixture.View, reads, bufferBytes));
        ReadContext context = fixture.Reader(reads, bufferBytes);
        List<Slice> buffers = [.. Enumerable.Range(0, reads).Select(context.Buffer)];
        Assert.Throws<IndexOutOfRangeException>(() => context.Buffer(reads));
        Assert.All(buffers, buffer => Assert.Equal(bufferBytes, buffer.Length));
        for (int i = 1; i < reads; i++) Assert.True(buffers[i].Offset >= buffers[i - 1].Offset + bufferBytes);
        for (int i = 0; i < reads; i++) context.Reader.Begin(0, buffers[i], (uint)i);
        Assert.False(context.Reader.HasRoom);
        context.Dispose();
        Assert.Equal(0, context.Reader.Count);
        Assert.Throws<ArgumentOutOfRangeException>(() => context[buffers[0]].Length);
    }
}
