using System;
using System.Collections.Generic;
using System.IO;
using Snapuserd.Block;
using Snapuserd.Images;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Images;

/// <summary>
/// An image that is written as NAME.part and gets its name once it is durable, and the handling of existing files with either name.
/// </summary>
public sealed class ImageFileTests : IDisposable
{
    private readonly TempFolder _folder = new();
    private readonly List<string> _flushed = [], _warnings = [];
    private readonly WakeUp _wakeUp = new();
    private readonly DeviceSet _devices;
    private string? _refused;

    public ImageFileTests()
    {
        File.WriteAllBytes(_folder["cow"], Golden.Cow("v3-lz4-64k-xor"));
        File.WriteAllBytes(_folder["base"], Golden.Old);
        DeviceOptions options = new() { Cow = _folder["cow"], Base = _folder["base"], Io = IoChoice.Sync, ArenaBytes = 1 << 20 };
        _devices = new DeviceSet(options with { Threads = 1 }, new StopFlag(), _wakeUp);
        FileFlush.Before = fd =>
        {
            string path = DescriptorPath.Of(fd);
            string name = path == _folder.Path ? "folder" : Path.GetFileName(path);
            _flushed.Add(name == "folder" && !File.Exists(Part) ? "folder after the name" : name);
            return name == _refused ? -Errno.EIO : 0;
        };
    }

    private string Image => _folder["image"];

    private string Part => Image + ".part";

    public void Dispose()
    {
        FileFlush.Before = null;
        _devices.Dispose();
        _wakeUp.Dispose();
        _folder.Dispose();
    }

    [Fact]
    public void An_image_has_the_bytes_that_were_appended_and_holes_for_zeros()
    {
        Random random = new(11);
        using MemoryStream expected = new();
        using (ImageFile file = New())
        {
            for (int i = 0; i < 60; i++)
            {
                // Data and zeros of whole blocks and of odd lengths, alone and in sequence.
                byte[] bytes = new byte[(random.Next(3) * 4096) + (random.Next(2) * random.Next(5000))];
                if (i % 3 != 0) random.NextBytes(bytes.AsSpan(0, bytes.Length / (i % 3)));
                file.Append(bytes);
                expected.Write(bytes);
                Assert.Equal(expected.Length, file.Length);
            }
            file.Append(new byte[64 << 20]);
            expected.SetLength(expected.Length + (64 << 20));
            Finish(file);
        }
        byte[] image = File.ReadAllBytes(Image);
        Assert.True(image.AsSpan().SequenceEqual(expected.ToArray()));
        Assert.Equal(0, Libc.Statx(Libc.AT_FDCWD, Image, 0, Libc.STATX_BASIC_STATS, out StatxData status));
        Assert.True((long)status.Blocks * 512 < 4 << 20, $"{status.Blocks} blocks");
        Assert.Equal(["image.part", "folder after the name"], _flushed);
        Assert.False(File.Exists(Part));
        Assert.Empty(_warnings);
    }

    [Theory]
    [InlineData(4095)]
    [InlineData(4096)]
    [InlineData(4097)]
    [InlineData(12288)]
    public void Blocks_of_zeros_among_data_are_holes(int zeros)
    {
        byte[] bytes = new byte[4096 + zeros + 4096];
        bytes.AsSpan(0, 4096).Fill(1);
        bytes.AsSpan(4096 + zeros).Fill(2);
        using (ImageFile file = New())
        {
            file.Append(bytes);
            Finish(file);
        }
        Assert.Equal(bytes, File.ReadAllBytes(Image));
    }

    [RootFact]
    public void The_new_file_gets_the_mode_and_the_owner_of_the_replaced_one()
    {
        File.WriteAllText(Image, "old");
        LoopDevice.Call("chown", "1234:1235", Image);
        LoopDevice.Call("chmod", "4751", Image);
        using (ImageFile file = New())
        {
            file.Append("new"u8);
            Assert.Equal("old", System.Text.Encoding.ASCII.GetString(Unlocked.Read(Image, 3)));
            Finish(file);
        }
        Assert.Equal("new", File.ReadAllText(Image));
        Assert.Equal("4751 1234 1235", LoopDevice.Call("stat", "-c", "%a %u %g", Image).Trim());
        Assert.Empty(_warnings);
    }

    [Fact]
    public void An_unfinished_image_is_removed_and_the_existing_file_stays()
    {
        File.WriteAllText(Image, "old");
        using (ImageFile file = New())
        {
            file.Append("new"u8);
            Assert.True(File.Exists(Part));
        }
        Assert.Equal(["base", "cow", "image"], Names());
        Assert.Equal("old", File.ReadAllText(Image));
        // Both locks are released.
        using ImageFile again = New();
        Finish(again);
        Assert.Equal("", File.ReadAllText(Image));
    }

    [Fact]
    public void A_stop_before_the_name_changes_leaves_nothing()
    {
        StopFlag stop = new();
        stop.Request();
        using (ImageFile file = New())
        {
            file.Append("new"u8);
            SnapuserdException stopped = Assert.Throws<SnapuserdException>(() => file.Finish(stop, _warnings.Add));
            Assert.Equal(ExitCode.Interrupted, stopped.Code);
            Assert.Equal($"stopped before {Image} got its name; nothing was changed", stopped.Message);
        }
        Assert.Equal(["base", "cow"], Names());
    }

    [Theory]
    [InlineData("image.part", "flushing")]
    [InlineData("folder", "flushing its folder")]
    public void An_image_that_cannot_be_flushed_is_an_error(string refused, string doing)
    {
        _refused = refused;
        using (ImageFile file = New())
        {
            file.Append("new"u8);
            SnapuserdException failure = Assert.Throws<SnapuserdException>(() => file.Finish(new StopFlag(), _warnings.Add));
            Assert.Equal(ExitCode.InputOutput, failure.Code);
            Assert.StartsWith($"{Image}: {doing} failed: ", failure.Message, StringComparison.Ordinal);
        }
        Assert.Equal(refused == "folder", File.Exists(Image));
        Assert.False(File.Exists(Part));
    }

    [Fact]
    public void A_part_that_a_killed_run_left_is_emptied()
    {
        File.WriteAllBytes(Part, new byte[10_000]);
        using (ImageFile file = New())
        {
            Assert.Equal(0, new FileInfo(Part).Length);
            file.Append("ne"u8);
            Finish(file);
        }
        Assert.Equal("ne", File.ReadAllText(Image));
    }

    [Fact]
    public void Only_regular_files_are_replaced_and_links_are_not_followed()
    {
        Directory.CreateDirectory(_folder["directory"]);
        Refused(_folder["directory"], ExitCode.CannotCreate, "exists and is not a regular file");
        File.WriteAllText(_folder["other"], "other");
        foreach (string target in (string[])["other", "nothing"])
        {
            File.CreateSymbolicLink(Part, _folder[target]);
            Refused(Image, ExitCode.CannotCreate, "symbolic link");
            File.Delete(Part);
        }
        Assert.Equal("other", File.ReadAllText(_folder["other"]));
        Assert.False(File.Exists(_folder["nothing"]));
        Directory.CreateDirectory(Part);
        Refused(Image, ExitCode.CannotCreate, "cannot create");
        Directory.Delete(Part);
        LoopDevice.Call("mkfifo", Part);
        Refused(Image, ExitCode.CannotCreate, "cannot create");
        File.Delete(Part);
        Refused(_folder["no/image"], ExitCode.CannotCreate, "ENOENT");
        Assert.Equal(["base", "cow", "directory", "other"], Names());
    }

    [Fact]
    public void Inputs_and_a_begun_cow_are_not_replaced_under_either_name()
    {
        Refused(_folder["cow"], ExitCode.Usage, "read by this very command");
        LoopDevice.Call("ln", _folder["base"], Part);
        Refused(Image, ExitCode.Usage, "read by this very command");
        File.Delete(Part);
        byte[] begun = Golden.HalfCow("half-v3-lz4-64k-xor-F1sync");
        foreach (string name in (string[])[Image, Part])
        {
            File.WriteAllBytes(name, begun);
            Refused(Image, ExitCode.CowCorrupt, "a COW whose merge has begun");
            Assert.Equal(begun, File.ReadAllBytes(name));
            File.Delete(name);
        }
        Assert.Equal(["base", "cow"], Names());
    }

    private ImageFile New()
    {
        ImageFile file = new(Image);
        file.Create(_devices, withoutLock: false);
        Assert.Equal(Image, file.Path);
        return file;
    }

    private void Finish(ImageFile file) => file.Finish(new StopFlag(), _warnings.Add);

    private void Refused(string path, ExitCode code, string words)
    {
        SnapuserdException refusal = Assert.Throws<SnapuserdException>(() =>
        {
            using ImageFile file = new(path);
            file.Create(_devices, withoutLock: false);
        });
        Assert.Equal(code, refusal.Code);
        Assert.Contains(words, refusal.Message, StringComparison.Ordinal);
    }

    private string[] Names()
    {
        string[] names = Array.ConvertAll(Directory.GetFileSystemEntries(_folder.Path), path => Path.GetFileName(path)!);
        Array.Sort(names, StringComparer.Ordinal);
        return names;
    }
}
