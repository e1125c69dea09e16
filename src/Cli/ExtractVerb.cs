using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Cli;

/// <summary>`extract`.</summary>
internal static class ExtractVerb
{
    internal static ExitCode Run(Invocation invocation)
    {
        var observer = new ProgressObserver(invocation, "extract");
        using var output = new ImageFile(invocation.Arguments.Required("--output"));
        MergedReading.Read(invocation, observer, output.Append, devices =>
        {
            if (output.IsOneOf(devices)) throw new SnapuserdException(ExitCode.Usage, $"{output.Path} is read by this very command; write the image to another file");
        });
        output.Finish();
        if (invocation.Arguments.Has("--json"))
            invocation.Output.Result(JsonLine.Event("done").Add("bytes", output.Length).Add("output", output.Path).Add("seconds", observer.Seconds).ToString());
        else
            invocation.Output.Result($"{output.Path}: {Units.Bytes(output.Length)}");
        return ExitCode.Done;
    }
}

/// <summary>
/// A file written from beginning to end beside its final name and renamed when it is whole, so that there is never half a file under
/// that name. Runs of zeros become holes.
/// </summary>
internal sealed class ImageFile : IDisposable
{
    private readonly string _temporary;
    private int _fd;

    /// <summary>Exit code 73 when the file cannot be created.</summary>
    internal ImageFile(string path)
    {
        Path = path;
        _temporary = $"{path}.part-{Libc.GetPid()}";
        if (Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out StatxData status) == 0 && (status.Mode & (uint)Libc.S_IFMT) != (uint)Libc.S_IFREG)
            throw new SnapuserdException(ExitCode.CannotCreate, $"{path} exists and is not a regular file");
        _fd = Libc.OpenAt(Libc.AT_FDCWD, _temporary, Libc.O_CREAT | Libc.O_EXCL | Libc.O_WRONLY | Libc.O_CLOEXEC, Convert.ToUInt32("644", 8));
        if (_fd < 0) throw new SnapuserdException(ExitCode.CannotCreate, $"{path}: creating it failed with {Errno.Name(_fd)}");
    }

    internal string Path { get; }

    /// <summary>Bytes so far.</summary>
    internal long Length { get; private set; }

    /// <summary>The final name belongs to one of the devices that are read.</summary>
    internal bool IsOneOf(DeviceSet devices)
    {
        if (Libc.Statx(Libc.AT_FDCWD, Path, 0, Libc.STATX_BASIC_STATS, out _) != 0) return false;
        using BlockDevice existing = BlockDevice.Open(Path, DeviceAccess.Read);
        return devices.Contains(existing);
    }

    /// <summary>Writes the next bytes. Exit code 74 when that fails, with the errno: mostly ENOSPC.</summary>
    internal void Append(ReadOnlySpan<byte> bytes)
    {
        const int grain = 4096;
        while (bytes.Length > 0)
        {
            int zeros = 0;
            while (zeros < bytes.Length && ZeroKernel.IsZero(bytes.Slice(zeros, Math.Min(grain, bytes.Length - zeros)))) zeros = Math.Min(zeros + grain, bytes.Length);
            int end = zeros;
            while (end < bytes.Length && !ZeroKernel.IsZero(bytes.Slice(end, Math.Min(grain, bytes.Length - end)))) end = Math.Min(end + grain, bytes.Length);
            Write(bytes[zeros..end], Length + zeros);
            Length += end;
            bytes = bytes[end..];
        }
    }

    /// <summary>Makes the file durable and gives it its name.</summary>
    internal void Finish()
    {
        Check(Libc.FTruncate(_fd, Length), "setting its length");
        Check(Libc.FSync(_fd), "flushing");
        Check(Libc.Rename(_temporary, Path), "renaming it into place");
        _ = Libc.Close(_fd);
        _fd = -1;
    }

    /// <summary>Removes what was not finished.</summary>
    public void Dispose()
    {
        if (_fd < 0) return;
        _ = Libc.Close(_fd);
        _ = Libc.Unlink(_temporary);
        _fd = -1;
    }

    private void Write(ReadOnlySpan<byte> bytes, long offset)
    {
        while (bytes.Length > 0)
        {
            nint written = Libc.PWrite(_fd, bytes, offset);
            if (written == -Errno.EINTR) continue;
            Check((int)(written == 0 ? -Errno.EIO : written), $"writing at {offset}");
            bytes = bytes[(int)written..];
            offset += written;
        }
    }

    private void Check(int result, string doing)
    {
        if (result < 0) throw new SnapuserdException(ExitCode.InputOutput, $"{Path}: {doing} failed with {Errno.Name(result)}");
    }
}
