using System;
using System.Collections.Generic;
using System.IO;
using Microsoft.Win32.SafeHandles;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Images;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Images;

/// <summary>The final and the temporary name of a file being written, and the COW that `create` writes under the temporary name.</summary>
public sealed class TemporaryNameTests : IDisposable
{
    private readonly TempFolder _folder = new();
    private readonly List<string> _warnings = [];

    private string Target => _folder["target"];

    private string Part => Target + ".part";

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void The_temporary_name_fits_where_the_name_fits()
    {
        foreach (int length in (int[])[1, 250, 251, 254, 255, 256])
        {
            string path = _folder[new string('n', length)];
            using TemporaryName name = new(path);
            Assert.Equal(path, name.Target);
            Assert.Equal(length > 250 && length <= 255 ? _folder[new string('n', 250) + ".part"] : path + ".part", name.Temporary);
        }
        // The final name may look like the temporary name of another file.
        string own = _folder[new string('n', 250) + ".part"];
        using TemporaryName same = new(own);
        Assert.Equal(_folder[new string('n', 250) + ".temp"], same.Temporary);
        using TemporaryName relative = new("name");
        Assert.Equal(("name", "name.part", false), (relative.Target, relative.Temporary, relative.Exists));
        // The limit counts bytes, not characters.
        string wide = _folder[new string('ä', 126)];
        using TemporaryName bytes = new(wide);
        Assert.Equal(_folder[new string('ä', 125) + ".part"], bytes.Temporary);
    }

    [Fact]
    public void Links_lead_to_the_file_that_is_replaced_and_not_in_a_circle()
    {
        Directory.CreateDirectory(_folder["sub"]);
        File.CreateSymbolicLink(_folder["link"], "sub/next");
        File.CreateSymbolicLink(_folder["sub/next"], "file");
        using (TemporaryName name = new(_folder["link"]))
        {
            Assert.Equal((_folder["link"], _folder["sub/file"]), (name.Path, name.Target));
            Assert.Equal((_folder["sub/file.part"], false), (name.Temporary, name.Exists));
        }
        File.CreateSymbolicLink(_folder["absolute"], _folder["sub/file"]);
        using (TemporaryName name = new(_folder["absolute"])) Assert.Equal(_folder["sub/file"], name.Target);

        // As many links as the kernel follows.
        for (int i = 0; i < 40; i++) File.CreateSymbolicLink(_folder[$"l{i}"], i == 39 ? "end" : $"l{i + 1}");
        using (TemporaryName name = new(_folder["l1"])) Assert.Equal(_folder["end"], name.Target);
        SnapuserdException tooMany = Assert.Throws<SnapuserdException>(() => new TemporaryName(_folder["l0"]));
        Assert.Contains("ELOOP", tooMany.Message, StringComparison.Ordinal);
        File.CreateSymbolicLink(_folder["circle"], "circle");
        Assert.Equal(ExitCode.CannotCreate, Assert.Throws<SnapuserdException>(() => new TemporaryName(_folder["circle"])).Code);
    }

    [Fact]
    public void The_kind_of_an_existing_file_is_known()
    {
        File.WriteAllText(Target, "old");
        Assert.Equal((true, true, false), Kind(Target));
        Assert.Equal((true, false, false), Kind(_folder.Path));
        Assert.Equal((false, false, false), Kind(_folder["none"]));
        using (TemporaryName file = new(Target)) Assert.Equal(3UL, file.Existing.Size);
        using FileStream deleted = new(_folder["deleted"], FileMode.CreateNew);
        File.Delete(_folder["deleted"]);
        string open = $"/proc/self/fd/{deleted.SafeFileHandle.DangerousGetHandle()}";
        SnapuserdException nameless = Assert.Throws<SnapuserdException>(() => new TemporaryName(open));
        Assert.Contains("an open file that has no name", nameless.Message, StringComparison.Ordinal);

        static (bool Exists, bool IsFile, bool IsBlockDevice) Kind(string path)
        {
            using TemporaryName name = new(path);
            return (name.Exists, name.IsFile, name.IsBlockDevice);
        }
    }

    [Theory]
    [InlineData("nothing", null)]
    [InlineData("file", null)]
    [InlineData("file appears", null)]
    [InlineData("begun appears", ExitCode.CowCorrupt)]
    [InlineData("file becomes begun", ExitCode.CowCorrupt)]
    [InlineData("another file", ExitCode.InUse)]
    [InlineData("file goes", null)]
    public void A_file_gets_its_name_unless_what_it_replaces_must_stay(string story, ExitCode? code)
    {
        byte[] begun = Golden.HalfCow("half-v3-lz4-64k-xor-F1sync");
        if (story is "file" or "file becomes begun" or "file goes" or "another file") File.WriteAllText(Target, "old");
        File.WriteAllText(Part, "new");
        using TemporaryName name = new(Target);
        name.Claim(_ => false, withoutLock: false);
        if (story == "file appears") File.WriteAllText(Target, "other");
        if (story == "begun appears") File.WriteAllBytes(Target, begun);
        if (story == "file becomes begun")
        {
            int fd = Libc.OpenAt(Libc.AT_FDCWD, Target, Libc.O_WRONLY | Libc.O_CLOEXEC);
            Assert.Equal(begun.Length, Libc.PWrite(fd, begun, 0));
            _ = Libc.Close(fd);
        }
        if (story == "another file")
        {
            File.WriteAllText(_folder["other"], "other");
            File.Move(_folder["other"], Target, overwrite: true);
        }
        if (story == "file goes") File.Delete(Target);
        using SafeFileHandle part = File.OpenHandle(Part);
        int Publish() => name.Publish((int)part.DangerousGetHandle(), _warnings.Add, out _);
        if (code is null)
        {
            Assert.Equal(0, Publish());
            Assert.False(File.Exists(Part));
            Assert.Equal("new", File.ReadAllText(Target));
        }
        else
        {
            Assert.Equal(code, Assert.Throws<SnapuserdException>(() => Publish()).Code);
            Assert.True(File.Exists(Part));
            Assert.NotEqual("new"u8.ToArray(), Unlocked.Read(Target, 3));
        }
        Assert.Empty(_warnings);
    }

    [Fact]
    public void A_part_that_is_gone_cannot_be_published()
    {
        using TemporaryName name = new(Target);
        name.Claim(_ => false, withoutLock: false);
        Assert.Equal(-Errno.ENOENT, name.Publish(-1, _warnings.Add, out string doing));
        Assert.Equal("renaming it into place", doing);
    }

    [Theory]
    [InlineData("untouched", "")]
    [InlineData("begun", "")]
    [InlineData("finished", "target")]
    [InlineData("old part untouched", "target.part")]
    [InlineData("old part begun", "")]
    public void An_unfinished_cow_leaves_files_that_it_has_not_written_to(string story, string left)
    {
        bool old = story.StartsWith("old part", StringComparison.Ordinal);
        if (old) File.WriteAllText(Part, "old");
        using (AtomicFile part = AtomicFile.Create(Target, withoutLock: false))
        {
            Assert.Equal(Target, part.Name);
            if (!story.EndsWith("untouched", StringComparison.Ordinal)) part.Output.Write(0, "new"u8);
            if (story == "finished")
            {
                part.Written();
                part.Finish(_warnings.Add);
            }
        }
        Assert.Equal(left, string.Join(' ', Array.ConvertAll(Directory.GetFiles(_folder.Path), path => Path.GetFileName(path)!)));
        if (story == "finished") Assert.Equal("new", File.ReadAllText(Target));
        if (left == "target.part") Assert.Equal("old", File.ReadAllText(Part));
    }

    [RootFact]
    public void A_cow_on_a_device_has_its_magic_only_when_it_is_complete()
    {
        byte[] old = new byte[64 << 10];
        Golden.Cow("v3-lz4-noseq").AsSpan(0, 4096).CopyTo(old);
        byte[] fresh = Golden.Cow("v3-lz4-64k-xor")[..4096];
        File.WriteAllBytes(_folder["disk"], old);
        using LoopDevice loop = new(_folder["disk"]);
        using (AtomicFile part = AtomicFile.Create(loop.Path, withoutLock: false)) Assert.Equal(loop.Path, part.Name);
        Assert.Equal(old, Unlocked.Read(loop.Path, old.Length));
        using (AtomicFile part = AtomicFile.Create(loop.Path, withoutLock: false)) part.Output.Write(0, fresh);
        Assert.Equal(new byte[8], Unlocked.Read(loop.Path, 8));
        // A complete COW that turns out to be wrong.
        using (AtomicFile part = AtomicFile.Create(loop.Path, withoutLock: false))
        {
            part.Output.Write(0, fresh);
            part.Written();
            Assert.Equal(fresh, Unlocked.Read(loop.Path, fresh.Length));
        }
        Assert.Equal(new byte[8], Unlocked.Read(loop.Path, 8));
        using (AtomicFile part = AtomicFile.Create(loop.Path, withoutLock: false))
        {
            part.Output.Write(0, fresh);
            part.Written();
            part.Finish(_warnings.Add);
        }
        Assert.Equal(fresh, Unlocked.Read(loop.Path, fresh.Length));
        Assert.Empty(_warnings);
    }

    [Fact]
    public void A_cow_does_not_replace_files_that_must_stay()
    {
        byte[] begun = Golden.HalfCow("half-v3-lz4-64k-xor-F1sync");
        Directory.CreateDirectory(_folder["folder"]);
        Refused(_folder["folder"], ExitCode.CannotCreate, "neither a regular file nor a block device");
        File.WriteAllText(_folder["other"], "other");
        File.CreateSymbolicLink(Part, _folder["other"]);
        Refused(Target, ExitCode.CannotCreate, "it is a symbolic link");
        File.Delete(Part);
        File.WriteAllText(Target, "input");
        using (BlockDevice input = BlockDevice.Open(Target, DeviceAccess.Read))
            Refused(Target, ExitCode.Usage, "read by this very command", input);
        foreach (string name in (string[])[Target, Part])
        {
            File.WriteAllBytes(name, begun);
            Refused(Target, ExitCode.CowCorrupt, "a COW whose merge has begun");
            Assert.Equal(begun, File.ReadAllBytes(name));
            File.Delete(name);
        }
        Refused(_folder["no/target"], ExitCode.CannotCreate, "ENOENT");
        using (AtomicFile.Create(Target, withoutLock: false)) Refused(Target, ExitCode.InUse, "");
        // All locks are released.
        using AtomicFile last = AtomicFile.Create(Target, withoutLock: false);
        Assert.Equal("other", File.ReadAllText(_folder["other"]));
    }

    private static void Refused(string path, ExitCode code, string words, params BlockDevice[] inputs)
    {
        SnapuserdException refusal = Assert.Throws<SnapuserdException>(() => AtomicFile.Create(path, withoutLock: false, inputs).Dispose());
        Assert.Equal(code, refusal.Code);
        Assert.Contains(words, refusal.Message, StringComparison.Ordinal);
    }
}
