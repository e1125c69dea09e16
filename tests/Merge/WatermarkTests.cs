using System;
using System.Collections.Generic;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Merge;

/// <summary>The four watermarks and their bytes: each move, and each move that their order forbids.</summary>
public sealed class WatermarkTests : IDisposable
{
    // In merge order: a copy, a copy onto itself (nothing to write), data of two blocks, zeros.
    private readonly CowFile _cow = CowFile.Read(new MemorySource(
        new CowBuilder { ScratchBytes = 0, MaxUnitBytes = 8192 }
            .Copy(1, 2).Copy(3, 3).Replace(4, SmallCases.Random(4, 2)).Zero(6).Sequence(1, 3, 4, 6).Build()));
    private readonly MergePlan _plan;

    public WatermarkTests() => _plan = new MergePlan(_cow, 0, sharedBlocks: true, sourceIsBase: true);

    public void Dispose()
    {
        _plan.Dispose();
        _cow.Dispose();
    }

    private static string Of(Watermarks marks) => $"{marks.Released} {marks.Published} {marks.Durable} {marks.Written}";

    private static string Bytes(Watermarks marks) =>
        $"{marks.BytesDurable} {marks.BytesWritten} {marks.BytesTotal}, {marks.BytesUncounted}";

    private static void Refuses(Action move, string message) =>
        Assert.Equal($"the watermark {message}", Assert.Throws<InvalidOperationException>(move).Message);

    private sealed class Recorder : IMergeObserver
    {
        public List<MergeProgress> Seen { get; } = [];

        public void Progress(in MergeProgress progress) => Seen.Add(progress);
    }

    [Theory]
    [InlineData(0, 0)]
    [InlineData(2, 8192)]
    [InlineData(4, 20480)]
    public void All_watermarks_begin_at_the_count_of_the_COW(int start, long bytes)
    {
        Watermarks marks = new(_plan, start);
        Assert.Equal((start, 4), (marks.Start, marks.End));
        Assert.Equal($"{start} {start} {start} {start}", Of(marks));
        Assert.Equal($"{bytes} {bytes} 20480, 0", Bytes(marks));
        Assert.Equal(0, marks.BlocksWritten);
    }

    [Theory]
    [InlineData(-1)]
    [InlineData(5)]
    public void Start_outside_the_plan_is_refused(int start) =>
        Refuses(() => _ = new Watermarks(_plan, start), $"Start cannot move to {start}: it must be between 0 and 4");

    [Fact]
    public void Each_watermark_advances_independently_and_with_its_bytes()
    {
        Recorder recorder = new();
        Watermarks marks = new(_plan, 0, recorder);
        marks.AdvanceWritten(3);
        Assert.Equal("0 0 0 3", Of(marks));
        Assert.Equal("0 16384 20480, 16384", Bytes(marks));
        marks.AdvanceDurable(2);
        Assert.Equal("0 0 2 3", Of(marks));
        Assert.Equal("8192 16384 20480, 8192", Bytes(marks));
        marks.Publish();
        Assert.Equal("0 2 2 3", Of(marks));
        marks.Release();
        Assert.Equal("2 2 2 3", Of(marks));
        marks.AdvanceWritten(4);
        marks.AdvanceDurable(4);
        marks.Publish();
        marks.Release();
        Assert.Equal("4 4 4 4", Of(marks));
        Assert.Equal("20480 20480 20480, 0", Bytes(marks));
        Assert.Equal([new MergeProgress(3, 4, 16384, 20480), new MergeProgress(4, 4, 20480, 20480)], recorder.Seen);
        Assert.Equal(recorder.Seen[^1], marks.Progress);
    }

    [Fact]
    public void Op_with_nothing_to_write_is_written_in_a_window_only()
    {
        Watermarks plain = new(_plan, 0), window = new(_plan, 0);
        plain.AdvanceWritten(4);
        window.AdvanceWritten(4, journaled: true);
        Assert.Equal((4, 5), (plain.BlocksWritten, window.BlocksWritten));
        Assert.Equal(plain.BytesWritten, window.BytesWritten);
    }

    [Fact]
    public void No_watermark_moves_backwards_or_past_the_last_op()
    {
        Watermarks marks = new(_plan, 1);
        Refuses(() => marks.AdvanceWritten(5), "Written cannot move to 5: it must be between 1 and 4");
        Refuses(() => marks.AdvanceWritten(0), "Written cannot move to 0: it must be between 1 and 4");
        Refuses(() => marks.AdvanceDurable(0), "Durable cannot move to 0: it must be between 1 and 1");
        Assert.Equal("1 1 1 1", Of(marks));
    }

    [Fact]
    public void Durable_count_never_exceeds_the_written_count()
    {
        Watermarks marks = new(_plan, 0);
        marks.AdvanceWritten(2);
        Refuses(() => marks.AdvanceDurable(3), "Durable cannot move to 3: it must be between 0 and 2");
        marks.AdvanceDurable(2);
    }

    [Fact]
    public void Durable_count_is_published_only_after_the_previous_one_is_released()
    {
        Watermarks marks = new(_plan, 0);
        marks.AdvanceWritten(4);
        marks.AdvanceDurable(1);
        marks.Publish();
        marks.AdvanceDurable(2);
        Refuses(marks.Publish, "Published cannot move to 2: it must be between 0 and 0");
        Assert.Equal("0 1 2 4", Of(marks));
        marks.Release();
        Assert.Equal("1 1 2 4", Of(marks));
        marks.Publish();
        Assert.Equal("1 2 2 4", Of(marks));
    }
}
