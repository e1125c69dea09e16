using System;
using System.IO;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>The marker beside a COW, as merges write and interpret it.</summary>
public sealed class MarkerTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public MarkerTests()
    {
        File.WriteAllBytes(Cow, Golden.Cow("v3-lz4-64k-xor"));
        File.WriteAllBytes(Base, Golden.Old);
        File.WriteAllText(Marker, "");
    }

    private string Cow => _folder["cow"];

    private string Base => _folder["base"];

    private string Marker => Cow + ".merging";

    public void Dispose() => _folder.Dispose();

    private BinaryResult Merge(string? cow = null) => Binary.Run("merge", "--cow", cow ?? Cow, "--base", Base, "--progress", "never");

    /// <summary>Kills a merge at its N-th call of a name, before the call takes effect.</summary>
    private void KillAt(string call, int number)
    {
        BinaryResult killed = Binary.RunProgram("strace",
            ["-f", "-qq", "-o", "/dev/null", "-e", $"trace={call}", "-e", $"inject={call}:signal=KILL:when={number}",
                Binary.Path, "merge", "--cow", Cow, "--base", Base, "--progress", "never", "--io", "sync"]);
        Assert.Equal(137, killed.ExitCode);
        Unlocked.Settle(Cow, Base);
    }

    [Fact]
    public void Merge_records_its_cow_in_the_marker_and_removes_the_marker_at_the_end()
    {
        KillAt("unlink,unlinkat", 1);
        Assert.Matches("^begun [0-9a-f]{64} 0{16}\n$", File.ReadAllText(Marker));
        Assert.Equal(0, Merge().ExitCode);
        Assert.False(File.Exists(Marker));
    }

    [Fact]
    public void Begun_merge_is_bound_to_its_cow()
    {
        KillAt("unlink,unlinkat", 1);
        byte[] merged = File.ReadAllBytes(Cow), target = File.ReadAllBytes(Base);
        string mark = File.ReadAllText(Marker);
        // The merged COW of the previous update: its count says nothing about this base.
        foreach (string other in new[] { "v2-gz-xor", "v3-lz4-noseq" })
        {
            File.WriteAllBytes(Cow, Golden.Cow(other));
            BinaryResult refused = Merge();
            Assert.True(refused.ExitCode == 65, refused.ToString());
            Assert.Contains("it is the COW of another update", refused.Error);
            Assert.Equal((mark, true, true), (File.ReadAllText(Marker), Golden.Cow(other).AsSpan().SequenceEqual(File.ReadAllBytes(Cow)),
                target.AsSpan().SequenceEqual(File.ReadAllBytes(Base))));
        }
        // The same COW and its marker, copied to another folder.
        Directory.CreateDirectory(_folder["elsewhere"]);
        File.WriteAllBytes(_folder["elsewhere/other name"], merged);
        File.Move(Marker, _folder["elsewhere/other name.merging"]);
        BinaryResult result = Merge(_folder["elsewhere/other name"]);
        Assert.True(result.ExitCode == 0, result.ToString());
        Assert.False(File.Exists(_folder["elsewhere/other name.merging"]));
    }

    /// <summary>
    /// The marker stores the count of the beginning, so only the state byte distinguishes an untouched copy from the COW that was merged.
    /// </summary>
    [Theory]
    [InlineData("whole")]
    [InlineData("begun\n")]
    public void An_untouched_copy_of_the_same_cow_is_refused(string mark)
    {
        KillAt("unlink,unlinkat", 1);
        if (mark != "whole") File.WriteAllText(Marker, mark);
        mark = File.ReadAllText(Marker);
        byte[] copy = Golden.Cow("v3-lz4-64k-xor"), target = File.ReadAllBytes(Base);
        File.WriteAllBytes(Cow, copy);
        BinaryResult refused = Merge();
        Assert.True(refused.ExitCode == 65, refused.ToString());
        Assert.Contains("nothing of it is merged, so it is a copy from before", refused.Error);
        Assert.Equal((mark, true, true), (File.ReadAllText(Marker), copy.AsSpan().SequenceEqual(File.ReadAllBytes(Cow)),
            target.AsSpan().SequenceEqual(File.ReadAllBytes(Base))));
    }

    [Fact]
    public void An_older_copy_of_the_same_cow_is_refused()
    {
        File.WriteAllBytes(Cow, Golden.HalfCow("half-v3-lz4-64k-xor-M3io_uring"));
        File.WriteAllBytes(Base, Golden.HalfBase("half-v3-lz4-64k-xor-M3io_uring"));
        KillAt("unlink,unlinkat", 1);
        File.WriteAllBytes(Cow, Golden.Cow("v3-lz4-64k-xor"));
        byte[] before = File.ReadAllBytes(Base);
        BinaryResult refused = Merge();
        Assert.Equal(65, refused.ExitCode);
        Assert.Contains("it is an older copy: 0 ops are merged in it, but the marker says ", refused.Error);
        Assert.Equal(before, File.ReadAllBytes(Base));
    }

    [Fact]
    public void Base_is_not_written_without_a_durable_marker()
    {
        foreach (string call in new[] { "pwrite64", "fsync" })
        {
            foreach (string error in new[] { "EIO", "ENOSPC" })
            {
                File.WriteAllBytes(Cow, Golden.Cow("v3-lz4-64k-xor"));
                File.WriteAllBytes(Base, Golden.Old);
                File.WriteAllText(Marker, "");
                BinaryResult failed = Binary.RunProgram("strace",
                    ["-f", "-qq", "-o", "/dev/null", "-P", Marker, "-e", $"trace={call}", "-e", $"inject={call}:error={error}",
                        Binary.Path, "merge", "--cow", Cow, "--base", Base, "--progress", "never", "--io", "sync"]);
                Assert.True(failed.ExitCode == 74, failed.ToString());
                Assert.Contains("cannot say that the merge has begun", failed.Error);
                Assert.Equal(Golden.Old, File.ReadAllBytes(Base));
                // The COW says that the merge has begun at this point, and the same command continues.
                Assert.Equal(1, File.ReadAllBytes(Cow)[78]);
                BinaryResult again = Merge();
                Assert.True(again.ExitCode == 0, again.ToString());
                Assert.Equal(Golden.New, File.ReadAllBytes(Base));
            }
        }
    }

    [Theory]
    [InlineData("EIO", 74)]
    [InlineData("EMFILE", 71)]
    public void Unreadable_marker_is_not_treated_as_absent(string error, int code)
    {
        BinaryResult failed = Binary.RunProgram("strace",
            ["-f", "-qq", "-o", "/dev/null", "-P", Marker, "-e", "trace=openat", "-e", $"inject=openat:error={error}",
                Binary.Path, "merge", "--cow", Cow, "--base", Base, "--progress", "never"]);
        Assert.True(failed.ExitCode == code, failed.ToString());
        Assert.Contains("may say that another merge has written to the base", failed.Error);
        Assert.Equal((true, true), (Golden.Old.AsSpan().SequenceEqual(File.ReadAllBytes(Base)),
            Golden.Cow("v3-lz4-64k-xor").AsSpan().SequenceEqual(File.ReadAllBytes(Cow))));
    }

    [Fact]
    public void Unrelated_file_under_the_name_of_the_marker_stays_unchanged()
    {
        File.WriteAllText(Marker, "my notes");
        Assert.Equal(0, Merge().ExitCode);
        Assert.Equal("my notes", File.ReadAllText(Marker));
    }

    [Fact]
    public void Cow_whose_name_is_too_long_for_a_marker_is_merged_without_one()
    {
        string cow = _folder[new string('c', 255)];
        File.Move(Cow, cow);
        BinaryResult result = Merge(cow);
        Assert.True(result.ExitCode == 0, result.ToString());
    }

    [Fact]
    public void Merge_of_a_cow_without_a_marker_makes_none()
    {
        File.Delete(Marker);
        KillAt("fdatasync", 3);
        Assert.False(File.Exists(Marker));
        Assert.Equal(0, Merge().ExitCode);
        Assert.False(File.Exists(Marker));
    }
}
