using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Merge;

/// <summary>The components around the engine, each at its limits.</summary>
public sealed class PartsTests
{
    [Theory]
    [InlineData(3, 8448, 0, 0, MergeStart.NotBegun)]
    [InlineData(2, 8448, 0, 0, MergeStart.NotBegun)]
    [InlineData(1, 8448, 0, 0, MergeStart.NotShown)]
    [InlineData(3, 8448, 0, 1, MergeStart.Begun)]
    [InlineData(3, 8448, 0, 2, MergeStart.Begun)]
    [InlineData(3, 8448, 0, 3, MergeStart.Begun)]
    [InlineData(3, 8448, 1, 0, MergeStart.Begun)]
    [InlineData(1, 8448, 1, 0, MergeStart.Begun)]
    [InlineData(3, 8447, 0, 0, MergeStart.NotShown)]   // Too small for a window.
    [InlineData(3, 0, 0, 0, MergeStart.NotShown)]
    public void COW_shows_the_start_of_its_merge_by_count_and_state(int version, int scratch, ulong count, byte state, MergeStart start)
    {
        CowBuilder cow = new() { Version = version, ScratchBytes = scratch, NumMergeOps = count, MaxUnitBytes = 4096 };
        cow.Copy(0, 1).Zero(3);
        int header = version switch { 1 => 34, 2 => 38, _ => 78 };
        byte[] file = cow.Build();
        if (state != 0) file[header] = state;
        Assert.Equal(start, StartOf(file));
        file = [.. file, .. new byte[100]];
        Assert.Equal(start, StartOf(file));
    }

    /// <summary>The evidence of a COW, read with all ops; reading it without the ops must give the same result.</summary>
    private static MergeStart StartOf(byte[] file)
    {
        MemorySource source = new(file);
        using CowFile cow = CowFile.Read(source);
        MergeStart start = MergeTrace.Of(source, cow);
        Assert.Equal(start, MergeTrace.Of(source, null));
        return start;
    }

    [Theory]
    [InlineData(2, 38)]
    [InlineData(3, 78)]
    public void Start_of_a_merge_is_shown_by_a_file_that_ends_after_the_state_byte(int version, int header)
    {
        byte[] file = new CowBuilder { Version = version, MaxUnitBytes = 4096 }.Copy(0, 1).Build();
        for (int length = 0; length < header; length++)
            Assert.Throws<CowCutOffException>(() => MergeTrace.Of(new MemorySource(file[..length]), null));
        Assert.Equal(MergeStart.NotShown, MergeTrace.Of(new MemorySource(file[..header]), null));
        for (int length = header + 1; length < header + 3; length++)
            Assert.Equal(MergeStart.NotBegunHere, MergeTrace.Of(new MemorySource(file[..length]), null));
        file[0] ^= 1;
        Assert.Equal(ExitCode.CowCorrupt, Assert.Throws<SnapuserdException>(() => MergeTrace.Of(new MemorySource(file), null)).Code);
    }

    [Fact]
    public void First_op_of_the_merge_order_decides_whether_Android_s_engine_can_have_begun_without_a_trace()
    {
        foreach (int version in new[] { 2, 3 })
        {
            CowBuilder New() => new() { Version = version, MaxUnitBytes = 4096, ClusterOps = version == 2 ? 16 : 0 };
            byte[] block = new byte[4096];
            Assert.Equal(MergeStart.NotBegunHere, StartOf(New().Replace(0, block).Zero(3).Build()));
            Assert.Equal(MergeStart.NotBegun, StartOf(New().Xor(1, 8192, block).Replace(0, block).Build()));
            // In version 2 a Copy is merged first wherever it is in the file; in version 3 only if the sequence list puts it first.
            Assert.Equal(version == 2 ? MergeStart.NotBegun : MergeStart.NotBegunHere, StartOf(New().Replace(0, block).Copy(4, 9).Build()));
            MemorySource listed = new(New().Sequence(7, 4).Replace(0, block).Copy(4, 9).Copy(7, 8).Build()),
                plain = new(New().Sequence(0, 4).Replace(0, block).Copy(4, 9).Build());
            using CowFile cow = CowFile.Read(listed), other = CowFile.Read(plain);
            Assert.Equal((MergeStart.NotBegun, MergeStart.NotBegunHere), (MergeTrace.Of(listed, cow), MergeTrace.Of(plain, other)));
            MemorySource one = new(New().Sequence(4).Replace(0, block).Copy(4, 9).Build());
            Assert.Equal(version == 2 ? MergeStart.NotBegunHere : MergeStart.NotBegun, MergeTrace.Of(one, null));
            // The list of version 2 is not read from a damaged file.
            Assert.Equal((version == 2 ? MergeStart.NotBegunHere : MergeStart.NotBegun, MergeStart.NotBegunHere),
                (MergeTrace.Of(listed, null), MergeTrace.Of(plain, null)));
        }
    }

    [Fact]
    public void First_op_is_read_even_if_later_ops_are_damaged()
    {
        foreach (int version in new[] { 2, 3 })
        {
            byte[] file = new CowBuilder { Version = version, MaxUnitBytes = 4096 }.Copy(4, 9).Copy(5, 9).Zero(1).Build();
            long ops =
                version == 2 ? CowHeader.Parse(new MemorySource(file)).ScratchEnd : CowHeader.Parse(new MemorySource(file)).OpsOffset;
            int record = version == 2 ? 20 : 16;
            byte[] later = [.. file], first = [.. file];
            later.AsSpan((int)ops + (2 * record), record).Fill(0xff);
            Assert.Equal(MergeStart.NotBegun, MergeTrace.Of(new MemorySource(later), null));
            first.AsSpan((int)ops, record).Fill(0xff);
            Assert.Equal(MergeStart.NotBegunHere, MergeTrace.Of(new MemorySource(first), null));
        }
    }

    [Fact]
    public void First_op_is_used_only_if_the_file_holds_all_its_bytes()
    {
        foreach (bool listed in new[] { false, true })
        {
            CowBuilder builder = new() { Version = 3, MaxUnitBytes = 4096 };
            if (listed) builder.Sequence(4);
            byte[] file = builder.Copy(4, 9).Build();
            CowHeader header = CowHeader.Parse(new MemorySource(file));
            int end = (int)header.OpsOffset + 16;
            Assert.Equal(MergeStart.NotBegun, MergeTrace.Of(new MemorySource(file[..end]), null));
            Assert.Equal(MergeStart.NotBegunHere, MergeTrace.Of(new MemorySource(file[..(end - 1)]), null));
            // The file must hold the whole first entry of the list.
            if (listed)
                Assert.Equal(MergeStart.NotBegunHere, MergeTrace.Of(new MemorySource(file[..((int)header.SequenceOffset + 3)]), null));
        }
    }

    [Theory]
    [InlineData(38)]
    [InlineData(54)]
    [InlineData(62)]
    public void Hostile_counts_of_ops_and_list_entries_are_harmless(int field)
    {
        byte[] file = new CowBuilder { Version = 3, MaxUnitBytes = 4096 }.Copy(4, 9).Build();
        foreach (ulong count in new[] { 2UL, uint.MaxValue, 1UL << 61, (1UL << 61) - 1, (1UL << 62) - 1, 1UL << 63, ulong.MaxValue })
        {
            BinaryPrimitives.WriteUInt64LittleEndian(file.AsSpan(field), count);
            if (field == 54) BinaryPrimitives.WriteUInt64LittleEndian(file.AsSpan(62), Math.Min(count, uint.MaxValue));
            try
            {
                MergeStart start = MergeTrace.Of(new MemorySource(file), null);
                Assert.Contains(start, field == 38 ? [MergeStart.NotBegunHere] : new[] { MergeStart.NotBegun, MergeStart.NotBegunHere });
            }
            catch (SnapuserdException e)
            {
                Assert.Equal(ExitCode.CowCorrupt, e.Code);
            }
        }
    }

    [Fact]
    public void Documented_table_of_starts_is_the_one_that_is_used()
    {
        string[] rows =
        [
            .. File.ReadLines(Path.Combine(Binary.Root, "docs", "states.md")).SkipWhile(line =>
                !line.StartsWith("| count | state |", StringComparison.Ordinal)).Skip(2).TakeWhile(line => line.StartsWith('|')),
        ];
        List<MergeStart> seen = [];
        foreach (string row in rows)
        {
            string[] cells = [.. row.Split('|', StringSplitOptions.TrimEntries)[1..^1]];
            MergeStart start = Enum.Parse<MergeStart>(cells[3]);
            seen.Add(start);
            byte?[] states = cells[1] switch
            {
                "any" => [null, 0, 1, 2, 3],
                "-" => [null],
                _ => [byte.Parse(cells[1], CultureInfo.InvariantCulture)],
            };
            bool[] firsts = cells[2] switch
            {
                "any" => [true, false],
                "Copy, Xor" => [true],
                "Replace, Zero" => [false],
                _ => throw new FormatException(row),
            };
            ulong[] counts = cells[0] switch
            {
                "more" => [1, 2, ulong.MaxValue],
                _ => [ulong.Parse(cells[0], CultureInfo.InvariantCulture)],
            };
            foreach (byte? state in states)
            {
                foreach (bool first in firsts)
                    foreach (ulong count in counts) Assert.Equal(start, MergeTrace.Of(count, state, first));
            }
            Assert.Equal(start == MergeStart.NotBegun, cells[4].StartsWith("the old image", StringComparison.Ordinal));
        }
        Assert.Equal(Enum.GetValues<MergeStart>(), seen.Distinct().Order());
    }

    private sealed class Failing(long from) : IByteSource
    {
        private readonly byte[] _file = new CowBuilder { MaxUnitBytes = 4096 }.Copy(0, 1).Build();

        public string Name => "failing";

        public long Length => _file.Length;

        public void Read(long offset, Span<byte> destination)
        {
            if (offset + destination.Length > from) throw new SnapuserdException(ExitCode.InputOutput, "failing: it failed");
            _file.AsSpan((int)offset, destination.Length).CopyTo(destination);
        }
    }

    [Fact]
    public void Failing_device_is_an_error_and_no_evidence_about_a_merge()
    {
        foreach (long from in (long[])[0, 78])
            Assert.Equal(ExitCode.InputOutput, Assert.Throws<SnapuserdException>(() => MergeTrace.Of(new Failing(from), null)).Code);
        Assert.Equal(ExitCode.InputOutput, Assert.Throws<SnapuserdException>(() => MergeTrace.Of(new Failing(79), null)).Code);
        Assert.Equal(MergeStart.NotBegun, MergeTrace.Of(new Failing(long.MaxValue), null));
    }

    [Fact]
    public void Rate_is_kept_to_the_thousandth_of_a_byte()
    {
        MergeThrottle throttle = new();
        Assert.False(throttle.IsLimited);
        Assert.Throws<ArgumentOutOfRangeException>(() => throttle.BytesPerSecond = -1);
        throttle.BytesPerSecond = 1;
        Assert.True(throttle.IsLimited);
        Assert.True(throttle.MayWrite(0));
        throttle.Take(1);
        Assert.False(throttle.MayWrite(999));
        Assert.True(throttle.MayWrite(1000));
        throttle.Take(1);
        // A clock that goes back adds no credit. Credit counts from the new time on.
        Assert.False(throttle.MayWrite(0));
        Assert.False(throttle.MayWrite(999));
        Assert.True(throttle.MayWrite(1000));
        // Credit is limited to 200 ms.
        throttle.BytesPerSecond = 1000;
        Assert.True(throttle.MayWrite(10_000));
        throttle.Take(200);
        Assert.True(throttle.MayWrite(10_000));
        throttle.Take(1);
        Assert.False(throttle.MayWrite(10_000));
        Assert.True(throttle.MayWrite(10_001));
        // A new rate clears the debt of the old rate, and ignores bytes written while there was no rate.
        throttle.Take(1000);
        throttle.BytesPerSecond = 0;
        Assert.Equal((0L, false), (throttle.BytesPerSecond, throttle.IsLimited));
        Assert.True(throttle.MayWrite(10_001));
        throttle.Take(1000);
        throttle.BytesPerSecond = 1000;
        Assert.True(throttle.MayWrite(10_001));
        throttle.BytesPerSecond = long.MaxValue;
        Assert.Equal(1L << 40, throttle.BytesPerSecond);
        throttle.Pause();
        Assert.True(throttle.IsPaused);
        Assert.False(throttle.MayWrite(20_000));
        throttle.Resume();
        Assert.False(throttle.IsPaused);
        Assert.True(throttle.MayWrite(20_000));
    }

    [Fact]
    public void Memory_is_shared_to_the_byte()
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => new MemoryBudget(100, 0, 10));
        Assert.Throws<ArgumentOutOfRangeException>(() => new MemoryBudget(29, 3, 10));
        Assert.Equal(10, new MemoryBudget(30, 3, 10).MostBytes);
        MemoryBudget budget = new(100, 3, 10);
        Assert.Equal(80, budget.MostBytes);
        MemoryQuota first = budget.Join();
        Assert.False(first.TryTake(81));
        Assert.True(first.TryTake(80));
        Assert.False(first.HasTooMuch);
        Assert.False(first.TryTake(1));

        // The second is guaranteed 10 and gets up to half of 90 as the first returns memory. 10 are kept for a third.
        MemoryQuota second = budget.Join();
        Assert.True(first.HasTooMuch);
        Assert.False(second.TryTake(11));
        Assert.True(second.TryTake(10));
        Assert.False(second.TryTake(1));
        first.Give(5);
        Assert.False(second.TryTake(6));
        Assert.True(second.TryTake(5));
        Assert.Equal((90, 90), budget.Taken);
        first.Give(29);
        Assert.True(first.HasTooMuch);
        first.Give(1);
        Assert.False(first.HasTooMuch);
        Assert.False(second.TryTake(31));
        Assert.True(second.TryTake(30));
        Assert.Equal((45L, 45L), (first.Taken, second.Taken));

        // With a third, the fair share is 33. Unused guarantees of 10 stay reserved for their merges.
        MemoryQuota third = budget.Join();
        Assert.True(third.TryTake(10));
        first.Give(40);
        Assert.False(third.TryTake(24));
        Assert.True(third.TryTake(23));
        Assert.Equal((83, 100), budget.Taken);
        Assert.False(first.TryTake(29));
        Assert.False(first.TryTake(18));
        Assert.True(first.TryTake(17));
        Assert.Equal((100, 100), budget.Taken);
        Assert.Throws<InvalidOperationException>(() => budget.Join());

        second.Dispose();
        second.Dispose();
        Assert.Equal((55, 100), budget.Taken);
        Assert.Equal(0, second.Taken);
        // One merge has left. Its guarantee stays reserved for a successor.
        Assert.False(first.TryTake(24));
        Assert.True(first.TryTake(23));
        using MemoryQuota fourth = budget.Join();
        Assert.True(fourth.TryTake(10));
        first.Dispose();
        third.Dispose();
        Assert.Equal((10, 100), budget.Taken);
    }

    [Theory]
    [InlineData(64 << 10, 8 << 10)]
    [InlineData(128 << 10, 8 << 10)]
    [InlineData(191 << 10, 8 << 10)]
    [InlineData(192 << 10, 12 << 10)]
    [InlineData(4 << 20, 256 << 10)]
    [InlineData(8 << 20, 256 << 10)]
    public void COW_is_read_through_a_sixteenth_of_the_memory_within_bounds(int arenaBytes, int window)
    {
        using RecordedMerge merge = new(new CowBuilder { ScratchBytes = 0, MaxUnitBytes = 4096 }.Zero(1), 4);
        using Arena arena = new(arenaBytes);
        using CowFile cow = merge.Setup(arena).ReadCow();
        Assert.Equal(window, arenaBytes - arena.Free);
    }

    [Fact]
    public void Source_is_the_base_if_device_number_and_blocks_are_the_same()
    {
        using RecordedMerge merge = new(new CowBuilder { ScratchBytes = 0 }.Zero(1), 4);
        using Arena arena = new(64 << 10);
        MergeSetup setup = merge.Setup(arena);
        Assert.True(setup.SourceIsBase);
        Assert.False((setup with { SharedBlocks = false }).SourceIsBase);
        Assert.False((setup with { Source = setup.Source with { Number = 2 } }).SourceIsBase);
        Assert.False((setup with { SharedBlocks = false, Source = setup.Source with { Number = 2 } }).SourceIsBase);
    }

    [Theory]
    [InlineData(5, 0, 0, false, false)]
    [InlineData(5, 1, 0, true, false)]
    [InlineData(5, 0, 1, true, false)]
    [InlineData(5, 5, 0, false, true)]
    [InlineData(0, 0, 0, false, true)]
    public void Merge_was_resumed_if_something_was_merged_and_not_all(int total, int from, int replayed, bool resumed, bool merged)
    {
        MergeResult result = new() { OpsTotal = total, ResumedFrom = from, Replayed = replayed };
        Assert.Equal((resumed, merged), (result.WasResumed, result.AlreadyMerged));
    }

    /// <summary>An op that reads an overwritten block is an error only if the source shares the blocks of the base.</summary>
    [Theory]
    [InlineData(true, false, true)]
    [InlineData(false, false, false)]
    [InlineData(true, true, false)]
    [InlineData(false, true, false)]
    public void Check_of_a_COW_alone_refuses_a_wrong_order_and_bad_payloads(bool shared, bool overlap, bool wrong)
    {
        CowBuilder cow = new() { ScratchBytes = 0, MaxUnitBytes = 4096, Compression = CowCompression.Lz4 };
        cow.Sequence(0, 3).Copy(0, 5).Copy(3, 0).Replace(7, new byte[4096]).Zero(8);
        byte[]? source = shared && !overlap ? null : SmallCases.Random(1, 12);
        using RecordedMerge merge = new(cow, 12, source) { Only = ["checked"] };
        using Arena arena = new(256 << 10);
        MergeSetup setup = merge.Setup(arena) with
        {
            SharedBlocks = shared,
            Overlap = overlap ? ReadOnlyMemory<SharedRange>.Empty : default(ReadOnlyMemory<SharedRange>?),
        };
        if (wrong)
        {
            SnapuserdException e = Assert.Throws<SnapuserdException>(() => PayloadCheck.Run(setup));
            Assert.Equal(ExitCode.CowCorrupt, e.Code);
        }
        else
        {
            using CowFile file = PayloadCheck.Run(setup);
            Assert.Equal(4, file.OpCount);
            merge.AssertLines("checked: 0 of 4 ops, 0 of 16384 bytes\nchecked: 4 of 4 ops, 16384 of 16384 bytes");
        }
        merge.Cow.AsSpan((int)cow.DataOffsets.Max()).Fill(0xff);
        arena.Reset();
        SnapuserdException bad = Assert.Throws<SnapuserdException>(() => PayloadCheck.Run(setup with { SharedBlocks = false }));
        Assert.Contains("op 2 (Replace of block 7)", bad.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Merge_is_woken_by_the_last_reader_who_entered_before_a_switch_and_by_no_other()
    {
        using WakeUp wakeUp = new();
        ReaderGate gate = new(wakeUp);
        gate.Leave(gate.Enter());
        Assert.False(wakeUp.Wait(0));
        int first = gate.Enter(), second = gate.Enter();
        Assert.True(gate.IsDone);
        gate.Publish(new OpLocations(1, 2));
        int late = gate.Enter();
        Assert.False(gate.IsDone);
        gate.Leave(first);
        gate.Leave(late);
        Assert.False(wakeUp.Wait(0));
        Assert.False(gate.IsDone);
        gate.Leave(second);
        Assert.True(wakeUp.Wait(0));
        Assert.True(gate.IsDone);
    }

    /// <summary>
    /// Android writes 510 ordered ops at once and in any order. Among them, one op may overwrite a block that another one reads.
    /// </summary>
    [Theory]
    [InlineData(0, 509, false, true)]
    [InlineData(0, 510, false, false)]
    [InlineData(1, 510, false, true)]
    [InlineData(1, 511, false, false)]
    [InlineData(0, 519, false, false)]
    [InlineData(0, 20, false, true)]
    [InlineData(0, 20, true, false)]
    [InlineData(20, 20, false, false)]   // The op before it, which reads the block, is already counted.
    public void Damage_may_be_hidden_in_the_ops_that_Android_writes_at_once(ulong count, int overwrites, bool zero, bool hidden)
    {
        CowBuilder cow = new() { ScratchBytes = 0, MaxUnitBytes = 4096, NumMergeOps = count };
        uint[] sequence = new uint[520];
        for (uint i = 0; i < sequence.Length; i++)
        {
            sequence[i] = i == overwrites ? 601 : i;
            if (zero && i == 10) cow.Zero(i);
            else cow.Copy(sequence[i], i == overwrites - 1 ? 601ul : 600);
        }
        using RecordedMerge merge = new(cow.Sequence(sequence), 602) { ArenaBytes = 1 << 20 };
        MergeEngine? engine = null;
        merge.With(opened =>
        {
            engine = opened;
            Assert.Equal(hidden, opened.MayHideDamage);
            Assert.Equal((int)count, opened.DurableCount);
        });
        // The engine's memory is unmapped.
        Assert.Throws<ArgumentOutOfRangeException>(() => engine!.Cow[0]);
    }

    [Theory]
    [InlineData(0, true)]
    [InlineData(1, false)]
    [InlineData(2, false)]
    public void Damage_is_hidden_only_where_no_window_protects_the_ops(int window, bool hidden)
    {
        CowBuilder cow = new() { ScratchBytes = window == 0 ? 0 : SmallCases.ScratchFor(window), MaxUnitBytes = 4096 };
        using RecordedMerge merge = new(cow.Copy(0, 1).Copy(1, 2), 4);
        merge.With(engine => Assert.Equal(hidden, engine.MayHideDamage));
    }
}
