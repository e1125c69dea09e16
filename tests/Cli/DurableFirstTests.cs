using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cli;
using Snapuserd.Cow;
using Snapuserd.Daemon;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cli;

/// <summary>What the command line makes durable before others can rely on it, in which order, and what it does when that fails.</summary>
public sealed class DurableFirstTests : IDisposable
{
    private const string Vector = "v3-lz4-descending";

    private readonly TempFolder _folder = new();
    private readonly List<string> _flushed = [];
    private string? _refused;

    public DurableFirstTests() => FileFlush.Before = fd =>
    {
        string path = DescriptorPath.Of(fd);
        string name = path == _folder.Path ? "folder" : Path.GetFileName(path);
        // A flush covers what is there by then.
        _flushed.Add(name == "folder" && File.Exists(Mark) ? "folder with mark" : name);
        return name == _refused ? -Errno.EIO : 0;
    };

    private string Cow => _folder["cow"];

    private string Mark => Cow + ".merging";

    public void Dispose()
    {
        FileFlush.Before = null;
        _folder.Dispose();
    }

    [Fact]
    public void A_mark_is_made_when_it_and_its_folder_are_flushed()
    {
        // The second time it is there: its maker may have been killed before the flush.
        for (int time = 0; time < 2; time++)
        {
            _flushed.Clear();
            Assert.Equal(0, MergingMark.Make(Cow, new MarkState(MarkKind.Empty)));
            Assert.Equal(["cow.merging", "folder with mark"], _flushed);
        }
    }

    [Theory]
    [InlineData("cow.merging")]
    [InlineData("folder")]
    public void A_mark_that_cannot_be_flushed_is_none(string refused)
    {
        _refused = refused;
        Assert.Equal(-Errno.EIO, MergingMark.Make(Cow, new MarkState(MarkKind.Empty)));
        if (refused == "folder") Assert.False(MergingMark.IsDurable(Cow));
    }

    [Fact]
    public void A_mark_is_gone_for_good_when_its_folder_is_flushed_after_that()
    {
        Assert.Equal(0, MergingMark.Make(Cow, new MarkState(MarkKind.Empty)));
        _flushed.Clear();
        MergingMark.Remove(Cow);
        Assert.Equal(["folder"], _flushed);
    }

    [Fact]
    public void A_mark_says_that_the_merge_has_begun_when_it_is_flushed()
    {
        File.WriteAllBytes(Cow, Golden.Cow(Vector));
        Assert.Equal(0, MergingMark.Make(Cow, new MarkState(MarkKind.Empty)));
        _flushed.Clear();
        using CowInput input = new(Cow);
        using CowFile cow = CowFile.Read(input.Source);
        MergingMark mark = new(Cow);
        mark.Begin(cow, 0);
        Assert.Equal(["cow.merging"], _flushed);
        _refused = "cow.merging";
        Assert.Equal(ExitCode.InputOutput, Assert.Throws<SnapuserdException>(() => mark.Begin(cow, 0)).Code);
    }

    [Fact]
    public void A_merge_is_reported_as_finished_before_when_base_and_cow_are_flushed()
    {
        Merged();
        MergeResult? result = MergeVerb.FinishedBefore(Words());
        Assert.True(result is { AlreadyMerged: true });
        // The mark goes after that.
        Assert.Equal(["base", "cow"], _flushed.Take(2).Order(StringComparer.Ordinal));
        Assert.Equal("folder", _flushed[2]);
    }

    [Theory]
    [InlineData("base")]
    [InlineData("cow")]
    public void A_merge_that_cannot_be_flushed_is_not_reported_as_finished_before(string refused)
    {
        Merged();
        _refused = refused;
        Assert.Null(MergeVerb.FinishedBefore(Words()));
        Assert.True(File.Exists(Mark));
    }

    [Fact]
    public void The_magic_is_written_when_all_else_is_durable_and_is_durable_then()
    {
        VolatileOutput output = new();
        HeldMagic held = new(output);
        byte[] bytes = Golden.Cow(Vector);
        held.Write(0, bytes.AsSpan(0, 100));
        held.Write(100, bytes.AsSpan(100));
        Assert.Equal(new byte[8], output.Cache.AsSpan(0, 8).ToArray());
        held.Release();
        Assert.Null(output.Wrong);
        Assert.Equal(bytes, output.Durable);
        held.Withdraw();
        Assert.Equal(new byte[8], output.Durable.AsSpan(0, 8).ToArray());
    }

    private Arguments Words() =>
        Arguments.Parse(Verbs.All.Single(one => one.Name == "merge"), ["--cow", Cow, "--base", _folder["base"]]);

    /// <summary>A COW that is counted to its end, its base, and a mark.</summary>
    private void Merged()
    {
        byte[] cow = Golden.Cow(Vector);
        BinaryPrimitives.WriteUInt64LittleEndian(cow.AsSpan(CowHeader.MergeCountOffset), (ulong)Golden.Row(Vector).MergeOps);
        File.WriteAllBytes(Cow, cow);
        File.WriteAllBytes(_folder["base"], Golden.New);
        Assert.Equal(0, MergingMark.Make(Cow, new MarkState(MarkKind.Empty)));
        _flushed.Clear();
    }

    /// <summary>A device that loses what was not flushed.</summary>
    private sealed class VolatileOutput : ICowOutput
    {
        internal byte[] Cache { get; private set; } = [];

        internal byte[] Durable { get; private set; } = [];

        /// <summary>What a power cut could have left that looks like a COW and is none.</summary>
        internal string? Wrong { get; private set; }

        public string Name => "a device";

        public long Length => Cache.Length;

        public long? Capacity => null;

        public void Write(long offset, ReadOnlySpan<byte> bytes)
        {
            byte[] before = Cache;
            Cache = new byte[Math.Max(before.Length, offset + bytes.Length)];
            before.CopyTo(Cache, 0);
            bytes.CopyTo(Cache.AsSpan((int)offset));
            // The write may be the only one that a cut leaves.
            bool isMagic = offset == 0 && BinaryPrimitives.ReadUInt64LittleEndian(bytes) != 0;
            if (isMagic && !Durable.SequenceEqual(before)) Wrong ??= "the magic is written before all else is durable";
        }

        public void Read(long offset, Span<byte> destination) => Cache.AsSpan((int)offset, destination.Length).CopyTo(destination);

        public void Flush() => Durable = [.. Cache];

        public void Truncate(long length) => Cache = Cache[..(int)length];
    }
}
