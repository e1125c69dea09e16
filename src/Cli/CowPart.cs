using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;

namespace Snapuserd.Cli;

/// <summary>The COW that `create` writes: beside its final name until it is whole; straight to a block device, which has no name to be renamed to.</summary>
internal sealed class CowPart : IDisposable
{
    private readonly PartName _name;
    private readonly FileCowOutput _file;
    private readonly HeldMagic? _held;
    private bool _finished;

    private CowPart(PartName name, FileCowOutput file)
    {
        _name = name;
        _file = file;
        _held = name.IsBlockDevice ? new HeldMagic(file) : null;
    }

    /// <summary>The final name, as the user gave it.</summary>
    internal string Name => _name.Path;

    /// <summary>What is written.</summary>
    internal ICowOutput Output => _held is null ? _file : _held;

    /// <summary>Exit code 64 when <paramref name="path"/> is one of the <paramref name="inputs"/>, 73 when it cannot be created, 76 when somebody else writes it.</summary>
    internal static CowPart Create(string path, params BlockDevice[] inputs)
    {
        PartName name = new(path);
        if (name is { Exists: true, IsFile: false, IsBlockDevice: false })
            throw new SnapuserdException(ExitCode.CannotCreate, $"{path} exists and is neither a regular file nor a block device");
        name.Refuse(device => Array.Exists(inputs, device.SameFileAs));
        if (name.IsBlockDevice) return new CowPart(name, FileCowOutput.Open(name.Target));
        // Whoever can plant a link at the part's name must not choose what is overwritten.
        if (Libc.ReadLink(name.Temporary, out _) == 0) throw new SnapuserdException(ExitCode.CannotCreate, $"cannot create {name.Temporary}: it is a symbolic link");
        return new CowPart(name, FileCowOutput.Create(name.Temporary));
    }

    /// <summary>The writer has finished: from here on it can be read, and what it holds be judged.</summary>
    internal void Written() => _held?.Release();

    /// <summary>Gives the file, which the writer has made durable, its name.</summary>
    internal void Finish()
    {
        if (!_name.IsBlockDevice)
        {
            int result = _name.Publish(out string doing);
            if (result < 0) throw new SnapuserdException(ExitCode.CannotCreate, $"{Name}: {doing} failed: {Reason.Of(result)}");
        }
        _finished = true;
    }

    public void Dispose()
    {
        // Before the lock is let go of: behind that the name may be another run's.
        if (!_finished) Undo();
        _file.Dispose();
    }

    private void Undo()
    {
        if (_held is null)
        {
            _ = Libc.Unlink(_name.Temporary);
            return;
        }
        try
        {
            _held.Withdraw();
        }
        catch (SnapuserdException)
        {
            // The error that brought us here is the one to tell; a device that fails to take eight bytes has given it.
        }
    }
}
