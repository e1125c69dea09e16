using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Merge;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Simulation;

/// <summary>A model of Android's engine and our engine each continue from the state that the other left (design §8).</summary>
public sealed class AndroidTests(ITestOutputHelper output)
{
    // Cases that Android refuses: one fails an assertion of its merge thread. In the other, our engine marks a block in the middle of an
    // unsafe Xor with a magic that Android's parser does not know.
    private static readonly string[] s_refused = ["ordered-after-replace", "no-scratch-in-place"];

    public static IEnumerable<object[]> Small =>
        from name in SmallCases.Names from window in new[] { 2, 3 } select new object[] { name, window };

    private static MergeCase GoldenCase(string name, byte[] cow, byte[] baseImage) =>
        new(name, new Image(cow), new Image(baseImage), new Image(Golden.New))
        {
            ArenaBytes = 8 << 20,
            QueueDepth = 32,
            MayBeLost = name.EndsWith("noscratch", StringComparison.Ordinal),
            Options = new MergeOptions
            {
                VerifyFirst = false,
                CheckpointBytes = 256 << 10,
                AllowUnsafe = name.EndsWith("noscratch", StringComparison.Ordinal),
            },
        };

    private static MergeCase GoldenCase(string name) => GoldenCase(name, Golden.Cow(name), Golden.Old);

    private static AndroidSimulation GoldenSimulation(MergeCase merge, AndroidCounts counts, Arena arena) =>
        new(merge, counts, arena) { ReadStride = 199, CommitOps = 256, MayRefuse = AndroidSimulation.Refusals(merge) };

    [Theory]
    [MemberData(nameof(Golden.HalfNames), MemberType = typeof(Golden))]
    public void Model_finishes_merges_that_the_real_Android_left_half_done(string name)
    {
        AndroidCounts counts = new();
        MergeCase merge = GoldenCase(name, Golden.HalfCow(name), Golden.HalfBase(name));
        using Arena arena = new(merge.ArenaBytes);
        AndroidSimulation simulation = GoldenSimulation(merge, counts, arena);
        simulation.AndroidGoesOn(merge, merge.Disks());
        output.WriteLine(counts.ToString());
        Assert.Equal(1, counts.Ours);
        // After a kill inside its first window Android reads data that it has already overwritten. After a kill before the first write, or
        // after that window, it does not.
        Assert.Equal(name.Contains("F1sync", StringComparison.Ordinal), counts.Defect5 > 0);
    }

    [Theory]
    [MemberData(nameof(Golden.CowNames), MemberType = typeof(Golden))]
    public void Model_merges_every_COW_that_the_real_Android_merges(string name)
    {
        AndroidCounts counts = new();
        MergeCase merge = GoldenCase(name);
        using Arena arena = new(merge.ArenaBytes);
        AndroidSimulation simulation = GoldenSimulation(merge, counts, arena);
        simulation.AndroidGoesOn(merge, merge.Disks());
        Assert.Equal(1, counts.Ours);
        Assert.Equal(0, counts.Defect5);
    }

    [Theory]
    [MemberData(nameof(Small))]
    public void Android_continues_from_every_state_that_a_crash_of_ours_leaves(string name, int window)
    {
        AndroidCounts counts = new();
        MergeCase merge = SmallCases.Make(name, window);
        bool refuses = s_refused.Contains(name);
        using Arena arena = new(merge.ArenaBytes);
        foreach (int grain in new[] { Page.Size, Page.Sector })
        {
            AndroidSimulation simulation = new(merge, counts, arena) { MayRefuse = AndroidSimulation.Refusals(merge) };
            using Explorer explorer =
                new(merge, new Thoroughness { Seed = 21, Grain = grain, Crashes = 1, ExhaustiveUpTo = 6, Samples = 16 }, arena)
                {
                    EveryState = simulation.AndroidGoesOn,
                };
            explorer.Explore();
        }
        output.WriteLine(counts.ToString());
        Assert.True(counts.Ours > 5);
        Assert.Equal(refuses, counts.Refused > 0);
    }

    [Theory]
    [MemberData(nameof(Small))]
    public void Our_engine_continues_from_every_state_that_a_crash_of_Android_leaves(string name, int window)
    {
        if (name == "ordered-after-replace") return;
        AndroidCounts counts = new();
        MergeCase merge = SmallCases.Make(name, window);
        using Arena arena = new(merge.ArenaBytes);
        foreach (int grain in new[] { Page.Size, Page.Sector })
        {
            AndroidSimulation simulation = new(merge, counts, arena) { Grain = grain };
            simulation.WeGoOn(most: 64);
        }
        output.WriteLine(counts.ToString());
        // Without scratch Android loses data when it is stopped inside its one window; only the states after that window can be continued.
        Assert.True(counts.Androids > (name.Contains("no-scratch", StringComparison.Ordinal) ? 0 : 20));
    }

    [Theory]
    [InlineData("chain-up", 2)]
    [InlineData("mixed", 2)]
    [InlineData("xor-unaligned-in-place", 3)]
    [InlineData("two-windows-and-plain", 2)]
    public void After_a_crash_of_ours_in_a_merge_that_Android_left_both_engines_can_continue(string name, int window)
    {
        AndroidCounts counts = new();
        MergeCase merge = SmallCases.Make(name, window);
        using Arena arena = new(merge.ArenaBytes);
        AndroidSimulation simulation = new(merge, counts, arena);
        simulation.WeGoOn(most: 4, stride: 3, crashes: 1);
        output.WriteLine(counts.ToString());
        Assert.True(counts.Ours > 50);
    }

    [Theory]
    [InlineData("chain-up", 3)]
    [InlineData("xor-in-place", 2)]
    [InlineData("v2-clusters", 3)]
    public void Damaged_window_is_refused_before_the_base_is_written_or_merged_correctly(string name, int window)
    {
        MergeCase merge = SmallCases.Make(name, window);
        using Arena arena = new(merge.ArenaBytes);
        Assert.True(new AndroidSimulation(merge, new AndroidCounts(), arena).DamagedWindows() > 10);
    }

    [Theory]
    [InlineData("a window shorter than W")]
    [InlineData("slots in another order than the ops")]
    [InlineData("entries that count from the scratch and not from the file")]
    [InlineData("the next count with state 2")]
    [InlineData("the next count before its blocks")]
    [InlineData("state 1 while the base is half written")]
    public void Model_detects_states_from_which_Android_could_not_continue(string sabotage)
    {
        MergeCase merge = SmallCases.Make("chain-up", 3);
        ScratchLayout layout = new(78, (uint)SmallCases.ScratchFor(3));
        bool halfWritten = sabotage.Contains("half", StringComparison.Ordinal);
        // The second of two windows, because at count 0 Android's own defect 5 would hide errors.
        SimDisk[]? left = null;
        SimDisk[] disks = merge.Disks();
        AndroidModel model = null!;
        model = new AndroidModel(disks)
        {
            Moment = name =>
            {
                if (model.Count == 3 && name == (halfWritten ? "window partly written" : "window persisted")) left =
                CrashStates.Death(disks);
            },
        };
        Assert.Equal(AndroidEnd.Merged, model.Merge().End);

        using Arena arena = new(merge.ArenaBytes);
        AndroidCounts counts = new();
        AndroidSimulation simulation = new(merge, counts, arena);
        simulation.AndroidGoesOn(merge, left!);
        Assert.Equal(1, counts.Ours);

        byte[] cow = left![0].Cache.ToArray();
        Span<byte> Entry(int index) => cow.AsSpan((int)layout.EntryOffset(index), ScratchLayout.EntryBytes);
        Span<byte> Slot(int index) => cow.AsSpan((int)layout.SlotOffset(index), Page.Size);
        Assert.Equal(ScratchLayout.Valid, cow[layout.StateOffset]);
        switch (sabotage)
        {
            case "a window shorter than W":
                Entry(2).Clear();
                break;
            case "slots in another order than the ops":
                Assert.False(Slot(0).SequenceEqual(Slot(1)));
                byte[] slot = Slot(0).ToArray();
                Slot(1).CopyTo(Slot(0));
                slot.CopyTo(Slot(1));
                byte block = Entry(0)[0];
                Entry(0)[0] = Entry(1)[0];
                Entry(1)[0] = block;
                break;
            case "entries that count from the scratch and not from the file":
                for (int i = 0; i < 3; i++)
                    BinaryPrimitives.WriteInt64LittleEndian(Entry(i)[8..], layout.SlotOffset(i) - layout.HeaderBytes);
                break;
            case "the next count with state 2":
                cow[26] += 2;
                break;
            case "the next count before its blocks":
                cow[26] += 2;
                cow[layout.StateOffset] = ScratchLayout.Invalid;
                break;
            default:
                cow[layout.StateOffset] = ScratchLayout.Invalid;
                break;
        }
        LostDataException caught =
            Assert.Throws<LostDataException>(() => simulation.AndroidGoesOn(merge, [new SimDisk(new Image(cow)), left[1]]));
        output.WriteLine(caught.Message);
    }

    [Theory]
    [MemberData(nameof(Small))]
    public void Both_engines_in_turn_reach_the_target(string name, int window)
    {
        AndroidCounts counts = new();
        MergeCase merge = SmallCases.Make(name, window);
        using Arena arena = new(merge.ArenaBytes);
        AndroidSimulation simulation =
            new(merge, counts, arena, seed: 5) { Grain = Page.Sector, MayRefuse = AndroidSimulation.Refusals(merge) };
        simulation.Relay(legs: 100);
        output.WriteLine(counts.ToString());
        Assert.True(counts.Androids > 10);
        Assert.True(counts.Ours > 10);
    }

    [Fact]
    public void Random_merges_pass_from_engine_to_engine()
    {
        AndroidCounts counts = new();
        Tally tally = new();
        AndroidSimulation.CheckAll(Enumerable.Range(1, 150).Select(seed => (ulong)seed), counts, tally);
        output.WriteLine($"{counts}; {tally}");
        // Each kind of state must occur, or the test is void: torn counts, reads by defect 5, and counts that Android trusts too early.
        Assert.True(counts.Torn > 0);
        Assert.True(counts.Defect5 > 0);
        Assert.True(counts.LeftOut > 0);
    }

    [Fact]
    public void Android_continues_from_every_state_that_a_crash_of_ours_leaves_of_any_program_of_two_ops()
    {
        AndroidCounts counts = new();
        Tally tally = new();
        Programs.CheckLists(Programs.AllLists(2, 1), 1, tally, everyState: AndroidSimulation.Following(counts));
        output.WriteLine($"{counts}; {tally}");
        Assert.Equal(tally.Distinct, counts.Ours + counts.Refused);
        Assert.True(counts.Refused > 0);
    }

    [Fact]
    public void Android_continues_from_every_state_that_a_crash_of_ours_leaves_of_some_programs_of_three_ops()
    {
        AndroidCounts counts = new();
        Tally tally = new();
        Programs.CheckLists(Programs.SomeLists(3, 2).Take(300), 2, tally, everyState: AndroidSimulation.Following(counts));
        output.WriteLine($"{counts}; {tally}");
        Assert.Equal(tally.Distinct, counts.Ours + counts.Refused);
    }

    [Theory]
    [InlineData("v3-lz4-64k-xor")]
    [InlineData("v2-gz-cluster7-labels")]
    public void Both_engines_in_turn_reach_the_target_of_a_golden_merge(string name)
    {
        AndroidCounts counts = new();
        MergeCase merge = GoldenCase(name);
        using Arena arena = new(merge.ArenaBytes);
        GoldenSimulation(merge, counts, arena).Relay(legs: 12);
        output.WriteLine(counts.ToString());
        Assert.True(counts.Androids + counts.Ours > 8);
    }

    [Theory]
    [InlineData("v3-lz4-64k-xor", 97)]
    [InlineData("v2-gz-copyonly", 97)]
    [InlineData("v3-lz4-noseq", 131)]
    [InlineData("v2-zstd-noscratch", 37)]
    public void Android_continues_from_states_that_our_engine_leaves_of_a_golden_merge(string name, int stride)
    {
        AndroidCounts counts = new();
        MergeCase merge = GoldenCase(name);
        using Arena arena = new(merge.ArenaBytes);
        AndroidSimulation simulation = GoldenSimulation(merge, counts, arena);
        using Explorer explorer = new(merge, new Thoroughness { Seed = 3, Crashes = 1, ExhaustiveUpTo = 0, Samples = 1, Stride = stride },
            arena)
        { EveryState = simulation.AndroidGoesOn };
        explorer.Explore();
        output.WriteLine(counts.ToString());
        Assert.True(counts.Ours > 10);
    }

    [Theory]
    [InlineData("v3-zstd-256k-xor", 211)]
    [InlineData("v2-brotli-xor", 307)]
    public void Our_engine_continues_from_states_that_Android_leaves_of_a_golden_merge(string name, int stride)
    {
        AndroidCounts counts = new();
        MergeCase merge = GoldenCase(name);
        using Arena arena = new(merge.ArenaBytes);
        AndroidSimulation simulation = GoldenSimulation(merge, counts, arena);
        simulation.WeGoOn(most: 1, stride);
        output.WriteLine(counts.ToString());
        Assert.True(counts.Androids > 10);
    }
}
