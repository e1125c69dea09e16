using System;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;

namespace Snapuserd.Images;

/// <summary>
/// The COW that `create` writes. A regular file is written under a temporary name and renamed when it is complete. A block device cannot be
/// renamed, so it is written directly.
/// </summary>
public sealed class AtomicFile : IDisposable
{
    private readonly TemporaryName _name;
    private readonly FileCowOutput _file;
    private readonly DeferredMagic? _held;
    private bool _begun;
    private bool _finished;

    private AtomicFile(TemporaryName name, FileCowOutput file)
    {
        _name = name;
        _file = file;
        _held = name.IsBlockDevice ? new DeferredMagic(file) : null;
    }

    /// <summary>The final name, as the user gave it.</summary>
    public string Name => _name.Path;

    /// <summary>The output. Until this is read for the first time, the file or device is unchanged.</summary>
    public ICowOutput Output
    {
        get
        {
            _begun = true;
            return _held is null ? _file : _held;
        }
    }

    /// <summary>
    /// Opens the output and locks the file it will replace, before any other work. Exit code 64 if <paramref name="path"/> is one of the
    /// <paramref name="inputs"/>, 65 if it is a COW whose merge has begun, 69 if it cannot be locked. Exit code 73 if it cannot be created,
    /// 76 if another program uses it. With <paramref name="withoutLock"/>, missing support for locks is not an error.
    /// </summary>
    public static AtomicFile Create(string path, bool withoutLock, params BlockDevice[] inputs)
    {
        TemporaryName name = new(path);
        FileCowOutput? file = null;
        try
        {
            if (name is { Exists: true, IsFile: false, IsBlockDevice: false })
                throw new SnapuserdException(ExitCode.CannotCreate, $"{path} exists and is neither a regular file nor a block device");
            name.Claim(device => Array.Exists(inputs, device.SameFileAs), withoutLock);
            DeviceAccess access = DeviceAccess.Exclusive | (withoutLock ? DeviceAccess.WithoutLock : 0);
            // A user who can create a link at the temporary name must not choose the file that is overwritten.
            if (!name.IsBlockDevice && Libc.ReadLink(name.Temporary, out _) == 0)
                throw new SnapuserdException(ExitCode.CannotCreate, $"cannot create {name.Temporary}: it is a symbolic link");
            file = name.IsBlockDevice ? FileCowOutput.Open(name.Target, access) : FileCowOutput.Create(name.Temporary, access);
            BegunCow.Refuse(file.Name);
            return new AtomicFile(name, file);
        }
        catch
        {
            file?.Dispose();
            name.Dispose();
            throw;
        }
    }

    /// <summary>Called after the writer has finished: from here on the output can be read and checked.</summary>
    public void Written() => _held?.Release();

    /// <summary>
    /// Renames the file to its final name. The writer must have made it durable. <paramref name="warn"/> receives a message about missing
    /// file system features.
    /// </summary>
    public void Finish(Action<string> warn)
    {
        if (!_name.IsBlockDevice)
        {
            int result = _name.Publish(_file.Fd, warn, out string doing);
            if (result < 0) throw new SnapuserdException(ExitCode.CannotCreate, $"{Name}: {doing} failed: {ErrnoText.Of(result)}");
        }
        _finished = true;
    }

    public void Dispose()
    {
        // This must precede the release of the lock. After that, the name may belong to another run.
        if (!_finished) Undo();
        _file.Dispose();
        _name.Dispose();
    }

    private void Undo()
    {
        // An existing, unwritten output stays; an empty temporary file is removed.
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
            // The original error is the one to report. A device that does not accept eight bytes has already caused it.
        }
    }
}
