using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.Merge;

/// <summary>The marker next to a COW: its bytes, what it proves about a COW, its system calls, and the handling of their errors.</summary>
public sealed class MergeMarkerCallTests : IDisposable
{
    private static readonly string s_digest = new('5', 64), s_other = new('6', 64);

    private readonly TempFolder _folder = new();
    private readonly List<string> _calls = [];

    private string Cow => _folder["cow"];

    private string Marker => Cow + ".merging";

    private static string Text(string word, string digest, ulong count) => $"{word} {digest} {count:x16}\n";

    public void Dispose()
    {
        FileFlush.Before = null;
        Assert.Empty(Open());
        _folder.Dispose();
    }

    /// <summary>Files of the folder that this process has open.</summary>
    private string[] Open() => [.. Directory.EnumerateFileSystemEntries("/proc/self/fd")
        .Select(fd => new FileInfo(fd).LinkTarget ?? "").Where(path => path.StartsWith(_folder.Path, StringComparison.Ordinal))];

    /// <summary>
    /// Runs <paramref name="action"/>, records the calls on the marker, and gives the calls named in <paramref name="answers"/> those
    /// results. All other calls go to the kernel.
    /// </summary>
    private void With(Dictionary<string, long> answers, Action action)
    {
        _calls.Clear();
        Answering([SYS_openat, SYS_statx, SYS_pread64, SYS_pwrite64, SYS_fallocate, SYS_fsync, SYS_unlink], call =>
        {
            string name = call.Number switch
            {
                SYS_openat => "open",
                SYS_statx => "stat",
                SYS_pread64 => "read",
                SYS_pwrite64 => "write",
                SYS_fallocate => "allocate",
                SYS_fsync => "flush",
                _ => "remove",
            };
            string path = call.Number switch
            {
                SYS_openat => call.Text(1),
                SYS_unlink => call.Text(0),
                _ => PathOf(call[0]),
            };
            if (path == _folder.Path) name += " folder";
            else if (path == Marker + ".new") name += " new";
            else if (path != Marker) return null;
            if (call.Number == SYS_fallocate) _calls.Add($"{name} {call[1]} {call.Long(2)}+{call.Long(3)}");
            else if (call.Number == SYS_openat && path != _folder.Path)
                _calls.Add($"{name} {call[2] & ~(Libc.O_NOFOLLOW | Libc.O_NONBLOCK | Libc.O_CLOEXEC)}");
            else if (name != "open folder") _calls.Add(name);
            return answers.TryGetValue(name, out long answer) ? answer : null;
        }, action);
    }

    private static string PathOf(int fd) => new FileInfo($"/proc/self/fd/{fd}").LinkTarget ?? "";

    private static string Says(Action action)
    {
        SnapuserdException e = Assert.Throws<SnapuserdException>(action);
        return $"{(int)e.Code} {e.Message}";
    }

    private void Make(Dictionary<string, long> answers, MarkerState says, int result)
    {
        int made = 1;
        With(answers, () => made = MergeMarker.Make(Cow, says));
        Assert.Equal(result, made);
        Assert.Empty(Open());
    }

    [Fact]
    public void A_new_marker_is_allocated_before_it_is_written_and_flushed_before_its_folder()
    {
        Make([], new MarkerState(MarkerKind.Begun, s_digest, 7), 0);
        Assert.Equal(["open 0", "open new 66", "stat new", "read new", $"allocate new 1 0+{MergeMarker.Bytes}", "write new", "flush new",
            "flush folder"], _calls);
        Assert.Equal(Text("begun", s_digest, 7), File.ReadAllText(Marker));
        Assert.Equal(88, MergeMarker.Bytes);
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(Marker));
        // A marker that already says the same is kept and flushed again.
        Make([], new MarkerState(MarkerKind.Begun, s_digest, 9), 0);
        Assert.Equal(["open 0", "stat", "read", "open 66", "stat", "read", $"allocate 1 0+{MergeMarker.Bytes}", "flush", "flush folder"],
            _calls);
        Assert.Equal(Text("begun", s_digest, 7), File.ReadAllText(Marker));
        // So is a marker that says more, with or without a digest.
        Make([], new MarkerState(MarkerKind.Maybe, s_digest, 9), 0);
        Make([], new MarkerState(MarkerKind.Begun), 0);
        Assert.Equal(Text("begun", s_digest, 7), File.ReadAllText(Marker));
        // A marker without a digest gets one only from a request of the same kind.
        File.WriteAllText(Marker, "begun\n");
        Make([], new MarkerState(MarkerKind.Maybe, s_digest, 9), 0);
        Assert.Equal("begun\n", File.ReadAllText(Marker));
        Make([], new MarkerState(MarkerKind.Begun), 0);
        Assert.Equal("begun\n", File.ReadAllText(Marker));
    }

    [Theory]
    [InlineData("open", Errno.EACCES)]
    [InlineData("stat", Errno.EIO)]
    [InlineData("read", Errno.EIO)]
    [InlineData("read", Errno.EPERM)]
    [InlineData("allocate", Errno.ENOSPC)]
    [InlineData("write", Errno.EIO)]
    [InlineData("write", Errno.EPERM)]
    [InlineData("flush", Errno.EIO)]
    [InlineData("flush", Errno.EPERM)]
    [InlineData("flush folder", Errno.EIO)]
    public void A_marker_that_cannot_be_made_is_reported_and_nothing_stays_open(string call, int errno)
    {
        File.WriteAllBytes(Marker, []);
        Make(new() { [call] = -errno }, new MarkerState(MarkerKind.Maybe, s_digest), -errno);
        Assert.StartsWith(call, _calls[^1], StringComparison.Ordinal);
        if (call == "allocate") Assert.Equal("", File.ReadAllText(Marker));
    }

    [Fact]
    public void A_marker_needs_no_allocation_and_a_partial_write_is_an_error()
    {
        foreach (int errno in (int[])[Errno.EOPNOTSUPP, Errno.EIO, Errno.EPERM])
        {
            File.WriteAllBytes(Marker, []);
            Make(new() { ["allocate"] = -errno }, new MarkerState(MarkerKind.Begun, s_digest, 7), 0);
            Assert.Equal(Text("begun", s_digest, 7), File.ReadAllText(Marker));
            File.Delete(Marker);
        }
        // A partial write is not a valid marker.
        File.WriteAllBytes(Marker, []);
        Make(new() { ["write"] = MergeMarker.Bytes - 1 }, new MarkerState(MarkerKind.Begun, s_digest, 7), -Errno.EIO);
        Make(new() { ["write"] = 0 }, new MarkerState(MarkerKind.Begun, s_digest, 7), -Errno.EIO);
    }

    [Fact]
    public void A_marker_whose_folder_cannot_be_flushed_is_not_durable()
    {
        // On known file systems a flush of the file system replaces that of the folder, so this file must be on an unknown one.
        foreach ((int folder, int all, int made, bool durable) in new[]
        {
            (-Errno.EINVAL, -Errno.EPERM, -Errno.EINVAL, false), (-Errno.EIO, 0, -Errno.EIO, false), (0, 0, 0, true),
        })
        {
            bool said = !durable;
            int result = 1;
            Answering([SYS_fsync, SYS_syncfs],
                call => call.Number == SYS_syncfs ? all : PathOf(call[0]) == _folder.Path ? folder : null, () =>
                {
                    result = MergeMarker.Make(Cow, new MarkerState(MarkerKind.Empty));
                    said = MergeMarker.IsDurable(Cow);
                });
            Assert.Equal((made, durable), (result, said));
            Assert.Empty(Open());
        }
        With([], () => Assert.True(MergeMarker.IsDurable(Cow)));
        Assert.Equal(["open 0", "stat", "flush folder"], _calls.Where(call => call != "read"));
        With(new() { ["open"] = -Errno.EPERM }, () => Assert.False(MergeMarker.IsDurable(Cow)));
        Assert.Equal(["open 0"], _calls);
        File.Delete(Marker);
        With([], () => Assert.False(MergeMarker.IsDurable(Cow)));
        Assert.Equal(["open 0"], _calls);
    }

    [Fact]
    public void A_marker_is_removed_and_its_folder_flushed_and_errors_of_that_are_ignored()
    {
        With([], () => MergeMarker.Remove(Cow));
        Assert.Equal(["open new 2", "open 2"], _calls);
        foreach (string failing in (string[])["open", "remove", "flush folder", ""])
        {
            File.WriteAllText(Marker, "begun\n");
            With(new() { [failing] = -Errno.EPERM }, () => MergeMarker.Remove(Cow));
            Assert.Equal(failing is "open" or "remove", File.Exists(Marker));
            Assert.Equal(failing is "open" or "remove" ? failing : "flush folder",
                _calls[^1].StartsWith("open", StringComparison.Ordinal) ? "open" : _calls[^1]);
            Assert.Empty(Open());
        }
    }

    /// <summary>The new marker of a process that was killed before its rename. Later runs may never need to write it again.</summary>
    [Theory]
    [InlineData("", false)]
    [InlineData("", true)]
    [InlineData("begun\n", false)]
    [InlineData("begun\n", true)]
    [InlineData("notes", false)]
    [InlineData("notes", true)]
    public void A_new_mark_that_a_killed_process_left_is_removed_with_the_marker(string text, bool marked)
    {
        string left = Marker + ".new";
        File.WriteAllText(left, text);
        if (marked) File.WriteAllText(Marker, "begun\n");
        With([], () => new MergeMarker(Cow).End());
        // A file of another program stays.
        Assert.Equal((text == "notes", false), (File.Exists(left), File.Exists(Marker)));
        Assert.Equal(text == "notes" && !marked ? 0 : 1, _calls.Count(call => call == "flush folder"));
        if (_calls.Contains("flush folder")) Assert.Equal("flush folder", _calls[^1]);
        Assert.Empty(Open());
    }

    [Theory]
    [InlineData(Errno.ENOENT, MarkerKind.None)]
    [InlineData(Errno.ENOTDIR, MarkerKind.None)]
    [InlineData(Errno.ENAMETOOLONG, MarkerKind.None)]
    [InlineData(Errno.ELOOP, MarkerKind.Unknown)]
    [InlineData(Errno.EISDIR, MarkerKind.Unknown)]
    [InlineData(Errno.ENXIO, MarkerKind.Unknown)]
    [InlineData(Errno.EPERM, MarkerKind.Unreadable)]
    [InlineData(Errno.EACCES, MarkerKind.Unreadable)]
    [InlineData(Errno.EMFILE, MarkerKind.Unreadable)]
    public void The_error_of_an_open_shows_the_kind_of_the_marker(int errno, MarkerKind kind)
    {
        MarkerState seen = default;
        With(new() { ["open"] = -errno }, () => seen = MergeMarker.Look(Cow));
        Assert.Equal(new MarkerState(kind), seen);
        int interrupted = 0, flags = 0, folder = 0;
        Answering([SYS_openat], call =>
        {
            if (call.Text(1) != Marker) return null;
            (flags, folder) = (call[2], call[0]);
            return interrupted++ < 3 ? -Errno.EINTR : -errno;
        }, () => seen = MergeMarker.Look(Cow));
        Assert.Equal((new MarkerState(kind), 4), (seen, interrupted));
        Assert.Equal((Libc.O_NOFOLLOW | Libc.O_NONBLOCK | Libc.O_CLOEXEC, Libc.AT_FDCWD), (flags, folder));
        Make(new() { ["open"] = -errno }, new MarkerState(MarkerKind.Empty), kind == MarkerKind.Unknown ? -Errno.EEXIST : -errno);
    }

    [Theory]
    [InlineData("stat")]
    [InlineData("read")]
    public void An_unreadable_marker_is_not_taken_for_an_empty_one(string call)
    {
        File.WriteAllText(Marker, "");
        foreach (int errno in (int[])[Errno.EIO, Errno.EACCES])
        {
            MarkerState seen = default;
            With(new() { [call] = -errno }, () => seen = MergeMarker.Look(Cow));
            Assert.Equal(new MarkerState(MarkerKind.Unreadable), seen);
            Assert.Empty(Open());
        }
        Assert.Equal(new MarkerState(MarkerKind.Empty), MergeMarker.Look(Cow));
        Assert.Empty(Open());
    }

    [Fact]
    public void A_file_that_is_read_only_in_part_is_not_a_marker()
    {
        File.WriteAllText(Marker, "begun\n");
        MarkerState seen = default;
        With(new() { ["read"] = 5 }, () => seen = MergeMarker.Look(Cow));
        Assert.Equal(new MarkerState(MarkerKind.Unknown), seen);
        Assert.Empty(Open());
    }

    /// <summary>
    /// Every prefix of a marker, and a marker with every byte lost or replaced by one that no marker has at that position.
    /// </summary>
    [Theory]
    [InlineData("begun", MarkerKind.Begun)]
    [InlineData("maybe", MarkerKind.Maybe)]
    public void Every_part_that_a_power_cut_can_leave_is_a_marker_and_no_other_text_is(string word, MarkerKind kind)
    {
        string digest = string.Concat(Enumerable.Repeat("0123456789abcdef", 4));
        byte[] whole = Encoding.ASCII.GetBytes(Text(word, digest, 0xfedcba9876543210));
        Assert.Equal(new MarkerState(kind, digest, 0xfedcba9876543210), Look(whole));
        for (int at = 0; at < whole.Length; at++)
        {
            // A marker that lost its keyword is ambiguous; "begun" is the more serious of the two.
            byte[] lost = [.. whole];
            lost[at] = 0;
            bool known = kind == MarkerKind.Begun || at >= 5;
            Assert.True(new MarkerState(known ? kind : MarkerKind.Unknown) == Look(lost), $"byte {at} lost: {Look(lost)}");
            foreach (byte wrong in (byte[])[(byte)'A', (byte)'g', (byte)'\t', 0x80])
            {
                byte[] other = [.. whole];
                if (other[at] == wrong) continue;
                other[at] = wrong;
                Assert.True(new MarkerState(MarkerKind.Unknown) == Look(other), $"byte {at} is {wrong}: {Look(other)}");
            }
            byte[] prefix = whole[..at];
            // The shortest marker without a digest is a keyword and a line feed. In a prefix, the blank stands in place of the line feed.
            MarkerKind expected = at == 0 ? MarkerKind.Empty : at == 6 || (at < 5 && kind == MarkerKind.Maybe) ? MarkerKind.Unknown : kind;
            Assert.True(new MarkerState(expected) == Look(prefix), $"{at} bytes: {Look(prefix)}");
        }
        Assert.Equal(new MarkerState(MarkerKind.Unknown), Look([.. whole, 0]));
        Assert.Equal(new MarkerState(MarkerKind.Unknown), Look([.. whole, (byte)'\n']));
    }

    [Fact]
    public void An_old_marker_is_valid_with_zeros_after_it_and_with_nothing_else()
    {
        byte[] old = "begun\n"u8.ToArray();
        for (int zeros = 0; zeros <= MergeMarker.Bytes - old.Length; zeros++)
        {
            byte[] text = [.. old, .. new byte[zeros]];
            Assert.Equal(new MarkerState(MarkerKind.Begun), Look(text));
            if (zeros == 0) continue;
            foreach (int at in (int[])[old.Length, text.Length - 1])
            {
                text[at] = (byte)'1';
                Assert.True(new MarkerState(MarkerKind.Unknown) == Look(text), $"{zeros} more, one at {at}");
                text[at] = 0;
            }
        }
        foreach (string none in (string[])["begun ", "maybe\n", "maybe\n\0", "begin\0\0", "\0\0\0\0\0x", "x"])
            Assert.True(new MarkerState(MarkerKind.Unknown) == Look(Encoding.ASCII.GetBytes(none)), none);
        foreach (string one in (string[])["\0\0\0\0\0\n", "\0", "b", "begun", "\0egun\n", "\0egun \0"])
            Assert.True(new MarkerState(MarkerKind.Begun) == Look(Encoding.ASCII.GetBytes(one)), one);
    }

    private MarkerState Look(byte[] text)
    {
        File.WriteAllBytes(Marker, text);
        return MergeMarker.Look(Cow);
    }

    [Fact]
    public void A_cow_without_ops_is_merged_whatever_its_state_byte_says()
    {
        File.WriteAllBytes(Cow, new CowBuilder { Version = 3, MaxUnitBytes = 4096 }.Build());
        using CowFile file = ReadCow();
        File.WriteAllText(Marker, Text("begun", DigestOf(file), 0));
        new MergeMarker(Cow).Check(file);
        File.WriteAllText(Marker, Text("begun", s_other, 0));
        Assert.Equal($"65 {MergeMarker.Sentence(Cow, "it is the COW of another update")}", Says(() => new MergeMarker(Cow).Check(file)));
    }

    [Fact]
    public void A_marker_denies_a_start_that_contradicts_it()
    {
        foreach (MarkerKind kind in Enum.GetValues<MarkerKind>())
        {
            MarkerState mark = new(kind);
            Assert.Equal(kind is MarkerKind.Maybe or MarkerKind.Begun, mark.Denies(MergeStart.NotBegun));
            Assert.Equal(kind == MarkerKind.Begun, mark.Denies(MergeStart.NotBegunHere));
            Assert.False(mark.Denies(MergeStart.Begun) || mark.Denies(MergeStart.NotShown));
        }
    }

    [Theory]
    [InlineData("v3-lz4-descending")]
    [InlineData("v2-gz-xor")]
    public void A_cow_is_checked_against_its_marker(string vector)
    {
        File.WriteAllBytes(Cow, Golden.Cow(vector));
        using CowFile file = ReadCow();
        string digest = DigestOf(file);
        MergeMarker mark = new(Cow);
        mark.Check(file);
        File.WriteAllText(Marker, "");
        mark.Check(file);
        // The COW itself shows that its merge never began. Next to such a marker it can only be an earlier copy.
        string before = $"65 {MergeMarker.Sentence(Cow, "nothing of it is merged, so it is a copy from before")}";
        foreach (string text in (string[])["begun\n", Text("begun", digest, 0), Text("maybe", digest, 0)])
        {
            File.WriteAllText(Marker, text);
            Assert.Equal(before, Says(() => mark.Check(file)));
        }
        File.WriteAllText(Marker, Text("begun", s_other, 0));
        Assert.Equal($"65 {MergeMarker.Sentence(Cow, "it is the COW of another update")}", Says(() => mark.Check(file)));
        File.WriteAllText(Marker, Text("begun", digest, 1));
        Assert.Equal($"65 {MergeMarker.Sentence(Cow, "it is an older copy: 0 ops are merged in it, but the marker says 1")}",
            Says(() => mark.Check(file)));
        Assert.Empty(Open());

        // With a count, this COW is the one that was merged.
        byte[] counted = Golden.Cow(vector);
        BinaryPrimitives.WriteUInt64LittleEndian(counted.AsSpan(CowHeader.MergeCountOffset), 3);
        File.WriteAllBytes(Cow, counted);
        using CowFile merged = ReadCow();
        foreach (string text in (string[])["begun\n", Text("begun", digest, 0), Text("begun", digest, 3), Text("maybe", digest, 2)])
        {
            File.WriteAllText(Marker, text);
            mark.Check(merged);
        }
        File.WriteAllText(Marker, Text("begun", digest, 4));
        Assert.Equal($"65 {MergeMarker.Sentence(Cow, "it is an older copy: 3 ops are merged in it, but the marker says 4")}",
            Says(() => mark.Check(merged)));
        // Another program's file of that name proves nothing.
        File.WriteAllText(Marker, "notes");
        mark.Check(merged);
        Assert.Empty(Open());
    }

    [Theory]
    [InlineData(Errno.EIO, 74)]
    [InlineData(Errno.EPERM, 77)]
    [InlineData(Errno.EROFS, 77)]
    [InlineData(Errno.EMFILE, 71)]
    [InlineData(Errno.ENFILE, 71)]
    [InlineData(Errno.ENOMEM, 71)]
    public void A_marker_that_cannot_be_read_or_written_stops_the_merge(int errno, int code)
    {
        File.WriteAllBytes(Cow, Golden.Cow("v3-lz4-descending"));
        using CowFile file = ReadCow();
        MergeMarker mark = new(Cow);
        string reason = ErrnoText.Of(-errno),
            unread = $"{code} {Marker} cannot be read, and may say that another merge has written to the base: {reason}";
        string unsaid = $"{code} {Marker} cannot say that the merge has begun, so nothing was written to the base: {reason}";
        foreach (string call in (string[])["open", "stat", "read"])
        {
            // Where a sandbox refuses statx, the code falls back to fstat.
            if (call == "stat" && errno == Errno.EPERM) continue;
            File.WriteAllText(Marker, "");
            string check = "", begin = "";
            With(new() { [call] = -errno }, () => check = Says(() => mark.Check(file)));
            With(new() { [call] = -errno }, () => begin = Says(() => mark.Begin(file, 1)));
            Assert.Equal((unread, unsaid), (check, begin));
            Assert.Equal("", File.ReadAllText(Marker));
            Assert.Empty(Open());
        }
        foreach (string call in (string[])["write", "flush"])
        {
            string begin = "";
            With(new() { [call] = -errno }, () => begin = Says(() => mark.Begin(file, 1)));
            Assert.Equal(unsaid, begin);
            Assert.Empty(Open());
        }
    }

    [Fact]
    public void The_begin_of_a_merge_is_recorded_in_an_existing_marker_with_digest_and_count()
    {
        File.WriteAllBytes(Cow, Golden.Cow("v3-lz4-descending"));
        using CowFile file = ReadCow();
        string digest = DigestOf(file);
        MergeMarker mark = new(Cow);
        // No marker is created, and another program's file stays unchanged.
        With([], () => mark.Begin(file, 0));
        Assert.False(File.Exists(Marker));
        Assert.Equal(["open 2"], _calls);
        File.WriteAllText(Marker, "notes");
        With([], () => mark.Begin(file, 0));
        Assert.Equal("notes", File.ReadAllText(Marker));
        Assert.DoesNotContain("write", _calls);
        File.WriteAllText(Marker, "");
        With([], () => mark.Begin(file, 0x2a));
        Assert.Equal(Text("begun", digest, 0x2a), File.ReadAllText(Marker));
        Assert.Equal(["open 2", "stat", "write", "flush"], _calls.Where(call => call != "read"));
        // An existing digest stays; it was compared earlier.
        File.WriteAllText(Marker, Text("maybe", s_other, 0));
        mark.Begin(file, 1);
        Assert.Equal(Text("begun", s_other, 1), File.ReadAllText(Marker));
        Assert.Empty(Open());
        mark.End();
        Assert.False(File.Exists(Marker));
    }

    private CowFile ReadCow()
    {
        using CowInput input = new(Cow);
        return CowFile.Read(input.Source);
    }

    private string DigestOf(CowFile file)
    {
        using CowInput input = new(Cow);
        return CowDigest.Of(input.Source, file);
    }
}
