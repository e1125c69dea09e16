using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Merge;

/// <summary>The writes to the COW that the metadata image makes, and those that it refuses because they break a rule.</summary>
public sealed class MetadataImageTests : IDisposable
{
    private const int Window = 2, State = 78;

    private readonly RecordedMerge _merge;
    private readonly Arena _arena = new(256 << 10);
    private readonly MergeSetup _setup;
    private readonly ScratchLayout _layout = new(State, (uint)SmallCases.ScratchFor(Window));

    public MetadataImageTests()
    {
        _merge = new RecordedMerge(
            new CowBuilder { ScratchBytes = SmallCases.ScratchFor(Window), MaxUnitBytes = 4096 }.Copy(0, 1).Copy(1, 2), 4);
        _setup = _merge.Setup(_arena);
    }

    public void Dispose()
    {
        _arena.Dispose();
        ((IDisposable)_merge).Dispose();
    }

    private void Do(IEnumerable<IoGroup> protocol)
    {
        foreach (IoGroup transfers in protocol)
            while (!transfers.IsDone) _setup.Io.Wait();
    }

    private MetadataImage Loaded()
    {
        MetadataImage metadata = new(_setup, _layout, Window);
        Do(metadata.Load());
        return metadata;
    }

    private MetadataImage Durable(int entries = 0, bool begins = true)
    {
        MetadataImage metadata = Loaded();
        Do(metadata.MakeDurable(entries, begins));
        return metadata;
    }

    private string Refused(IEnumerable<IoGroup> protocol)
    {
        int requests = _merge.Requests.Count;
        string message = Assert.Throws<InvalidOperationException>(() => Do(protocol)).Message;
        Assert.Equal(requests, _merge.Requests.Count);
        return message;
    }

    /// <summary>A byte of the metadata image in memory.</summary>
    private ref byte At(MetadataImage metadata, int offset) =>
        ref _arena[new Slice(metadata.Slot(0).Offset - (int)_layout.SlotOffset(0) + offset, 1)][0];

    [Fact]
    public void Metadata_of_the_previous_run_is_written_back_once_exactly_as_it_was_read()
    {
        MetadataImage changed = Loaded();
        changed.Count = 1;
        const string rule = "the previous run's metadata is not written back as it was read";
        Assert.Equal(rule, Refused(changed.MakeDurable(0, true)));
        changed = Loaded();
        changed.SetSlot(0, changed.Slot(1));
        Assert.Equal(rule, Refused(changed.MakeDurable(0, true)));
        MetadataImage metadata = Loaded();
        Assert.False(metadata.IsWrittenBack);
        Assert.Equal(ScratchLayout.Valid, metadata.DurableState);
        using (IEnumerator<IoGroup> steps = metadata.MakeDurable(0, true).GetEnumerator())
        {
            Assert.True(steps.MoveNext());
            Assert.False(metadata.IsWrittenBack);
            _setup.Io.Wait();
            Assert.True(steps.MoveNext());
            // Page 0 is written and not flushed: payloads may be read, but after a power cut the state byte is still undefined.
            Assert.True(metadata.IsWrittenBack);
            Assert.Equal(ScratchLayout.Valid, metadata.DurableState);
            _setup.Io.Wait();
            Assert.False(steps.MoveNext());
        }
        Assert.Equal(ScratchLayout.Invalid, metadata.DurableState);
        Assert.Equal((1, 4096L), (metadata.Flushes, metadata.BytesWritten));
        Assert.Equal(rule, Refused(metadata.MakeDurable(0, true)));
    }

    [Theory]
    [InlineData(0, true, 1)]
    [InlineData(0, false, 0)]
    [InlineData(1, true, 1)]
    [InlineData(2, true, 2)]
    [InlineData(2, false, 2)]
    public void Beginning_a_merge_changes_state_0_to_1_and_no_other_state(byte state, bool begins, byte then)
    {
        _merge.Cow[State] = state;
        MetadataImage metadata = Durable(0, begins);
        Assert.Equal((then, then), (metadata.State, metadata.DurableState));
        Assert.Equal(then, _merge.Cow[State]);
    }

    [Fact]
    public void Scratch_is_written_only_while_neither_disk_nor_image_marks_it_valid()
    {
        Assert.Equal("rule 2: scratch is written while a valid window is on disk", Refused(Loaded().WriteScratch(1)));
        _merge.Cow[State] = ScratchLayout.Valid;
        MetadataImage claimed = Durable();
        claimed.State = ScratchLayout.Invalid;
        Assert.Equal("rule 2: scratch is written while a valid window is on disk", Refused(claimed.WriteScratch(1)));
        _merge.Cow[State] = ScratchLayout.Invalid;
        MetadataImage metadata = Durable();
        metadata.State = ScratchLayout.Valid;
        Assert.Equal("rule 2: scratch is written together with a state byte that calls it valid", Refused(metadata.WriteScratch(1)));
        metadata.State = ScratchLayout.Invalid;
        for (int offset = 0; offset < State; offset++)
        {
            At(metadata, offset)++;
            Assert.Equal("rule 3: the header changes together with scratch", Refused(metadata.WriteScratch(1)));
            At(metadata, offset)--;
        }
        Do(metadata.WriteScratch(1));
    }

    [Fact]
    public void Page_0_is_written_only_if_at_most_magic_count_and_state_changed()
    {
        Assert.Equal("page 0 is written before the previous run's metadata is durable", Refused(Loaded().Commit()));
        MetadataImage metadata = Durable();
        for (int offset = 0; offset < 4096; offset++)
        {
            bool may = offset is < 8 or (>= CowHeader.MergeCountOffset and < CowHeader.MergeCountOffset + 8) or State;
            At(metadata, offset)++;
            if (may) Do(metadata.Commit());
            else Assert.Equal("rule 2: more than magic, count and state changes on page 0", Refused(metadata.Commit()));
            At(metadata, offset)--;
            if (may) Do(metadata.Commit());
        }
        using IEnumerator<IoGroup> steps = metadata.Commit().GetEnumerator();
        Assert.True(steps.MoveNext());
        Assert.Equal("page 0 is written while an earlier write of it is not flushed", Refused(metadata.Commit()));
        _setup.Io.Wait();
        Assert.True(steps.MoveNext());
        Assert.Equal("page 0 is written while an earlier write of it is not flushed", Refused(metadata.Commit()));
        _setup.Io.Wait();
        Assert.False(steps.MoveNext());
        Do(metadata.Commit());
    }

    [Fact]
    public void Counts_above_the_largest_int_are_returned_as_the_largest_int()
    {
        MetadataImage metadata = Loaded();
        foreach ((ulong stored, int count) in new[]
        {
            (0UL, 0), (5UL, 5), (int.MaxValue - 1UL, int.MaxValue - 1), (int.MaxValue + 1UL, int.MaxValue), (ulong.MaxValue, int.MaxValue),
        })
        {
            BitConverter.TryWriteBytes(
                _arena[new Slice(metadata.Slot(0).Offset - (int)_layout.SlotOffset(0) + CowHeader.MergeCountOffset, 8)], stored);
            Assert.Equal(count, metadata.Count);
        }
    }

    [Fact]
    public void Without_scratch_the_state_is_0_and_the_image_is_as_short_as_the_file()
    {
        using RecordedMerge merge = new(new CowBuilder { ScratchBytes = 0, MaxUnitBytes = 4096 }.Zero(1), 4);
        using Arena arena = new(64 << 10);
        MergeSetup setup = merge.Setup(arena);
        merge.Cow[State] = ScratchLayout.Valid;
        MetadataImage metadata = new(setup, new ScratchLayout(State, 0), 0);
        foreach (IoGroup transfers in metadata.Load()) setup.Io.Wait();
        Assert.Equal((ScratchLayout.NeverUsed, ScratchLayout.Valid, merge.Cow.Length),
            (metadata.State, metadata.DurableState, metadata.Image.Length));
        foreach (IoGroup transfers in metadata.MakeDurable(0, true))
            while (!transfers.IsDone) setup.Io.Wait();
        Assert.Equal((ScratchLayout.NeverUsed, ScratchLayout.NeverUsed, ScratchLayout.Valid),
            (metadata.State, metadata.DurableState, merge.Cow[State]));
    }

    [Fact]
    public void Image_fits_exactly_into_the_memory_that_it_needs()
    {
        // Header, list and two slots take whole pages. The slots begin at page boundaries.
        int needed = (int)_layout.HeadBytes(Window) + 4096;
        using Arena enough = new(needed), less = new(needed - 4096);
        Assert.Equal(0, new MetadataImage(_setup with { Arena = enough }, _layout, Window).Slot(0).Offset % 4096);
        SnapuserdException e = Assert.Throws<SnapuserdException>(() => new MetadataImage(_setup with { Arena = less }, _layout, Window));
        Assert.Equal(ExitCode.OutOfResources, e.Code);
        Assert.Equal("cow: windows of 2 ops take 1 MiB of buffer memory beside what the ops need, 0 MiB are left; try a larger --memory",
            e.Message);
    }
}
