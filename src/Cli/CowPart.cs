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
    private bool _begun;
    private bool _finished;

    private CowPart(PartName name, FileCowOutput file)
    {
        _name = name;
        _file = file;
        _held = name.IsBlockDevice ? new HeldMagic(file) : null;
    }

    /// <summary>The final name, as the user gave it.</summary>
    internal string Name => _name.Path;

    /// <summary>What is written; until it is asked for, the file or device is as it was found.</summary>
    internal ICowOutput Output
    {
        get
        {
            _begun = true;
            return _held is null ? _file : _held;
        }
    }

    /// <summary>
    /// Opens what will be written and locks what it will replace, before anything else is done. Exit code 64 when <paramref name="path"/> is one of the <paramref name="inputs"/>, 65 when it is a COW whose merge has
    /// begun, 69 when it cannot be locked, 73 when it cannot be created, 76 when another program uses it. <paramref name="withoutLock"/>: not for want of locks.
    /// </summary>
    internal static CowPart Create(string path, bool withoutLock, params BlockDevice[] inputs)
    {
        PartName name = new(path);
        FileCowOutput? file = null;
        try
        {
            if (name is { Exists: true, IsFile: false, IsBlockDevice: false })
                throw new SnapuserdException(ExitCode.CannotCreate, $"{path} exists and is neither a regular file nor a block device");
            name.Claim(device => Array.Exists(inputs, device.SameFileAs), withoutLock);
            DeviceAccess access = DeviceAccess.Exclusive | (withoutLock ? DeviceAccess.WithoutLock : 0);
            // A user who can plant a link at the part's name must not choose what is overwritten.
            if (!name.IsBlockDevice && Libc.ReadLink(name.Temporary, out _) == 0) throw new SnapuserdException(ExitCode.CannotCreate, $"cannot create {name.Temporary}: it is a symbolic link");
            file = name.IsBlockDevice ? FileCowOutput.Open(name.Target, access) : FileCowOutput.Create(name.Temporary, access);
            BegunCow.Refuse(file.Name);
            return new CowPart(name, file);
        }
        catch
        {
            file?.Dispose();
            name.Dispose();
            throw;
        }
    }

    /// <summary>The writer has finished: from here on it can be read, and what it holds be judged.</summary>
    internal void Written() => _held?.Release();

    /// <summary>Gives the file, which the writer has made durable, its name. <paramref name="warn"/> takes a sentence about what the file system lacks.</summary>
    internal void Finish(Action<string> warn)
    {
        if (!_name.IsBlockDevice)
        {
            int result = _name.Publish(_file.Fd, warn, out string doing);
            if (result < 0) throw new SnapuserdException(ExitCode.CannotCreate, $"{Name}: {doing} failed: {Reason.Of(result)}");
        }
        _finished = true;
    }

    public void Dispose()
    {
        // Before the lock is let go of: after that the name may be another run's.
        if (!_finished) Undo();
        _file.Dispose();
        _name.Dispose();
    }

    private void Undo()
    {
        // What was there and was not written to stays; an empty part goes.
        if (!_begun && (_held != null || _file.Length > 0)) return;
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
