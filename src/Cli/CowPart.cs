using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;

namespace Snapuserd.Cli;

/// <summary>
/// The COW that `create` writes: beside its final name until it is whole, so that there is never half a file under that name; straight to
/// a block device, which has no name to be renamed to.
/// </summary>
internal sealed class CowPart : IDisposable
{
    private readonly bool _renames;
    private bool _finished;

    private CowPart(string name, FileCowOutput file, bool renames)
    {
        Name = name;
        Output = file;
        _renames = renames;
    }

    /// <summary>The final name.</summary>
    internal string Name { get; }

    /// <summary>What is written.</summary>
    internal FileCowOutput Output { get; }

    /// <summary>Length in bytes.</summary>
    internal long Length => Output.Length;

    /// <summary>Exit code 64 when <paramref name="path"/> is one of the <paramref name="inputs"/>, 73 when it cannot be created, 76 when somebody else writes it.</summary>
    internal static CowPart Create(string path, params ReadOnlySpan<BlockDevice> inputs)
    {
        bool isDevice = false;
        if (Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out StatxData status) == 0)
        {
            isDevice = (status.Mode & (uint)Libc.S_IFMT) == (uint)Libc.S_IFBLK;
            if (!isDevice && (status.Mode & (uint)Libc.S_IFMT) != (uint)Libc.S_IFREG)
                throw new SnapuserdException(ExitCode.CannotCreate, $"{path} exists and is neither a regular file nor a block device");
            using BlockDevice existing = BlockDevice.Open(path, DeviceAccess.Read);
            foreach (BlockDevice input in inputs)
                if (input.SameFileAs(existing)) throw new SnapuserdException(ExitCode.Usage, $"{path} is read by this very command; write the COW to another file");
        }
        return new CowPart(path, FileCowOutput.Create(isDevice ? path : path + ".part"), !isDevice);
    }

    /// <summary>Gives the file its name. The writer has made it durable; this makes the name durable too.</summary>
    internal void Finish()
    {
        if (_renames)
        {
            int result = Libc.Rename(Output.Name, Name);
            if (result < 0) throw new SnapuserdException(ExitCode.CannotCreate, $"{Name}: renaming {Output.Name} failed with {Errno.Name(result)}");
        }
        _finished = true;
    }

    public void Dispose()
    {
        if (_renames && !_finished) _ = Libc.Unlink(Output.Name);
        Output.Dispose();
    }
}
