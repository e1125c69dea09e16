using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Merge;

/// <summary>
/// A source that shares storage with the base but is another device: results and error messages. tests/Simulation covers every shift and
/// every order.
/// </summary>
public sealed class OverlapTests
{
    private static readonly byte[] s_old = SmallCases.Random(7, 12);
    private static readonly byte[] s_own = SmallCases.Random(8, 16);

    private static CowBuilder Scratch(int window) =>
        new() { ScratchBytes = window == 0 ? 0 : SmallCases.ScratchFor(window), MaxUnitBytes = 4096 };

    /// <summary>
    /// A merge with a base of twelve blocks and a source that consists of <paramref name="pieces"/> (<see cref="Geometry"/>).
    /// </summary>
    private static MergeCase Case(CowBuilder cow, string pieces)
    {
        Geometry geometry = new(pieces);
        byte[] source = geometry.Contents(s_old, s_own);
        return new MergeCase("case", new Image(cow.Build()), new Image(s_old), new Image(NaiveMerger.Merge(cow.Ops, source, s_old)))
        {
            Source = new Image(source),
            Overlap = geometry.Ranges(new Chance(1)),
        };
    }

    private static MergeResult Merges(MergeCase merge)
    {
        SimDisk[] disks = merge.Disks();
        using Arena arena = new(merge.ArenaBytes);
        MergeResult result = SimMerge.Run(merge, disks, arena, 1, () => { });
        Assert.Equal(-1, disks[1].Durable.FirstDifference(merge.Target));
        return result;
    }

    private static string Refused(MergeCase merge, ExitCode code = ExitCode.Usage)
    {
        SimDisk[] disks = merge.Disks();
        using Arena arena = new(merge.ArenaBytes);
        SnapuserdException e =
            Assert.Throws<SnapuserdException>(() => SimMerge.Run(merge, disks, arena, 1, () => Assert.Fail("something is written")));
        Assert.Equal(code, e.Code);
        Assert.Equal(-1, disks[0].Cache.FirstDifference(merge.Cow));
        Assert.Equal(-1, disks[1].Cache.FirstDifference(merge.Base));
        return e.Message;
    }

    [Theory]
    // The source begins a block before the base: its block 1 is the base's block 0.
    [InlineData("p8,b0+96")]
    // It begins a block after the base, and is longer.
    [InlineData("b8+88,p24")]
    // It begins where the base begins, and is longer: a partition that shrinks.
    [InlineData("b0+96,p8")]
    // It lies inside the base.
    [InlineData("b16+64")]
    [InlineData("b3+93")]
    [InlineData("p5,b0+91")]
    public void A_source_at_other_bytes_of_the_same_disk_is_merged_to_the_target(string pieces)
    {
        CowBuilder cow = Scratch(8);
        for (uint i = 1; i < 7; i++) cow.Copy(i, i + 1);
        Merges(Case(cow, pieces));
    }

    [Fact]
    public void A_block_of_which_two_later_ops_read_half_each_is_overwritten_only_in_their_window()
    {
        // The base's block 2 is the end of the source's block 2 and the beginning of its block 3.
        MergeCase merge = Case(Scratch(3).Zero(11).Copy(2, 9).Copy(5, 2).Copy(7, 3), "p4,b0+92");
        Assert.Equal(3, Merges(merge).Journaled);
        Assert.Contains("op 1 (Copy of block 2)", Refused(Case(Scratch(2).Zero(11).Copy(2, 9).Copy(5, 2).Copy(7, 3), "p4,b0+92")),
            StringComparison.Ordinal);
    }

    [Fact]
    public void A_window_begins_where_it_does_not_end_between_a_writer_and_its_reader()
    {
        // A window at 0 would end after op 3, and op 4 reads the block that op 1 overwrites. A window at 1 protects both.
        CowBuilder cow = Scratch(4).Copy(0, 8).Copy(2, 9).Copy(4, 10).Copy(6, 10).Copy(8, 2);
        MergeResult result = Merges(Case(cow, "p1,b0+95"));
        Assert.Equal(4, result.Journaled);
    }

    [Fact]
    public void A_copy_onto_the_same_storage_is_skipped_and_one_onto_the_same_block_number_is_not()
    {
        MergeResult result = Merges(Case(Scratch(2).Copy(3, 4).Copy(6, 6), "p8,b0+88"));
        Assert.Equal(1, result.Blocks);
    }

    [Fact]
    public void A_refusal_names_both_ops_the_block_the_shift_and_the_remedies()
    {
        string message = Refused(Case(Scratch(2).Copy(2, 9).Copy(4, 8).Copy(5, 10).Copy(6, 3), "p8,b0+88"));
        foreach (string part in new[] { "op 3 (Copy of block 6)", "block 3 of source", "op 0 (Copy of block 2)", "-4096 bytes",
            "no window of 2 ops", "nothing was written", "--source", "extract" })
            Assert.Contains(part, message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_replace_that_overwrites_the_source_of_a_later_copy_is_refused_with_the_reason()
    {
        string message = Refused(Case(Scratch(8).Replace(2, SmallCases.Random(1, 1)).Copy(6, 3), "p8,b0+88"));
        Assert.Contains("copies and xors only", message, StringComparison.Ordinal);
        Assert.Contains("op 0 (Replace of block 2)", message, StringComparison.Ordinal);
    }

    [Fact]
    public void Without_scratch_copies_that_need_a_window_are_refused_and_others_are_merged()
    {
        Assert.Contains("no scratch", Refused(Case(Scratch(0).Copy(2, 9).Copy(6, 3), "p8,b0+88")), StringComparison.Ordinal);
        CowBuilder chain = Scratch(0);
        for (uint i = 1; i < 7; i++) chain.Copy(i, i + 2);
        Assert.Equal(0, Merges(Case(chain, "p8,b0+88")).Journaled);
    }

    [Fact]
    public void A_copy_that_overwrites_half_of_its_source_needs_scratch_or_allow_unsafe()
    {
        Assert.Equal(1, Merges(Case(Scratch(2).Copy(3, 3), "p4,b0+92")).Journaled);
        MergeCase bare = Case(Scratch(0).Copy(3, 3), "p4,b0+92");
        Assert.Contains("--allow-unsafe", Refused(bare), StringComparison.Ordinal);
        Merges(bare with { Options = bare.Options with { AllowUnsafe = true } });
    }

    [Fact]
    public void A_COW_with_a_count_between_a_writer_and_its_reader_is_neither_merged_nor_read()
    {
        CowBuilder cow = new() { ScratchBytes = SmallCases.ScratchFor(2), NumMergeOps = 1 };
        MergeCase merge = Case(cow.Copy(2, 9).Copy(6, 3), "p8,b0+88");
        string message = Refused(merge, ExitCode.CowCorrupt);
        Assert.Contains("op 1 (Copy of block 6)", message, StringComparison.Ordinal);
        Assert.Contains("gone", message, StringComparison.Ordinal);
        using Arena arena = new(merge.ArenaBytes);
        SnapuserdException e = Assert.Throws<SnapuserdException>(() => SimMerge.FirstWrongPage(merge, merge.Disks(), arena, 1));
        Assert.Equal(message, e.Message);
    }

    [Fact]
    public void The_error_names_a_writer_whose_reader_is_not_counted()
    {
        // Op 1 partly overwrites its own source, and op 0 partly overwrites the source of op 2.
        CowBuilder cow = new() { ScratchBytes = SmallCases.ScratchFor(2), NumMergeOps = 2 };
        string message = Refused(Case(cow.Copy(2, 9).Copy(5, 5).Copy(7, 3), "p4,b0+92"), ExitCode.CowCorrupt);
        Assert.Contains(
            "as far as op 2 of 3, and op 2 (Copy of block 7) reads block 3 of source, which op 0 (Copy of block 2) overwrites before it",
            message, StringComparison.Ordinal);
    }

    [Fact]
    public void An_image_that_cannot_be_merged_can_still_be_read()
    {
        MergeCase merge = Case(Scratch(0).Copy(2, 9).Copy(6, 3).Xor(7, (7 * 4096) + 5, s_own.AsSpan(0, 4096)), "p8,b0+88");
        using Arena arena = new(merge.ArenaBytes);
        Assert.Equal(-1, SimMerge.FirstWrongPage(merge, merge.Disks(), arena, 1));
        // Readers of a server get the same result before the merge is requested and after it is refused.
        Refused(merge with { Readers = true });
    }

    [Fact]
    public void A_source_that_shares_no_storage_is_merged_as_a_separate_device()
    {
        MergeCase merge = Case(Scratch(0).Copy(3, 3).Copy(4, 3).Xor(3 + 2, 5 * 4096, s_own.AsSpan(0, 4096)), "p96");
        Assert.Equal(3, Merges(merge with { Overlap = [] }).Blocks);
    }
}
