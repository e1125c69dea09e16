using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Threading;
using Snapuserd.Control;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.AndroidDaemon;

/// <summary>
/// What Android's tests do to snapshots of its daemon (test-catalog §4, §6): merge while reading, pause, restart at any moment, several at
/// a time, some next to others that fail.
/// </summary>
public sealed class LifecycleTests(ITestOutputHelper log)
{
    private const int Blocks = 1024;

    /// <summary>
    /// Snapshots of test-catalog §4 by name, with scratch: chains of copies, each of which overwrites what the next one reads, in both
    /// directions, and Xors.
    /// </summary>
    public static IEnumerable<object[]> Chains => [["descending"], ["ascending"], ["ordered"], ["inverted"]];

    [Fact]
    public void A_merge_that_was_paused_for_longer_than_a_second_continues_at_once_when_it_is_resumed()
    {
        using SetFixture fixture = new();
        using Talker client = fixture.Client();
        fixture.Serve(client, "a");
        // The rate allows one batch, and no second one for hours.
        fixture.Set.Snapshots[0].SetRate(1);
        Assert.Equal("success", client.Ask("initiate_merge,a"));
        SetFixture.Until(() => fixture.Status("a").OpsDone > 0, "the first batch");
        Assert.Equal("success", client.Ask("pause_merge"));
        fixture.Set.Snapshots[0].SetRate(0);
        int done = fixture.Status("a").OpsDone;
        Assert.Equal(Golden.New, fixture.Servers["a"].Read(0, Golden.New.Length));
        // Android's daemon polls at least once a second when it starts, and never while it is parked.
        Thread.Sleep(1100);
        Assert.Equal((SnapshotState.Merging, done, true),
            (fixture.Status("a").State, fixture.Status("a").OpsDone, fixture.Status("a").Paused));
        Assert.NotEqual(fixture.Status("a").OpsTotal, done);
        Assert.Equal("success", client.Ask("resume_merge"));
        fixture.Until("a", SnapshotState.Merged);
        Assert.Equal(Golden.New, fixture.Base("a"));
        fixture.Servers["a"].Remove();
    }

    [Fact]
    public void The_marker_of_a_boot_is_removed_when_all_is_merged()
    {
        using SetFixture fixture = new();
        using Talker client = fixture.Client();
        File.WriteAllText(fixture["a.cow.merging"], "");
        fixture.Serve(client, "a");
        Assert.Equal("success", client.Ask("initiate_merge,a"));
        fixture.Until("a", SnapshotState.Merged);
        Assert.False(File.Exists(fixture["a.cow.merging"]));
        fixture.Servers["a"].Remove();
    }

    [Fact]
    public void A_merge_that_is_paused_before_it_begins_does_not_begin_and_delays_no_other()
    {
        using SetFixture fixture = new(merges: 1);
        using Talker client = fixture.Client();
        fixture.Serve(client, "a");
        byte[] cow = Unlocked.Read(fixture["a.cow"], Golden.Cow(SetFixture.Vector).Length);
        Assert.Equal("success", client.Ask("pause_merge"));
        fixture.Serve(client, "b");
        fixture.Serve(client, "c");
        fixture.Set.Snapshots[1].Pause();
        // Of the queued merges, the first one that is not paused gets the slot.
        Assert.Equal("success", client.Ask("initiate_merge,a"));
        Assert.Equal("success", client.Ask("initiate_merge,b"));
        Assert.Equal("success", client.Ask("initiate_merge,c"));
        fixture.Until("c", SnapshotState.Merged);
        Assert.Equal([SnapshotState.Queued, SnapshotState.Queued, SnapshotState.Merged], States(fixture));
        Assert.Equal("snapshot-merge", client.Ask("getstatus,a"));
        Assert.Equal(Golden.Old, fixture.Base("a"));
        // Nothing was written to the COW.
        Assert.Equal(cow, Unlocked.Read(fixture["a.cow"], cow.Length));
        fixture.Set.Snapshots[1].Resume();
        fixture.Until("b", SnapshotState.Merged);
        Assert.Equal([SnapshotState.Queued, SnapshotState.Merged, SnapshotState.Merged], States(fixture));
        // A snapshot that ends before its merge begins leaves its files unchanged.
        fixture.Servers["a"].Remove();
        SetFixture.Until(() => fixture.Set.Snapshots.Length == 2, "the end of a");
        Assert.Equal(cow, File.ReadAllBytes(fixture["a.cow"]));
        Assert.Equal(Golden.Old, File.ReadAllBytes(fixture["a.base"]));
        fixture.Servers["b"].Remove();
        fixture.Servers["c"].Remove();
    }

    [Fact]
    public void A_paused_merge_in_the_queue_lets_the_next_one_pass()
    {
        using SetFixture fixture = new(merges: 1);
        using Talker client = fixture.Client();
        foreach (string name in (string[])["a", "b", "c"]) fixture.Serve(client, name);
        Snapshot[] snapshots = fixture.Set.Snapshots;
        snapshots[0].SetRate(1);
        foreach (string name in (string[])["a", "b", "c"]) Assert.Equal("success", client.Ask($"initiate_merge,{name}"));
        fixture.Until("a", SnapshotState.Merging);
        snapshots[1].Pause();
        snapshots[0].SetRate(0);
        fixture.Until("c", SnapshotState.Merged);
        Assert.Equal([SnapshotState.Merged, SnapshotState.Queued, SnapshotState.Merged], States(fixture));
        snapshots[1].Resume();
        fixture.Until("b", SnapshotState.Merged);
        foreach (string name in (string[])["a", "b", "c"]) fixture.Servers[name].Remove();
    }

    [Fact]
    public void A_merge_with_a_rate_needs_ticks_from_its_request_on()
    {
        using SetFixture fixture = new();
        using Talker client = fixture.Client();
        for (int i = 0; i < 50; i++)
        {
            fixture.Serve(client, $"a{i}");
            Snapshot one = fixture.Set.Snapshots[0];
            one.SetRate(1);
            Assert.True(one.RequestMerge());
            // A thread that reads false does not check again, and the merge would never get a tick.
            while (one.Status.OpsDone == 0) Assert.True(one.NeedsTicks, $"no ticks in try {i}");
            fixture.Servers[$"a{i}"].Remove();
            SetFixture.Until(() => fixture.Set.IsEmpty, "the end");
        }
    }

    [Fact]
    public void A_rate_slows_a_merge_down_until_the_rate_is_removed()
    {
        using SetFixture fixture = new();
        using Talker client = fixture.Client();
        fixture.Serve(client, "a");
        Snapshot snapshot = fixture.Set.Snapshots[0];
        RateTicks ticks = new(() => fixture.Set.Snapshots);
        Assert.Equal(-1, ticks.Due(0));
        snapshot.SetRate(1);
        Assert.Equal(-1, ticks.Due(0));
        Assert.Equal("success", client.Ask("initiate_merge,a"));
        Assert.Equal(0, ticks.Due(0));
        ticks.Tick(0);
        Assert.InRange(ticks.Due(5), 1, 20);
        fixture.Until("a", SnapshotState.Merging);
        snapshot.SetRate(0);
        fixture.Until("a", SnapshotState.Merged);
        Assert.Equal(-1, ticks.Due(0));
        fixture.Servers["a"].Remove();
    }

    [Fact]
    public void Two_merges_run_at_a_time_and_the_next_begins_when_one_is_done_even_if_its_device_stays()
    {
        using SetFixture fixture = new();
        using Talker client = fixture.Client();
        string[] names = ["a", "b", "c", "d", "e"];
        foreach (string name in names) fixture.Serve(client, name);
        // The rate allows one batch of each, and no second one for hours.
        foreach (Snapshot one in fixture.Set.Snapshots) one.SetRate(1);
        foreach (string name in names) Assert.Equal("success", client.Ask($"initiate_merge,{name}"));
        fixture.Until("a", SnapshotState.Merging);
        fixture.Until("b", SnapshotState.Merging);
        Assert.Equal([SnapshotState.Merging, SnapshotState.Merging, SnapshotState.Queued, SnapshotState.Queued, SnapshotState.Queued],
            States(fixture));
        foreach (string name in names) Assert.Equal("snapshot-merge", client.Ask($"getstatus,{name}"));
        fixture.Set.Snapshots[1].SetRate(0);
        fixture.Until("b", SnapshotState.Merged);
        fixture.Until("c", SnapshotState.Merging);
        Assert.Equal([SnapshotState.Merging, SnapshotState.Merged, SnapshotState.Merging, SnapshotState.Queued, SnapshotState.Queued],
            States(fixture));
        Assert.InRange(double.Parse(client.Ask("merge_percent"), CultureInfo.InvariantCulture), 20, 59.9);
        // The removed "d" leaves the queue. The removed "a", which was merging, frees its slot for the last one.
        fixture.Servers["d"].Remove();
        SetFixture.Until(() => fixture.Set.Snapshots.Length == 4, "the end of d");
        fixture.Servers["a"].Remove();
        fixture.Until("e", SnapshotState.Merging);
        foreach (Snapshot one in fixture.Set.Snapshots) one.SetRate(0);
        fixture.Until("c", SnapshotState.Merged);
        fixture.Until("e", SnapshotState.Merged);
        foreach (string name in (string[])["b", "c", "e"])
        {
            Assert.Equal(Golden.New, fixture.Base(name));
            fixture.Servers[name].Remove();
        }
        SetFixture.Until(() => fixture.Set.IsEmpty, "the end");
        Assert.Equal("100.000000", client.Ask("merge_percent"));
        Assert.Equal(Golden.Old, fixture.Base("d"));
    }

    [Fact]
    public void A_snapshot_that_is_not_served_is_not_queued()
    {
        using SetFixture fixture = new(merges: 1);
        using Talker client = fixture.Client();
        Assert.StartsWith("success,", client.Ask(fixture.Files("idle")), StringComparison.Ordinal);
        // Requests the merge directly from the snapshot, as ctl does.
        Assert.False(fixture.Set.Snapshots[0].RequestMerge());
        Assert.False(fixture.Set.Snapshots[0].MergeRequested);
        fixture.Serve(client, "a");
        Assert.Equal("success", client.Ask("initiate_merge,a"));
        fixture.Until("a", SnapshotState.Merged);
        Assert.Equal("success", client.Ask("delete,idle"));
        fixture.Servers["a"].Remove();
    }

    [Fact]
    public void A_failed_merge_frees_its_slot_does_not_count_as_done_and_disturbs_no_other()
    {
        using SetFixture fixture = new(merges: 1, verifyFirst: false);
        using Talker client = fixture.Client();
        // A codec with a checksum; the damage is in the middle of the payloads, which follow 2 MiB of scratch.
        byte[] cow = Golden.Cow("v2-gz-xor");
        cow[(2 << 20) + ((cow.Length - (2 << 20)) / 2)] ^= 0x55;
        fixture.Serve(client, "bad", cow);
        fixture.Serve(client, "good");
        Assert.Equal("success", client.Ask("initiate_merge,bad"));
        Assert.Equal("success", client.Ask("initiate_merge,good"));
        fixture.Until("good", SnapshotState.Merged);
        Assert.Equal("snapshot-merge-failed", client.Ask("getstatus,bad"));
        Assert.Equal("snapshot-merge-complete", client.Ask("getstatus,good"));
        Assert.NotEqual("", fixture.Status("bad").Error);
        // Its first blocks are readable as before.
        Assert.Equal(Golden.New[..65536], fixture.Servers["bad"].Read(0, 65536));
        fixture.Servers["bad"].Remove();
        SetFixture.Until(() => fixture.Set.Snapshots.Length == 1, "the end of the one that failed");
        Assert.Equal("100.000000", client.Ask("merge_percent"));
        fixture.Servers["good"].Remove();
        SetFixture.Until(() => fixture.Set.IsEmpty, "the end");
        Assert.Equal("100.000000", client.Ask("merge_percent"));
    }

    [Fact]
    public void A_failed_merge_of_a_removed_snapshot_does_not_count_as_done()
    {
        using SetFixture fixture = new(verifyFirst: false);
        using Talker client = fixture.Client();
        byte[] cow = Golden.Cow("v2-gz-xor");
        cow[(2 << 20) + ((cow.Length - (2 << 20)) / 2)] ^= 0x55;
        fixture.Serve(client, "bad", cow);
        Assert.Equal("success", client.Ask("initiate_merge,bad"));
        fixture.Until("bad", SnapshotState.Failed);
        fixture.Servers["bad"].Remove();
        SetFixture.Until(() => fixture.Set.IsEmpty, "the end");
        Assert.Equal("0.000000", client.Ask("merge_percent"));
    }

    [Theory]
    [MemberData(nameof(Chains))]
    public void A_merge_that_is_restarted_at_random_moments_and_read_meanwhile_ends_in_the_target(string name)
    {
        (byte[] cow, byte[] old, byte[] target) = Chain(name);
        using SetFixture fixture = new(foreign: false);
        using Talker client = fixture.Client();
        const int seed = 20260;
        Random random = new(seed);
        log.WriteLine($"seed {seed}");
        _ = fixture.Files("x", cow, old);
        int restarts = 0, resumed = 0;
        for (bool merged = false; !merged; restarts++)
        {
            Assert.StartsWith("success,", client.Ask(fixture.Init("x")), StringComparison.Ordinal);
            if (fixture.Status("x").ResumedFrom > 0) resumed++;
            Assert.Equal("success", client.Ask("start,x"));
            // At first a rate that allows some hundred blocks between two restarts; in the end no limit.
            fixture.Set.Snapshots[0].SetRate(restarts < 25 ? 512 << 10 : 0);
            Assert.Equal("success", client.Ask("initiate_merge,x"));
            int wanted = random.Next(0, Blocks / 4), from = fixture.Status("x").OpsDone;
            SetFixture.Until(() =>
            {
                fixture.Set.Snapshots[0].Wake();
                SnapshotStatus status = fixture.Status("x");
                int block = random.Next(Blocks - 8);
                Assert.Equal(target.AsSpan(block * 4096, 8 * 4096).ToArray(), fixture.Servers["x"].Read(block * 4096L, 8 * 4096));
                return status.State == SnapshotState.Merged || (restarts < 25 && status.OpsDone - from >= wanted);
            }, "some of the merge");
            merged = fixture.Status("x").State == SnapshotState.Merged;
            if (merged) Assert.Equal(target, fixture.Servers["x"].Read(0, target.Length));
            Assert.Equal("success", client.Ask("delete,x"));
        }
        log.WriteLine($"{restarts} starts, {resumed} of them in the midst");
        Assert.True(resumed > 0, "no restart came in the midst of the merge");
        Assert.Equal(target, fixture.Base("x"));
        Assert.Equal("100.000000", client.Ask("merge_percent"));
    }

    [Fact]
    public void A_snapshot_deleted_during_its_merge_stops_at_a_checkpoint_and_the_next_continues()
    {
        using SetFixture fixture = new(foreign: false);
        using Talker client = fixture.Client();
        (byte[] cow, byte[] old, byte[] target) = Chain("ordered");
        fixture.Serve(client, "a", cow, old);
        Assert.Equal("success", client.Ask("initiate_merge,a"));
        Assert.Equal("success", client.Ask("delete,a"));
        Assert.Empty(fixture.Set.Snapshots);
        Assert.StartsWith("success,", client.Ask(fixture.Init("a")), StringComparison.Ordinal);
        Assert.Equal("success", client.Ask("start,a"));
        Assert.Equal(target, fixture.Servers["a"].Read(0, target.Length));
        Assert.Equal("success", client.Ask("initiate_merge,a"));
        fixture.Until("a", SnapshotState.Merged);
        Assert.Equal("success", client.Ask("delete,a"));
        Assert.Equal(target, fixture.Base("a"));
    }

    [Fact]
    public void Ops_that_name_a_block_twice_are_merged_and_counted_twice()
    {
        CowBuilder builder = new() { Version = 2 };
        builder.Zero(3).Zero(3);
        using SetFixture fixture = new();
        using Talker client = fixture.Client();
        byte[] old = Image(1, 16);
        fixture.Serve(client, "a", builder.Build(), old);
        Assert.Equal("success", client.Ask("initiate_merge,a"));
        fixture.Until("a", SnapshotState.Merged);
        Assert.Equal((2, 2), (fixture.Status("a").OpsDone, fixture.Status("a").OpsTotal));
        old.AsSpan(3 * 4096, 4096).Clear();
        Assert.Equal(old, fixture.Base("a"));
        fixture.Servers["a"].Remove();
    }

    [Fact]
    public void First_stage_snapshots_are_replaced_by_those_of_the_second_on_the_same_files()
    {
        // DaemonTransition of test-catalog §6: the old device is removed after the new table is active. The lock on the files is released
        // with it.
        using SetFixture first = new(), second = new();
        using Talker old = first.Client(), now = second.Client();
        first.Serve(old, "system-init");
        old.Send("detach");
        string init = first.Init("system-init").Replace("system-init,", "system,", StringComparison.Ordinal);
        now.Send(init);
        first.Servers["system-init"].Remove();
        Assert.StartsWith("success,", now.Receive(), StringComparison.Ordinal);
        SetFixture.Until(() => first.Set.IsEmpty, "the end of the first daemon");
        Assert.Equal("success", now.Ask("start,system"));
        Assert.Equal(Golden.New, second.Servers["system"].Read(0, Golden.New.Length));
        second.Servers["system"].Remove();
        SetFixture.Until(() => second.Set.IsEmpty, "the end of the second daemon");
    }

    [Fact]
    public void All_snapshots_are_served_or_the_first_that_cannot_be_is_named()
    {
        using SetFixture fixture = new(foreign: false);
        foreach (string name in (string[])["a", "b", "c"]) _ = fixture.Files(name);
        Assert.Null(fixture.Set.ServeAll([fixture.Request("a"), fixture.Request("b")], () => false));
        Assert.Equal(Golden.New, fixture.Servers["b"].Read(0, Golden.New.Length));
        Assert.Equal("d", fixture.Set.ServeAll([fixture.Request("c"), fixture.Request("d")], () => false));
    }

    [Fact]
    public void A_wait_for_all_snapshots_to_be_served_can_be_stopped()
    {
        using ManualResetEventSlim go = new();
        using SetFixture fixture = new(check: _ => go.Wait());
        _ = fixture.Files("a");
        bool over = false;
        string? failed = "";
        Thread waiter = new(() => failed = fixture.Set.ServeAll([fixture.Request("a")], () => Volatile.Read(ref over)));
        waiter.Start();
        Volatile.Write(ref over, true);
        fixture.Changed.Signal();
        waiter.Join();
        Assert.Null(failed);
        go.Set();
    }

    [Fact]
    public void Many_clients_make_and_end_snapshots_at_the_same_time()
    {
        using SetFixture fixture = new(foreign: false);
        const int clients = 6;
        Exception? failure = null;
        Thread[] threads = new Thread[clients];
        for (int i = 0; i < clients; i++)
        {
            string name = $"p{i}";
            string init = fixture.Files(name);
            threads[i] = new Thread(() =>
            {
                try
                {
                    using Talker client = fixture.Client();
                    for (int round = 0; round < 5; round++)
                    {
                        Assert.StartsWith("success,", client.Ask(init), StringComparison.Ordinal);
                        Assert.Equal("success", client.Ask($"start,{name}"));
                        if (round == 4)
                        {
                            Assert.Equal("success", client.Ask($"initiate_merge,{name}"));
                            SetFixture.Until(() => client.Ask($"getstatus,{name}") == "snapshot-merge-complete", "merge");
                        }
                        Assert.Equal("success", client.Ask($"delete,{name}"));
                    }
                }
                catch (Exception e)
                {
                    Interlocked.CompareExchange(ref failure, e, null);
                }
            });
            threads[i].Start();
        }
        foreach (Thread thread in threads) thread.Join();
        Assert.Null(failure);
        for (int i = 0; i < clients; i++) Assert.Equal(Golden.New, fixture.Base($"p{i}"));
        Assert.True(fixture.Set.IsEmpty);
    }

    private static SnapshotState[] States(SetFixture fixture) => Array.ConvertAll(fixture.Set.Snapshots, one => one.Status.State);

    private static byte[] Image(int seed, int blocks)
    {
        byte[] bytes = new byte[blocks * 4096];
        new Random(seed).NextBytes(bytes);
        return bytes;
    }

    /// <summary>
    /// The COW, the old and the new image, by the names of the test-catalog. Either a chain of copies (block i+1 from i, or i from i+1), or
    /// copies from the image's second half before Xors in that half, in ascending or descending order.
    /// </summary>
    private static (byte[] Cow, byte[] Old, byte[] New) Chain(string name)
    {
        byte[] old = Image(5, Blocks), target = (byte[])old.Clone();
        CowBuilder builder = new() { Version = 2, Compression = CowCompression.Gz };
        List<(uint New, ulong Source, bool Xor)> ops = [];
        switch (name)
        {
            case "descending":
                for (uint i = Blocks - 1; i > 0; i--) ops.Add((i, i - 1, false));
                break;
            case "ascending":
                for (uint i = 0; i < Blocks - 1; i++) ops.Add((i, i + 1, false));
                break;
            default:
                // Each Xor reads part of a neighbouring block before that block is written: the next block in ascending order, the previous
                // block in descending order.
                bool inverted = name == "inverted";
                for (uint i = 0; i < Blocks / 2; i++) ops.Add((i, i + (Blocks / 2), false));
                for (uint i = (Blocks / 2) + 1; i < Blocks - 1; i++) ops.Add((i, ((ulong)i * 4096) + 5 - (inverted ? 10u : 0), true));
                if (inverted)
                {
                    ops.Reverse(0, Blocks / 2);
                    ops.Reverse(Blocks / 2, ops.Count - (Blocks / 2));
                }
                break;
        }
        byte[] payload = new byte[4096];
        payload.AsSpan().Fill(0x21);
        foreach ((uint block, ulong source, bool xor) in ops)
        {
            if (xor)
            {
                builder.Xor(block, source, payload);
                for (int i = 0; i < 4096; i++) target[(block * 4096) + i] = (byte)(old[(int)source + i] ^ 0x21);
            }
            else
            {
                builder.Copy(block, source);
                old.AsSpan((int)source * 4096, 4096).CopyTo(target.AsSpan((int)block * 4096));
            }
        }
        // With a Sequence op, the merge order is the writer's order.
        uint[] order = new uint[ops.Count];
        for (int i = 0; i < order.Length; i++) order[i] = ops[i].New;
        CowBuilder sequenced = new() { Version = 2, Compression = CowCompression.Gz, ClusterOps = 200 };
        sequenced.Sequence(order);
        foreach (BuiltOp op in builder.Ops) sequenced.Add(op);
        return (sequenced.Build(), old, target);
    }
}
