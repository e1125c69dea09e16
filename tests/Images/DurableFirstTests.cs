using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Images;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Images;

/// <summary>
/// What is made durable before other processes can rely on it, in which order, and what it does when that fails.
/// </summary>
public sealed class DurableFirstTests : IDisposable
{
    private const string Vector = "v3-lz4-descending";

    private readonly TempFolder _folder = new();
    private readonly List<string> _flushed = [];
    private string? _refused;
    private Action? _atFlush;

    public DurableFirstTests() => FileFlush.Before = fd =>
    {
        string path = DescriptorPath.Of(fd);
        string name = path == _folder.Path ? "folder" : Path.GetFileName(path);
        _flushed.Add(name);
        _atFlush?.Invoke();
        return name == _refused ? -Errno.EIO : 0;
    };

    private string Cow => _folder["cow"];

    public void Dispose()
    {
        FileFlush.Before = null;
        _folder.Dispose();
    }

    [Fact]
    public void The_magic_is_written_after_all_else_is_durable_and_is_flushed_itself()
    {
        VolatileOutput output = new();
        DeferredMagic held = new(output);
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

    [Fact]
    public void The_old_magic_is_durably_removed_before_the_first_new_byte()
    {
        byte[] old = Golden.Cow(Vector);
        VolatileOutput output = new();
        output.Write(0, old);
        output.Flush();
        DeferredMagic held = new(output);
        held.Write(4096, [1]);
        Assert.Equal(new byte[8], output.Durable.AsSpan(0, 8).ToArray());
        Assert.Equal(old.AsSpan(8).ToArray(), output.Durable.AsSpan(8).ToArray());
    }

    [Fact]
    public void An_image_gets_its_name_after_it_is_flushed_and_is_done_after_its_folder_is()
    {
        byte[] bytes = [.. Golden.New];
        _atFlush = () => Assert.Equal((bytes.Length, true), _flushed is ["image.part"]
            ? ((int)new FileInfo(_folder["image.part"]).Length, !File.Exists(_folder["image"]))
            : ((int)new FileInfo(_folder["image"]).Length, !File.Exists(_folder["image.part"])));
        Extract(bytes);
        Assert.Equal(["image.part", "folder"], _flushed);
        Assert.Equal(bytes, File.ReadAllBytes(_folder["image"]));
    }

    [Fact]
    public void A_stream_into_a_file_is_done_only_after_it_is_flushed()
    {
        using (FileStream file = File.Create(_folder["stream"]))
        using (StreamImage stream = new(new StopFlag(), (int)file.SafeFileHandle.DangerousGetHandle()))
        {
            stream.Check(isClosed: false);
            stream.Append(Golden.New);
            Assert.Empty(_flushed);
            stream.Finish();
            Assert.Equal(["stream"], _flushed);
            _refused = "stream";
            Assert.Equal(ExitCode.InputOutput, Assert.Throws<SnapuserdException>(stream.Finish).Code);
        }
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["stream"]));
    }

    [Theory]
    [InlineData("image.part", false)]
    [InlineData("folder", true)]
    public void An_image_that_cannot_be_flushed_is_74(string refused, bool named)
    {
        _refused = refused;
        SnapuserdException failure = Assert.Throws<SnapuserdException>(() => Extract(Golden.New));
        Assert.Equal(ExitCode.InputOutput, failure.Code);
        Assert.Equal(named, File.Exists(_folder["image"]));
        Assert.False(File.Exists(_folder["image.part"]));
    }

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public void A_cow_gets_its_name_after_ops_and_header_are_flushed_and_is_done_after_its_folder_is(int format)
    {
        List<byte[]> atFlushes = [];
        _atFlush = () =>
        {
            bool named = _flushed[^1] == "folder";
            Assert.Equal((named, !named), (File.Exists(_folder["new.cow"]), File.Exists(_folder["new.cow.part"])));
            string path = named ? _folder["new.cow"] : _folder["new.cow.part"];
            atFlushes.Add(Unlocked.Read(path, (int)new FileInfo(path).Length));
        };
        Create(format);
        Assert.True(_flushed is [.., "new.cow.part", "new.cow.part", "folder"], string.Join(' ', _flushed));
        byte[] whole = File.ReadAllBytes(_folder["new.cow"]);
        Assert.Equal([false, true, true], atFlushes[^3..].Select(bytes => bytes.AsSpan().SequenceEqual(whole)));
        // Ops and payloads, between the header of one format and the footer of the other.
        Range rest = 100..^100;
        Assert.Equal(whole[rest], atFlushes[^3].Concat(new byte[whole.Length]).Take(whole.Length).ToArray()[rest]);
    }

    [Theory]
    [InlineData("new.cow.part", 74, false)]
    [InlineData("folder", 73, true)]
    public void A_cow_that_cannot_be_flushed_is_an_error(string refused, int code, bool named)
    {
        _refused = refused;
        SnapuserdException failure = Assert.Throws<SnapuserdException>(() => Create(3));
        Assert.Equal(code, (int)failure.Code);
        Assert.Equal(named, File.Exists(_folder["new.cow"]));
        Assert.False(File.Exists(_folder["new.cow.part"]));
    }

    private void Extract(byte[] bytes)
    {
        using ImageFile image = new(_folder["image"]);
        File.WriteAllBytes(Cow, Golden.Cow(Vector));
        File.WriteAllBytes(_folder["base"], Golden.Old);
        DeviceOptions options = new() { Cow = Cow, Base = _folder["base"], ArenaBytes = 1 << 20, Writes = false };
        using (WakeUp wakeUp = new())
        using (DeviceSet devices = new(options, new StopFlag(), wakeUp)) image.Create(devices, withoutLock: false);
        image.Append(bytes);
        image.Finish(new StopFlag(), _ => { });
    }

    private void Create(int format)
    {
        using AtomicFile part = AtomicFile.Create(_folder["new.cow"], withoutLock: false);
        using (CowWriter writer = CowWriter.Create(part.Output, new CowWriterOptions { Version = format, OpCountMax = 3, ClusterOps = 0 }))
        {
            writer.Copy(1, 0, 1);
            writer.Replace(2, Golden.New.AsSpan(0, 4096));
            writer.Zero(3, 1);
            writer.Finish();
        }
        part.Written();
        part.Finish(_ => { });
    }

    /// <summary>A device that loses what was not flushed.</summary>
    private sealed class VolatileOutput : ICowOutput
    {
        internal byte[] Cache { get; private set; } = [];

        internal byte[] Durable { get; private set; } = [];

        /// <summary>A state that a power cut could leave and that looks like a COW without being one.</summary>
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
            // A power cut may preserve this write alone.
            bool isMagic = offset == 0 && BinaryPrimitives.ReadUInt64LittleEndian(bytes) != 0;
            if (isMagic && !Durable.SequenceEqual(before)) Wrong ??= "the magic is written before all else is durable";
        }

        public void Read(long offset, Span<byte> destination) => Cache.AsSpan((int)offset, destination.Length).CopyTo(destination);

        public void Flush() => Durable = [.. Cache];

        public void Truncate(long length) => Cache = Cache[..(int)length];
    }
}
