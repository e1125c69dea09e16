using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Boot;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Boot;

/// <summary>A boot over real files and a system that only records the requested actions.</summary>
public sealed class BootTests : IDisposable
{
    private readonly TempFolder _folder = new();
    private readonly FakeSystem _system = new();
    private readonly List<string> _log = [];

    public void Dispose() => _folder.Dispose();

    /// <summary>States of a COW when a machine starts.</summary>
    public enum Given
    {
        Absent,
        Untouched,
        Begun,
        Merged,
        DamagedOps,
        DamagedFirstOp,
        DamagedOpsBegun,
        CutOff,
        FullImage,
        FullImageCutOff,
        Garbage,
        NoScratch,
    }

    private BootRow Row(string name = "root", Given given = Given.Untouched, int phase = 1)
    {
        string cow = _folder[name + ".cow"], target = _folder[name + ".img"];
        byte[] bytes = Golden.Cow(given switch
        {
            Given.NoScratch => "v2-zstd-noscratch",
            Given.FullImage or Given.FullImageCutOff => "v3-zstd-nocopy",
            _ => "v3-lz4-64k-xor",
        });
        if (given == Given.Begun) bytes = Golden.HalfCow("half-v3-lz4-64k-xor-M3io_uring");
        if (given == Given.Merged) BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(26), (ulong)Golden.Row("v3-lz4-64k-xor").MergeOps);
        if (given is Given.DamagedOps or Given.DamagedOpsBegun)
        {
            CowHeader header = CowHeader.Parse(new MemorySource(bytes));
            bytes[header.OpsOffset + (16 * ((long)header.OpCount - 1)) + 15] = 0xff;
        }
        if (given == Given.DamagedFirstOp) Array.Fill(bytes, (byte)0xff, (2 << 20) + 78, 20_000);
        if (given == Given.DamagedOpsBegun) bytes[78] = 1;
        if (given is Given.CutOff or Given.FullImageCutOff) bytes = bytes[..^1];
        if (given == Given.Garbage) bytes.AsSpan(0, 100).Fill(7);
        if (given != Given.Absent) File.WriteAllBytes(cow, bytes);
        // An installer that replaces an update removes its marker.
        File.Delete(cow + ".merging");
        File.WriteAllBytes(target, Golden.Old);
        return new BootRow(name, cow, target, null, phase, "table:1");
    }

    private string Mark(BootRow row) => row.Cow + ".merging";

    private (List<RowResult> Rows, ExitCode Code) Boot(BootOptions options, params BootRow[] rows)
    {
        List<RowResult> results = [];
        ExitCode code = new BootSequence(_system, new ListLog(_log), options).Run([.. rows], results.Add);
        Assert.Equal(rows.Length, results.Count);
        return (results, code);
    }

    private BootOptions Options(MergePolicy policy = MergePolicy.Background) => new() { Merge = policy, ControlFolder = "/run/x" };

    // COW, policy, exit codes of serving and merging -> state, exit code, and the steps in order.
    [Theory]
    [InlineData(Given.Absent, "all", 0, 0, "plain", 0, "rw")]
    [InlineData(Given.Merged, "background", 0, 0, "plain", 0, "flush,rw")]
    [InlineData(Given.Merged, "manual", 0, 0, "plain", 0, "flush,rw")]
    [InlineData(Given.Merged, "before", 0, 0, "plain", 0, "flush,rw")]
    [InlineData(Given.Merged, "rollback", 0, 0, "failed", 64, "")]
    [InlineData(Given.Garbage, "all", 0, 0, "failed", 65, "")]
    [InlineData(Given.DamagedOps, "all", 0, 0, "old", 0, "ro")]
    [InlineData(Given.DamagedFirstOp, "all", 0, 0, "failed", 65, "")]
    [InlineData(Given.DamagedOpsBegun, "all", 0, 0, "failed", 65, "")]
    [InlineData(Given.CutOff, "all", 0, 0, "old", 0, "ro")]
    [InlineData(Given.FullImageCutOff, "all", 0, 0, "old", 0, "ro")]
    [InlineData(Given.FullImage, "background", 0, 0, "served", 0, "verify,serve --merge --no-verify-first")]
    [InlineData(Given.FullImage, "background", 69, 0, "merged", 0,
        "verify,serve --merge --no-verify-first,serve nbd --merge --no-verify-first,merge,rw")]
    [InlineData(Given.FullImage, "manual", 0, 0, "served", 0, "verify,serve --merge-on-request --no-verify-first")]
    [InlineData(Given.FullImage, "manual", 69, 0, "failed", 69,
        "verify,serve --merge-on-request --no-verify-first,serve nbd --merge-on-request --no-verify-first")]
    [InlineData(Given.FullImage, "before", 0, 0, "merged", 0, "merge,rw")]
    [InlineData(Given.FullImage, "before", 74, 74, "failed", 74, "merge,verify,serve --merge-on-request --no-verify-first")]
    [InlineData(Given.FullImage, "before", 0, 74, "served", 0, "merge,verify,serve --merge-on-request --no-verify-first")]
    [InlineData(Given.FullImage, "rollback", 0, 0, "failed", 64, "")]
    [InlineData(Given.Untouched, "background", 0, 0, "served", 0, "verify,serve --merge --no-verify-first")]
    [InlineData(Given.Untouched, "background", 69, 0, "old", 0,
        "verify,serve --merge --no-verify-first,serve nbd --merge --no-verify-first,ro")]
    [InlineData(Given.Untouched, "background", 74, 0, "old", 0, "verify,serve --merge --no-verify-first,ro")]
    [InlineData(Given.Untouched, "manual", 0, 0, "served", 0, "verify,serve --merge-on-request --no-verify-first")]
    [InlineData(Given.Untouched, "manual", 75, 0, "old", 0, "verify,serve --merge-on-request --no-verify-first,ro")]
    [InlineData(Given.Untouched, "background", 76, 0, "failed", 76, "verify,serve --merge --no-verify-first")]
    [InlineData(Given.Untouched, "manual", 76, 0, "failed", 76, "verify,serve --merge-on-request --no-verify-first")]
    [InlineData(Given.Untouched, "before", 0, 76, "failed", 76, "merge")]
    [InlineData(Given.Begun, "background", 76, 0, "failed", 76, "serve --merge")]
    [InlineData(Given.Begun, "before", 0, 76, "failed", 76, "merge")]
    [InlineData(Given.Begun, "background", 69, 76, "failed", 76, "serve --merge,serve nbd --merge,merge")]
    [InlineData(Given.Untouched, "before", 0, 0, "merged", 0, "merge,rw")]
    [InlineData(Given.Untouched, "before", 0, 65, "old", 0, "merge,ro")]
    [InlineData(Given.Untouched, "rollback", 0, 0, "old", 0, "ro")]
    [InlineData(Given.Begun, "background", 0, 0, "served", 0, "serve --merge")]
    [InlineData(Given.Begun, "background", 69, 0, "merged", 0, "serve --merge,serve nbd --merge,merge,rw")]
    [InlineData(Given.Begun, "background", 69, 74, "failed", 69, "serve --merge,serve nbd --merge,merge")]
    [InlineData(Given.Begun, "manual", 0, 0, "served", 0, "serve --merge-on-request")]
    [InlineData(Given.Begun, "before", 0, 0, "merged", 0, "merge,rw")]
    [InlineData(Given.Begun, "before", 0, 74, "served", 0, "merge,serve --merge-on-request")]
    [InlineData(Given.Begun, "before", 74, 74, "failed", 74, "merge,serve --merge-on-request")]
    [InlineData(Given.Begun, "rollback", 0, 0, "failed", 64, "")]
    [InlineData(Given.NoScratch, "background", 0, 0, "served", 0, "serve --merge")]
    [InlineData(Given.NoScratch, "background", 64, 64, "failed", 69, "serve --merge,merge")]
    [InlineData(Given.NoScratch, "background", 69, 0, "merged", 0, "serve --merge,serve nbd --merge,merge,rw")]
    [InlineData(Given.NoScratch, "manual", 0, 0, "served", 0, "serve --merge-on-request")]
    [InlineData(Given.NoScratch, "manual", 69, 0, "failed", 69, "serve --merge-on-request,serve nbd --merge-on-request")]
    [InlineData(Given.NoScratch, "before", 0, 0, "merged", 0, "merge,rw")]
    [InlineData(Given.NoScratch, "rollback", 0, 0, "failed", 64, "")]
    [InlineData(Given.Begun, "manual", 69, 0, "merged", 0, "serve --merge-on-request,serve nbd --merge-on-request,merge,rw")]
    public void Every_decision_is_the_documented_one(Given given, string policies, int serve, int merge, string state, int code,
        string done)
    {
        foreach (MergePolicy policy in Enum.GetValues<MergePolicy>())
        {
            if (policies != "all" && !policy.ToString().Equals(policies, StringComparison.OrdinalIgnoreCase)) continue;
            _system.Done.Clear();
            BootRow row = Row(given: given);
            byte[] before = File.ReadAllBytes(row.Base), cow = given == Given.Absent ? [] : File.ReadAllBytes(row.Cow);
            File.Delete(Mark(row));
            (_system.ServeCode, _system.MergeCode) = ((ExitCode)serve, (ExitCode)merge);
            (List<RowResult> rows, ExitCode exit) = Boot(Options(policy), row);
            Assert.Equal((state, (ExitCode)code, done), (rows[0].State, exit, string.Join(',', _system.Done)));
            // A COW that may be merged has a marker before that. A completed merge removes the marker. So does a fallback to the old image,
            // because then nothing is merged.
            bool mayMerge = done.Contains("merge", StringComparison.Ordinal) && state is not ("merged" or "old");
            Assert.Equal(mayMerge, File.Exists(Mark(row)));
            Assert.True(_system.MarkerBeforeMerges);
            if (given != Given.Absent) Assert.Equal(cow, File.ReadAllBytes(row.Cow));
            Assert.Equal(before, File.ReadAllBytes(row.Base));
        }
    }

    [Fact]
    public void An_update_with_damaged_payloads_is_not_served_and_the_old_image_is_read_only()
    {
        _system.Damage = new SnapuserdException(ExitCode.CowCorrupt, "op 7 does not decode");
        (List<RowResult> rows, ExitCode code) = Boot(Options(), Row());
        Assert.Equal(("old", ExitCode.Done, "verify,ro"), (rows[0].State, code, string.Join(',', _system.Done)));
        Assert.Contains(_log, line => line.StartsWith(
            "Error root: the OLD image is taken: the update cannot be used, and nothing of it is merged: op 7", StringComparison.Ordinal));
        _system.Done.Clear();
        Assert.Equal("served", Boot(Options() with { Verify = false }, Row()).Rows[0].State);
        Assert.Equal("serve --merge", string.Join(',', _system.Done));
    }

    [Fact]
    public void A_row_that_was_merged_before_loses_its_marker()
    {
        BootRow row = Row(given: Given.Merged);
        File.WriteAllBytes(Mark(row), []);
        (List<RowResult> rows, _) = Boot(Options(), row);
        Assert.Equal(("plain", "flush,rw"), (rows[0].State, string.Join(',', _system.Done)));
        Assert.False(File.Exists(Mark(row)));
    }

    [Fact]
    public void The_marker_of_a_full_image_says_whether_the_base_is_the_old_image()
    {
        _system.Damage = new SnapuserdException(ExitCode.CowCorrupt, "op 7 does not decode");
        (List<RowResult> rows, ExitCode code) = Boot(Options(), Row(given: Given.FullImage));
        Assert.Equal(("failed", ExitCode.CowCorrupt, "verify"), (rows[0].State, code, string.Join(',', _system.Done)));
        Assert.StartsWith($"op 7 does not decode; whether {_folder["root.img"]} is the old image cannot be known: nothing shows whether "
            + "Android's engine has begun", rows[0].Why, StringComparison.Ordinal);
        // The merge refuses it as well. A boot that serves updates it could not merge must not serve this one.
        (_system.MergeCode, ExitCode merged) = (ExitCode.CowCorrupt, _system.MergeCode);
        _system.Done.Clear();
        (rows, code) = Boot(Options(MergePolicy.Before), Row(given: Given.FullImage));
        Assert.Equal(("failed", ExitCode.CowCorrupt, "merge,verify"), (rows[0].State, code, string.Join(',', _system.Done)));
        _system.MergeCode = merged;
        foreach (Given given in new[] { Given.FullImage, Given.DamagedFirstOp, Given.FullImageCutOff })
        {
            BootRow marked = Row(given: given);
            File.WriteAllBytes(Mark(marked), []);
            foreach (MergePolicy policy
                in given == Given.FullImage ? [MergePolicy.Rollback, MergePolicy.Background] : Enum.GetValues<MergePolicy>())
            {
                File.WriteAllBytes(Mark(marked), []);
                (rows, code) = Boot(Options(policy), marked);
                Assert.Equal(("old", ExitCode.Done), (rows[0].State, code));
                Assert.False(File.Exists(Mark(marked)));
            }
        }
        _system.Damage = null;
        // Without a marker, a merge may have begun. A marker that says so belongs to another COW, because this one has not begun here.
        BootRow row = Row(given: Given.FullImage);
        Assert.Equal("served", Boot(Options(), row).Rows[0].State);
        Assert.StartsWith("maybe ", File.ReadAllText(Mark(row)), StringComparison.Ordinal);
        Assert.Equal("served", Boot(Options(), row).Rows[0].State);
        File.WriteAllText(Mark(row), File.ReadAllText(Mark(row)).Replace("maybe ", "begun ", StringComparison.Ordinal));
        Assert.Equal(ExitCode.CowCorrupt, Boot(Options(), row).Code);
        // An empty marker stays empty until a merge begins.
        File.WriteAllBytes(Mark(row), []);
        Assert.Equal("served", Boot(Options(), row).Rows[0].State);
        Assert.Equal("", File.ReadAllText(Mark(row)));
    }

    [Theory]
    [InlineData(Given.Untouched, nameof(MergePolicy.Background), "old", "verify,serve --merge --no-verify-first,ro")]
    [InlineData(Given.Untouched, nameof(MergePolicy.Manual), "old", "verify,serve --merge-on-request --no-verify-first,ro")]
    [InlineData(Given.Untouched, nameof(MergePolicy.Before), "old", "merge,ro")]
    [InlineData(Given.Begun, nameof(MergePolicy.Background), "failed", "serve --merge")]
    [InlineData(Given.Begun, nameof(MergePolicy.Before), "failed", "merge")]
    [InlineData(Given.NoScratch, nameof(MergePolicy.Before), "failed", "merge")]
    public void A_row_that_an_earlier_boot_made_old_is_old_again_although_its_own_device_holds_the_base(Given given, string policy,
        string state, string done)
    {
        (_system.Old, _system.ServeCode, _system.MergeCode) = (true, ExitCode.InUse, ExitCode.InUse);
        (List<RowResult> rows, ExitCode code) = Boot(Options(Enum.Parse<MergePolicy>(policy)), Row(given: given));
        Assert.Equal((state, state == "old" ? ExitCode.Done : ExitCode.InUse, done), (rows[0].State, code, string.Join(',', _system.Done)));
    }

    private static void BeginMerge(BootRow row)
    {
        byte[] cow = File.ReadAllBytes(row.Cow);
        cow[78] = 1;
        File.WriteAllBytes(row.Cow, cow);
    }

    [Theory]
    [InlineData(nameof(MergePolicy.Background), "served", ExitCode.Done)]
    [InlineData(nameof(MergePolicy.Rollback), "failed", ExitCode.Usage)]
    public void A_merge_that_began_before_its_row_was_claimed_is_seen(string policy, string state, ExitCode expected)
    {
        BootRow row = Row();
        // Another process merges this row while the boot handles another row.
        _system.OnStand = () => BeginMerge(row);
        (List<RowResult> rows, ExitCode code) = Boot(Options(Enum.Parse<MergePolicy>(policy)), Row("first", Given.DamagedOps), row);
        Assert.Equal(["old", state], rows.Select(one => one.State));
        Assert.Equal(expected, code);
    }

    [Fact]
    public void A_merge_that_began_after_its_row_was_inspected_leaves_no_old_image()
    {
        BootRow row = Row();
        // Another engine merges during the check of the payloads, which then become unreadable.
        (_system.Damage, _system.OnVerify) = (new SnapuserdException(ExitCode.OutOfResources, "no memory"), () => BeginMerge(row));
        (List<RowResult> rows, ExitCode code) = Boot(Options(MergePolicy.Background), row);
        Assert.Equal(("failed", ExitCode.InUse), (rows[0].State, code));
    }

    [Theory]
    [InlineData(Given.Untouched)]
    [InlineData(Given.Begun)]
    public void A_row_that_another_process_uses_is_76_and_nothing_is_done(Given given)
    {
        _system.IsUsed = true;
        foreach (MergePolicy policy in new[] { MergePolicy.Background, MergePolicy.Before })
        {
            (List<RowResult> rows, ExitCode code) = Boot(Options(policy), Row(given: given));
            Assert.Equal(("failed", ExitCode.InUse), (rows[0].State, code));
            Assert.Empty(_system.Done);
        }
    }

    [Fact]
    public void A_row_whose_server_has_ended_meanwhile_is_inspected_again()
    {
        BootRow row = Row();
        _system.Server = _ => _system.Pauses < 3 ? new RowServer(false, true, "it is about to end") : null;
        _system.OnPause = pauses =>
        {
            BeginMerge(row);
        };
        (List<RowResult> rows, ExitCode code) = Boot(Options(MergePolicy.Rollback), row);
        Assert.Equal(("failed", ExitCode.Usage), (rows[0].State, code));
        Assert.DoesNotContain("ro", _system.Done);
    }

    [Fact]
    public void A_server_that_begins_or_ends_is_waited_for_when_the_time_for_devices_is_over()
    {
        _system.OnPause = _ => { };
        _system.Server = _ => _system.Pauses < 5 ? new RowServer(false, true, "it is not ready") : new RowServer(true, false, "it is");
        Assert.Equal("served", Boot(Options() with { Wait = 0 }, Row()).Rows[0].State);
    }

    [Fact]
    public void A_server_that_began_to_merge_and_died_is_not_followed_by_the_old_image()
    {
        BootRow row = Row();
        _system.ServeCode = ExitCode.InputOutput;
        // The first change of a merge to the COW: the state byte becomes 1.
        _system.OnServe = () =>
        {
            BeginMerge(row);
        };
        _system.MergeCode = ExitCode.InputOutput;
        (List<RowResult> rows, ExitCode code) = Boot(Options(), row);
        Assert.Equal(("failed", ExitCode.Unavailable), (rows[0].State, code));
        Assert.DoesNotContain("ro", _system.Done);
    }

    [Fact]
    public void An_unrequested_merge_is_not_begun_if_it_is_unknown_whether_it_has_begun()
    {
        BootRow row = Row(given: Given.NoScratch);
        _system.ServeCode = ExitCode.Unavailable;
        (List<RowResult> rows, _) = Boot(Options(MergePolicy.Manual), row);
        Assert.DoesNotContain("merge", _system.Done);
        Assert.Contains(
            "no merge was requested, and a merge cannot be undone: load ublk_drv or nbd, and dm_mod, or say snapuserd.merge=before",
            rows[0].Why);
        Assert.Equal(ExitCode.Unavailable, rows[0].Code);
        // A row of a later phase is not merged either: rows of earlier phases come first.
        (rows, _) = Boot(Options(), Row("first", Given.Garbage), row with { Phase = 2 });
        Assert.Equal("failed", rows[1].State);
        Assert.DoesNotContain("merge", _system.Done);
        // The marker shows that it has begun.
        File.WriteAllText(Mark(row), "begun\n");
        Assert.Equal("merged", Boot(Options(MergePolicy.Manual), row).Rows[0].State);
    }

    [Fact]
    public void A_missing_cow_means_no_update_only_without_a_marker()
    {
        BootRow row = Row(given: Given.Absent);
        File.WriteAllText(Mark(row), "");
        (List<RowResult> rows, ExitCode code) = Boot(Options(), row);
        Assert.Equal(("failed", ExitCode.InputMissing, ""), (rows[0].State, code, string.Join(',', _system.Done)));
    }

    [Fact]
    public void Another_copy_of_a_cow_whose_merge_has_begun_is_neither_served_nor_old()
    {
        foreach (MergePolicy policy in Enum.GetValues<MergePolicy>())
        {
            BootRow row = Row();
            File.WriteAllText(Mark(row), "begun\n");
            (List<RowResult> rows, ExitCode code) = Boot(Options(policy), row);
            Assert.Equal(("failed", ExitCode.CowCorrupt), (rows[0].State, code));
            Assert.Empty(_system.Done);
            Assert.Contains("is not the file that was merged", rows[0].Why);
            File.Delete(Mark(row));
        }
    }

    private static string DigestOf(byte[] bytes)
    {
        MemorySource source = new(bytes);
        using CowFile cow = CowFile.Read(source);
        return CowDigest.Of(source, cow);
    }

    private static string Says(string word, byte[] cow, int count = 0) => $"{word} {DigestOf(cow)} {count:x16}\n";

    [Theory]
    [InlineData("begun")]
    [InlineData("maybe")]
    public void A_base_that_another_cow_has_begun_to_merge_is_never_mounted(string word)
    {
        foreach (MergePolicy policy in Enum.GetValues<MergePolicy>())
        {
            foreach (Given given in new[] { Given.Merged, Given.Untouched, Given.Begun, Given.NoScratch })
            {
                _system.Done.Clear();
                BootRow row = Row(given: given);
                string said = Says(word, Golden.Cow("v3-lz4-noseq"));
                File.WriteAllText(Mark(row), said);
                (List<RowResult> rows, ExitCode code) = Boot(Options(policy), row);
                Assert.Equal(("failed", ExitCode.CowCorrupt, ""), (rows[0].State, code, string.Join(',', _system.Done)));
                Assert.Contains("it is the COW of another update", rows[0].Why);
                Assert.Equal(said, File.ReadAllText(Mark(row)));
            }
        }
    }

    [Fact]
    public void A_restored_copy_of_a_cow_is_accepted_unless_it_is_older()
    {
        BootRow row = Row(given: Given.Begun);
        byte[] cow = File.ReadAllBytes(row.Cow);
        int count = (int)BinaryPrimitives.ReadUInt64LittleEndian(cow.AsSpan(26));
        File.WriteAllText(Mark(row), Says("begun", cow, count));
        // Restored from a backup: another inode, another time.
        File.Delete(row.Cow);
        File.WriteAllBytes(row.Cow, cow);
        File.SetLastWriteTimeUtc(row.Cow, DateTime.UnixEpoch);
        Assert.Equal("served", Boot(Options(), row).Rows[0].State);
        File.WriteAllText(Mark(row), Says("begun", cow, count + 1));
        (List<RowResult> rows, ExitCode code) = Boot(Options(), row);
        Assert.Equal(ExitCode.CowCorrupt, code);
        Assert.Contains("an older copy", rows[0].Why);
        // Once it is merged, its marker is removed.
        row = Row(given: Given.Merged);
        File.WriteAllText(Mark(row), Says("begun", cow, count));
        Assert.Equal("plain", Boot(Options(), row).Rows[0].State);
        Assert.False(File.Exists(Mark(row)));
    }

    [Fact]
    public void A_merge_that_Android_began_or_may_have_begun_gets_a_marker_before_it_is_served()
    {
        BootRow row = Row(given: Given.Begun);
        byte[] cow = File.ReadAllBytes(row.Cow);
        Assert.Equal("served", Boot(Options(MergePolicy.Manual), row).Rows[0].State);
        Assert.Equal(Says("begun", cow, (int)BinaryPrimitives.ReadUInt64LittleEndian(cow.AsSpan(26))), File.ReadAllText(Mark(row)));
        byte[] other = Golden.Cow("v3-lz4-noseq");
        BinaryPrimitives.WriteUInt64LittleEndian(other.AsSpan(26), (ulong)Golden.Row("v3-lz4-noseq").MergeOps);
        File.WriteAllBytes(row.Cow, other);
        Assert.Equal(ExitCode.CowCorrupt, Boot(Options(), row).Code);

        row = Row("second", Given.NoScratch);
        cow = File.ReadAllBytes(row.Cow);
        Assert.Equal("served", Boot(Options(MergePolicy.Manual), row).Rows[0].State);
        Assert.Equal(Says("maybe", cow), File.ReadAllText(Mark(row)));
        // The COW has not changed, so it still fits its marker.
        Assert.Equal("served", Boot(Options(MergePolicy.Manual), row).Rows[0].State);
        File.WriteAllBytes(row.Cow, other);
        Assert.Equal(ExitCode.CowCorrupt, Boot(Options(), row).Code);
    }

    [Theory]
    [InlineData("empty")]
    [InlineData("zeros")]
    [InlineData("header")]
    [InlineData("scratch")]
    [InlineData("ops")]
    [InlineData("payload")]
    public void An_interrupted_copy_is_old_without_a_marker_or_with_an_empty_one_and_fails_with_any_other(string cut)
    {
        byte[] whole = Golden.Cow("v3-lz4-64k-xor");
        byte[] bytes = cut switch
        {
            "empty" => [],
            "zeros" => new byte[whole.Length],
            "header" => whole[..50],
            "scratch" => whole[..100_000],
            "ops" => whole[..((2 << 20) + 90)],
            _ => whole[..^5000],
        };
        foreach (MergePolicy policy in Enum.GetValues<MergePolicy>())
        {
            foreach (string? mark in new[]
            {
                null, "", Says("begun", whole), Says("maybe", whole), "begun\n", "\0\0\0\0\0\0", "someone's notes",
            })
            {
                _system.Done.Clear();
                BootRow row = Row();
                File.WriteAllBytes(row.Cow, bytes);
                File.Delete(Mark(row));
                if (mark != null) File.WriteAllText(Mark(row), mark);
                (List<RowResult> rows, ExitCode code) = Boot(Options(policy), row);
                // A state that is certain without a marker is also certain next to another program's file.
                bool old = mark is null or "" || (mark == "someone's notes" && cut is not ("empty" or "zeros" or "header"));
                Assert.True((rows[0].State, code, string.Join(',', _system.Done)) == (old
                    ? ("old", ExitCode.Done, "ro") : ("failed", ExitCode.CowCorrupt, "")), $"{policy}, mark {mark}: {rows[0]}");
                Assert.Equal(bytes, File.ReadAllBytes(row.Cow));
            }
        }
    }

    [Fact]
    public void The_old_image_still_boots_after_a_rollback_if_the_cow_is_deleted()
    {
        BootRow row = Row();
        Assert.Equal("served", Boot(Options(MergePolicy.Manual), row).Rows[0].State);
        Assert.True(File.Exists(Mark(row)));
        Assert.Equal("old", Boot(Options(MergePolicy.Rollback), row).Rows[0].State);
        File.Delete(row.Cow);
        Assert.Equal("plain", Boot(Options(), row).Rows[0].State);
    }

    [Fact]
    public void The_marker_beside_a_merged_cow_is_removed()
    {
        BootRow row = Row(given: Given.Merged);
        File.WriteAllText(Mark(row), "");
        Assert.Equal("plain", Boot(Options(), row).Rows[0].State);
        Assert.False(File.Exists(Mark(row)));
    }

    [Fact]
    public void A_marker_that_cannot_be_made_leaves_the_row_served_and_unmerged()
    {
        BootRow row = Row(given: Given.Begun);
        Directory.CreateDirectory(Mark(row));
        Assert.Equal("served", Boot(Options(), row).Rows[0].State);
        Assert.Equal("serve", string.Join(',', _system.Done));
        _system.Done.Clear();
        Assert.Equal("served", Boot(Options(MergePolicy.Before), row).Rows[0].State);
        Assert.Equal("serve", string.Join(',', _system.Done));
    }

    [Fact]
    public void A_foreign_file_with_the_name_of_the_marker_stays_unchanged()
    {
        foreach (Given given in new[] { Given.Untouched, Given.Begun, Given.NoScratch })
        {
            _system.Done.Clear();
            BootRow row = Row(given: given);
            File.WriteAllText(Mark(row), "my notes about this merge");
            Assert.Equal("served", Boot(Options(), row).Rows[0].State);
            Assert.DoesNotContain(_system.Done, what => what.Contains("--merge", StringComparison.Ordinal));
            if (given == Given.Untouched) Assert.Equal("old", Boot(Options(MergePolicy.Rollback), row).Rows[0].State);
            Assert.Equal("my notes about this merge", File.ReadAllText(Mark(row)));
        }
    }

    [Fact]
    public void Late_devices_are_waited_for_and_missing_ones_fail_with_66()
    {
        BootRow row = Row();
        string late = row.Base + ".late";
        File.Move(row.Base, late);
        _system.OnPause = pauses =>
        {
            if (pauses == 7) File.Move(late, row.Base);
        };
        Assert.Equal("served", Boot(Options() with { Wait = 30 }, row).Rows[0].State);

        _system.Done.Clear();
        _system.OnPause = null;
        BootRow missing = row with { Cow = "/dev/snapuserd-no-such-device" };
        long began = _system.Milliseconds;
        (List<RowResult> rows, ExitCode code) = Boot(Options() with { Wait = 30 }, missing, Row("usr", Given.Absent));
        Assert.Equal((ExitCode.InputMissing, "failed", "plain"), (code, rows[0].State, rows[1].State));
        Assert.InRange(_system.Milliseconds - began, 30_000, 30_100);
        Assert.Equal("rw", string.Join(',', _system.Done));
    }

    [Theory]
    [InlineData("no folder")]
    [InlineData("doubt")]
    [InlineData("link")]
    [InlineData("folder is a file")]
    public void A_cow_that_could_not_be_seen_is_not_absent(string why)
    {
        BootRow row = Row(given: Given.Absent);
        if (why == "no folder") row = row with { Cow = _folder["none/root.cow"] };
        if (why == "doubt") _system.Doubtful = "its folder is only a place";
        if (why == "link") File.CreateSymbolicLink(row.Cow, _folder["nowhere"]);
        if (why == "folder is a file") row = row with { Cow = row.Base + "/root.cow" };
        (List<RowResult> rows, ExitCode code) = Boot(Options(), row);
        Assert.Equal((ExitCode.InputMissing, "failed", ""), (code, rows[0].State, string.Join(',', _system.Done)));
    }

    [Fact]
    public void Rows_of_later_phases_are_not_merged_before_earlier_ones()
    {
        (List<RowResult> rows, _) = Boot(Options(), Row("c", phase: 3), Row("a", Given.Absent), Row("b2", phase: 2), Row("b1", phase: 2));
        Assert.Equal(["a plain", "b2 served", "b1 served", "c served"], rows.Select(one => $"{one.Row.Name} {one.State}"));
        Assert.Equal(["--merge", "--merge", "--merge-on-request"],
            rows.Skip(1).Select(one => one.Command.Single(word => word.StartsWith("--merge", StringComparison.Ordinal))));
    }

    [Fact]
    public void A_row_that_failed_or_is_old_holds_the_merges_of_later_phases()
    {
        foreach (Given given in new[] { Given.Garbage, Given.DamagedOps })
        {
            (List<RowResult> rows, _) = Boot(Options(), Row("first", given), Row("second", Given.Begun, phase: 2));
            Assert.Contains("--merge-on-request", rows[1].Command);
        }
    }

    [Theory]
    [InlineData(Given.Garbage, "failed")]
    [InlineData(Given.DamagedOps, "old")]
    [InlineData(Given.Begun, "served")]
    public void No_row_that_an_earlier_phase_holds_is_merged_before_mounting(Given first, string state)
    {
        _system.MergeCode = ExitCode.InputOutput;
        foreach (Given later in new[] { Given.Untouched, Given.NoScratch, Given.Begun })
        {
            _system.Done.Clear();
            (List<RowResult> rows, _) =
                Boot(Options(MergePolicy.Before), Row("first", first), Row("later", later, phase: 2), Row("none", Given.Absent, phase: 2));
            Assert.Equal([state, "served", "plain"], rows.Select(row => row.State));
            Assert.Contains("--merge-on-request", rows[1].Command);
            Assert.Equal(first == Given.Begun ? 1 : 0, _system.Done.Count(what => what == "merge"));
            Assert.Equal(later == Given.Untouched, _system.Done.Contains("verify"));
        }
    }

    [Fact]
    public void A_held_row_that_cannot_be_served_is_merged_only_if_its_merge_has_begun()
    {
        _system.ServeCode = ExitCode.Unavailable;
        foreach (MergePolicy policy in new[] { MergePolicy.Before, MergePolicy.Background })
        {
            _system.Done.Clear();
            (List<RowResult> rows, _) = Boot(
                Options(policy), Row("first", Given.Garbage), Row("a", Given.Untouched, phase: 2), Row("b", Given.NoScratch, phase: 2),
                Row("c", Given.Begun, phase: 2));
            Assert.Equal(["failed", "old", "failed", "merged"], rows.Select(row => row.State));
            Assert.Single(_system.Done, "merge");
            Assert.Contains("rows of earlier phases are to be merged before it", rows[2].Why);
        }
    }

    [Fact]
    public void Phases_are_merged_before_mounting_as_long_as_none_fails()
    {
        (List<RowResult> rows, _) = Boot(Options(MergePolicy.Before), Row("c", phase: 3), Row("a"), Row("b", Given.Absent, phase: 2),
            Row("d", Given.Begun, phase: 4));
        Assert.Equal(["a merged", "b plain", "c merged", "d merged"], rows.Select(one => $"{one.Row.Name} {one.State}"));
    }

    [Fact]
    public void Each_server_has_its_own_number_and_never_that_of_another()
    {
        _system.Taken.Add(1);
        (List<RowResult> rows, _) = Boot(Options(), Row("a"), Row("b"), Row("c"), Row("d", Given.Absent), Row("e"));
        Assert.Equal(["ublkb0", "ublkb2", "ublkb3", "ublkb4"],
            rows.Where(one => one.Command.Length > 0).Select(one => one.Command[Array.IndexOf(one.Command, "--name") + 1]));
    }

    [Fact]
    public void The_command_line_of_a_server_has_all_options()
    {
        BootRow row = Row() with { Source = _folder["root.img"] };
        RowResult result = Boot(Options(), row).Rows[0];
        Assert.Equal(
            $"@snapuserd serve --cow {row.Cow} --base {row.Base} --source {row.Source} --mapper root --control /run/x/root --device ublk "
            + "--name ublkb0 --supervise --merge --no-verify-first --progress never --log kmsg",
            string.Join(' ', result.Command));
        result = Boot(Options() with { Device = "nbd" }, row).Rows[0];
        Assert.Equal(
            $"@snapuserd serve --cow {row.Cow} --base {row.Base} --source {row.Source} --mapper root --control /run/x/root --device nbd "
            + "--merge --no-verify-first --progress never --log kmsg",
            string.Join(' ', result.Command));
        // Without ublk, boot tries it only if it was requested.
        _system.HasUblk = false;
        Assert.Contains("nbd", Boot(Options(), row).Rows[0].Command);
        Assert.Contains("ublk", Boot(Options() with { Device = "ublk" }, row).Rows[0].Command);
    }

    /// <summary>Whether a result can be shown must not decide what is served, merged or removed.</summary>
    [Theory]
    [InlineData(nameof(MergePolicy.Background))]
    [InlineData(nameof(MergePolicy.Before))]
    [InlineData(nameof(MergePolicy.Rollback))]
    public void A_result_that_cannot_be_shown_changes_nothing_else(string policy)
    {
        List<string> seen = [];
        foreach (bool throws in new[] { false, true })
        {
            _system.Done.Clear();
            _log.Clear();
            BootRow[] rows =
            [
                Row("a"), Row("b", Given.Merged), Row("c", Given.Begun), Row("d", Given.Garbage), Row("e", Given.Untouched, phase: 2),
            ];
            foreach (BootRow row in rows) Assert.Equal(0, MergeMarker.Make(row.Cow, new MarkerState(MarkerKind.Empty)));
            int shown = 0;
            ExitCode code = new BootSequence(_system, new ListLog(_log), Options(Enum.Parse<MergePolicy>(policy))).Run([.. rows], result =>
            {
                shown++;
                if (throws) throw new SnapuserdException(ExitCode.InputOutput, "as the test asked for");
            });
            Assert.Equal(rows.Length, shown);
            Assert.Equal(throws ? rows.Length : 0,
                _log.Count(line => line.Contains("its result cannot be shown: as the test asked for", StringComparison.Ordinal)));
            seen.Add($"{code}: {string.Join(',', _system.Done)}; {string.Join(' ', rows.Select(row => MergeMarker.Look(row.Cow)))}");
        }
        Assert.Equal(seen[0], seen[1]);
    }

    [Fact]
    public void A_row_that_is_served_already_is_left_alone()
    {
        _system.Server = socket => socket == "/run/x/root" ? new RowServer(true, false, "a server has it already") : null;
        (List<RowResult> rows, _) = Boot(Options(), Row(), Row("later", phase: 2));
        Assert.Equal(["served", "served"], rows.Select(row => row.State));
        Assert.Equal("verify,serve --merge-on-request --no-verify-first", string.Join(',', _system.Done));
    }

    [Fact]
    public void A_row_fails_if_another_program_listens_on_its_socket()
    {
        _system.Server = _ => new RowServer(false, false, "another process is there");
        foreach (Given given in new[] { Given.Absent, Given.Untouched, Given.Begun, Given.Merged, Given.DamagedOps, Given.NoScratch })
            foreach (MergePolicy policy in new[] { MergePolicy.Background, MergePolicy.Before })
            {
                (List<RowResult> rows, ExitCode code) = Boot(Options(policy), Row(given: given));
                Assert.Equal(("failed", ExitCode.InUse, "another process is there"), (rows[0].State, code, rows[0].Why));
                Assert.Empty(_system.Done);
            }
    }

    [Fact]
    public void A_server_that_begins_or_ends_is_waited_for()
    {
        RowServer changing = new(false, true, "it is not ready");
        int asked = 0;
        _system.Server = _ => ++asked > 5 ? new RowServer(true, false, "") : changing;
        Assert.Equal("served", Boot(Options() with { Wait = 30 }, Row()).Rows[0].State);
        Assert.Empty(_system.Done);
        asked = 0;
        _system.Server = _ => ++asked > 5 ? null : changing;
        Assert.Equal("served", Boot(Options() with { Wait = 30 }, Row()).Rows[0].State);
        Assert.Equal("verify,serve --merge --no-verify-first", string.Join(',', _system.Done));
        _system.Done.Clear();
        _system.Server = _ => changing;
        (List<RowResult> rows, ExitCode code) = Boot(Options() with { Wait = 30 }, Row());
        Assert.Equal(("failed", ExitCode.InUse, "it is not ready"), (rows[0].State, code, rows[0].Why));
        Assert.Empty(_system.Done);
    }

    [Fact]
    public void A_cow_that_another_process_uses_during_its_check_does_not_count_as_damaged()
    {
        _system.Damage = new SnapuserdException(ExitCode.InUse, "it is locked");
        (List<RowResult> rows, ExitCode code) = Boot(Options(), Row());
        Assert.Equal(("failed", ExitCode.InUse, "verify"), (rows[0].State, code, string.Join(',', _system.Done)));
    }

    [Fact]
    public void A_boot_waits_for_another_one_with_a_time_limit()
    {
        string folder = _folder["run"];
        ListLog log = new(_log);
        BootLock first = BootLock.Take(folder, _system, log, 1000);
        Assert.Empty(_log);
        long began = _system.Milliseconds;
        SnapuserdException e = Assert.Throws<SnapuserdException>(() => BootLock.Take(folder + "/", _system, log, 1000));
        Assert.Equal(ExitCode.InUse, e.Code);
        Assert.InRange(_system.Milliseconds - began, 1000, 1100);
        Assert.Equal($"Warning another snapuserd boot is at work ({folder}.lock is locked): this one waits for its end",
            Assert.Single(_log));
        int until = _system.Pauses + 3;
        _system.OnPause = pauses =>
        {
            if (pauses == until) first.Dispose();
        };
        using BootLock second = BootLock.Take(folder, _system, log, 1000);
        Assert.Equal(until, _system.Pauses);
        // If its folder does not exist, there is no lock, and the boot continues.
        BootLock.Take(_folder["none/run"], _system, log, 1000).Dispose();
        Assert.StartsWith($"Notice {_folder["none/run"]}.lock cannot be made", _log[^1], StringComparison.Ordinal);
    }

    [Fact]
    public void The_error_of_the_device_mapper_is_the_code_of_the_row()
    {
        _system.NoMapper = new SnapuserdException(ExitCode.Unavailable, "no device mapper");
        (List<RowResult> rows, ExitCode code) = Boot(Options(), Row(given: Given.Absent), Row("b", Given.Garbage));
        Assert.Equal((ExitCode.Unavailable, "failed", "no device mapper", ExitCode.CowCorrupt),
            (code, rows[0].State, rows[0].Why, rows[1].Code));
    }

    [Theory]
    [InlineData(Given.Untouched, nameof(MergePolicy.Before), "")]
    [InlineData(Given.NoScratch, nameof(MergePolicy.Before), "")]
    [InlineData(Given.NoScratch, nameof(MergePolicy.Background), "serve --merge")]
    [InlineData(Given.Begun, nameof(MergePolicy.Before), "merge")]
    [InlineData(Given.Begun, nameof(MergePolicy.Background), "serve --merge,merge")]
    public void Without_a_device_mapper_only_merges_that_have_begun_are_finished(Given given, string policy, string done)
    {
        (_system.NoMapper, _system.ServeCode) = (new SnapuserdException(ExitCode.Unavailable, "no device mapper"), ExitCode.InputOutput);
        BootRow row = Row(given: given);
        (List<RowResult> rows, ExitCode code) = Boot(Options(Enum.Parse<MergePolicy>(policy)), row);
        Assert.Equal((ExitCode.Unavailable, "failed", done), (code, rows[0].State, string.Join(',', _system.Done)));
        Assert.Contains("no device mapper", rows[0].Why);
        Assert.Equal(given == Given.Begun, _log.Exists(line =>
            line.Contains("its merge has begun, so it is finished, but there will be no /dev/mapper/root", StringComparison.Ordinal)));
    }

    private static readonly HibernationLook s_image = new("S1SUSPEND on /dev/sda3", []);

    private void RefusesForTheImage(BootOptions options, BootRow row)
    {
        Dictionary<string, byte[]> before = Directory.EnumerateFiles(_folder.Path).ToDictionary(path => path, File.ReadAllBytes);
        SnapuserdException refusal = Assert.Throws<SnapuserdException>(() => Boot(options, row));
        Assert.Equal(ExitCode.Hibernated, refusal.Code);
        Assert.Contains("a hibernation image is there (S1SUSPEND on /dev/sda3)", refusal.Message);
        Assert.Contains("noresume", refusal.Message);
        Assert.Empty(_system.Done);
        Assert.Equal(before, Directory.EnumerateFiles(_folder.Path).ToDictionary(path => path, File.ReadAllBytes));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Nothing_is_written_while_there_is_a_hibernation_image(bool dryRun)
    {
        _system.Look = () => s_image;
        foreach (Given given in Enum.GetValues<Given>())
            foreach (MergePolicy policy in Enum.GetValues<MergePolicy>())
            {
                BootRow row = Row(given: given);
                RefusesForTheImage(Options(policy) with { DryRun = dryRun }, row);
                File.Delete(row.Cow);
            }
    }

    [Fact]
    public void With_noresume_an_image_is_discarded_with_a_warning_and_not_waited_for()
    {
        (_system.Look, _system.MissingResume) = (() => s_image, () => throw new InvalidOperationException("nothing is to be waited for"));
        Assert.Equal("served", Boot(Options() with { NoResume = "noresume", Wait = 30 }, Row()).Rows[0].State);
        Assert.Single(_log, line => line.StartsWith("Warning a hibernation image is there (S1SUSPEND on /dev/sda3), and noresume",
            StringComparison.Ordinal));
    }

    [Fact]
    public void The_device_of_resume_is_waited_for_and_its_image_found()
    {
        bool there = false;
        (_system.MissingResume, _system.Look) = (() => there ? null : "UUID=1", () => there ? s_image : HibernationLook.Nothing);
        _system.OnPause = count => there = count == 3;
        RefusesForTheImage(Options() with { Wait = 30 }, Row());
        Assert.Equal(3, _system.Pauses);
    }

    [Fact]
    public void An_image_on_a_disk_that_appears_during_the_wait_for_a_base_is_found()
    {
        BootRow row = Row();
        File.Move(row.Base, row.Base + ".away");
        bool there = false;
        _system.Look = () => there ? s_image : HibernationLook.Nothing;
        _system.OnPause = count =>
        {
            if (count != 3) return;
            File.Move(row.Base + ".away", row.Base);
            there = true;
        };
        Assert.Equal(ExitCode.Hibernated, Assert.Throws<SnapuserdException>(() => Boot(Options() with { Wait = 30 }, row)).Code);
        Assert.Empty(_system.Done);
    }

    [Theory]
    [InlineData(false, 120)]
    [InlineData(true, 0)]
    public void A_device_of_resume_that_never_appears_is_reported_and_the_boot_continues(bool afterResume, int pauses)
    {
        (_system.MissingResume, _system.Look) =
            (() => "UUID=1", () => new HibernationLook(null, ["resume= is UUID=1, which is not there"]));
        _system.OnPause = _ => { };
        Assert.Equal("served", Boot(Options() with { Wait = 30, AfterResume = afterResume }, Row()).Rows[0].State);
        Assert.Equal(pauses, _system.Pauses);
        Assert.Single(_log, "Warning whether there is a hibernation image is not known: resume= is UUID=1, which is not there");
    }

    [Fact]
    public void A_dry_run_reports_each_row_once()
    {
        BootRow[] rows = [Row("bad", Given.Garbage), Row("old", Given.DamagedOps), Row("new"), Row("none", Given.Absent)];
        (List<RowResult> results, ExitCode code) = Boot(Options() with { DryRun = true }, rows);
        Assert.Equal((ExitCode.CowCorrupt, "failed,old,served,plain"), (code, string.Join(',', results.Select(result => result.State))));
        // The caller prints the reason, so the log need not repeat it.
        Assert.All(results, result => Assert.NotEmpty(result.Why));
        Assert.DoesNotContain(_log, line => results.Exists(result => line.Contains(result.Row.Name, StringComparison.Ordinal)));
    }

    [Fact]
    public void A_dry_run_does_nothing_at_all()
    {
        foreach (Given given in Enum.GetValues<Given>())
            foreach (MergePolicy policy in Enum.GetValues<MergePolicy>())
            {
                BootRow row = Row(given: given);
                _ = Boot(Options(policy) with { DryRun = true }, row);
                Assert.Empty(_system.Done);
                Assert.False(File.Exists(Mark(row)));
            }
    }

    private sealed class ListLog(List<string> lines) : ILog
    {
        public void Write(Priority priority, string name, string sentence, params ReadOnlySpan<LogValue> values) =>
            lines.Add($"{priority} {sentence}");
    }

    private sealed class FakeSystem : IBootSystem
    {
        private int _pauses;

        internal List<string> Done { get; } = [];
        internal HashSet<int> Taken { get; } = [];
        internal Func<string, RowServer?> Server { get; set; } = _ => null;
        internal int Pauses => _pauses;
        internal ExitCode ServeCode { get; set; }
        internal ExitCode MergeCode { get; set; }
        internal SnapuserdException? Damage { get; set; }
        internal SnapuserdException? NoMapper { get; set; }
        internal Action? OnServe { get; set; }
        internal Action? OnVerify { get; set; }
        internal Action? OnStand { get; set; }
        internal Action<int>? OnPause { get; set; }
        internal string? Doubtful { get; set; }
        internal bool Old { get; set; }
        internal bool MarkerBeforeMerges { get; private set; } = true;
        internal Func<HibernationLook> Look { get; set; } = () => HibernationLook.Nothing;
        internal Func<string?> MissingResume { get; set; } = () => null;

        public long Milliseconds { get; private set; } = 1_000_000;

        public bool HasUblk { get; set; } = true;

        public void Pause(int milliseconds)
        {
            Milliseconds += milliseconds;
            OnPause?.Invoke(++_pauses);
        }

        public string? MissingResumeDevice() => MissingResume();

        public HibernationLook LookForImage() => Look();

        public string? Doubt(string folder) => Doubtful;

        public bool IsOld(BootRow row) => Old;

        public bool IsUblkTaken(int number) => Taken.Contains(number);

        public RowServer? Ask(string socket, BootRow row) => Server(socket);

        internal bool IsUsed { get; set; }

        public IDisposable Claim(BootRow row) =>
            IsUsed ? throw new SnapuserdException(ExitCode.InUse, "it is locked by another snapuserd") : new MemoryStream();

        public void Verify(BootRow row)
        {
            Done.Add("verify");
            OnVerify?.Invoke();
            if (Damage != null) throw Damage;
        }

        public ExitCode Serve(string[] arguments)
        {
            string? merge = arguments.FirstOrDefault(word => word.StartsWith("--merge", StringComparison.Ordinal));
            Done.Add(string.Join(' ', new[] { "serve", arguments.Contains("nbd") ? "nbd" : null, merge,
                arguments.Contains("--no-verify-first") ? "--no-verify-first" : null }.Where(word => word != null)));
            if (merge != null) CheckMarker(arguments);
            OnServe?.Invoke();
            return ServeCode;
        }

        public ExitCode Merge(string[] arguments)
        {
            Done.Add("merge");
            CheckMarker(arguments);
            return MergeCode;
        }

        public void CheckMapper(BootRow row)
        {
            if (NoMapper != null) throw NoMapper;
        }

        public void StandOnBase(BootRow row, bool readOnly)
        {
            if (NoMapper != null) throw NoMapper;
            OnStand?.Invoke();
            Done.Add(readOnly ? "ro" : "rw");
        }

        public void Flush(BootRow row) => Done.Add("flush");

        private void CheckMarker(string[] arguments) =>
            MarkerBeforeMerges &= File.Exists(arguments[Array.IndexOf(arguments, "--cow") + 1] + ".merging");
    }
}
