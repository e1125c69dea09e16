using System;
using System.IO;
using System.IO.Pipes;
using Snapuserd.Block;
using Snapuserd.Images;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.Images;

/// <summary>An image on a descriptor that the caller supplies: what is refused, locked and written there.</summary>
public sealed class StreamImageTests : IDisposable
{
    private readonly TempFolder _folder = new();
    private readonly WakeUp _wakeUp = new();
    private readonly StopFlag _stop = new();
    private readonly DeviceSet _devices;
    private int _fd = -1;

    public StreamImageTests()
    {
        File.WriteAllBytes(_folder["cow"], Golden.Cow("v3-lz4-64k-xor"));
        File.WriteAllBytes(_folder["base"], Golden.Old);
        File.WriteAllText(_folder["image"], "");
        DeviceOptions options =
            new() { Cow = _folder["cow"], Base = _folder["base"], Io = IoChoice.Sync, ArenaBytes = 1 << 20, Threads = 1 };
        _devices = new DeviceSet(options, _stop, _wakeUp);
    }

    public void Dispose()
    {
        FileFlush.Before = null;
        if (_fd >= 0) _ = Libc.Close(_fd);
        _devices.Dispose();
        _wakeUp.Dispose();
        _folder.Dispose();
    }

    [Fact]
    public void A_descriptor_that_is_closed_or_only_read_is_refused()
    {
        for (int time = 0; time < 2; time++)
            Refused(ExitCode.CannotCreate, "extract: --output -: standard output is open for reading only",
                () => Open("base", Libc.O_RDONLY).Check(isClosed: false));
        // The read end of a pipe has no flags at all.
        using AnonymousPipeServerStream pipe = new(PipeDirection.In);
        Refused(ExitCode.CannotCreate, "extract: --output -: standard output is open for reading only",
            () => new StreamImage(_stop, (int)pipe.SafePipeHandle.DangerousGetHandle()).Check(isClosed: false));
        Refused(ExitCode.CannotCreate, "extract: --output -: standard output is closed", () => Open("image").Check(isClosed: true));
        Refused(ExitCode.InputOutput, $"standard output: looking at it failed: {ErrnoText.Of(-Errno.EBADF)}",
            () => new StreamImage(_stop, 1_000_000).Check(isClosed: false));
        Open("image").Check(isClosed: false);
    }

    [Fact]
    public void A_file_is_locked_until_the_image_is_done_and_an_input_is_refused()
    {
        Refused(ExitCode.Usage, "extract: --output -: standard output is read by this very command; write to another file",
            () => Claim("base"));
        using (Claim("image"))
        {
            SnapuserdException used = Assert.Throws<SnapuserdException>(() => Alone("image"));
            Assert.Equal(ExitCode.InUse, used.Code);
        }
        Alone("image");
        File.WriteAllBytes(_folder["begun"], Golden.HalfCow("half-v3-lz4-64k-xor-F1sync"));
        SnapuserdException begun = Assert.Throws<SnapuserdException>(() => Claim("begun"));
        Assert.Equal(ExitCode.CowCorrupt, begun.Code);
        Assert.StartsWith("standard output: ", begun.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(-Errno.ENOENT)]
    [InlineData(0)]
    public void Without_proc_only_an_input_is_refused(int answer) => Answering([SYS_statx],
        call => call.Text(1).StartsWith("/proc/self/fd/", StringComparison.Ordinal) ? answer : null, () =>
        {
            using (Claim("image")) Alone("image");
            Refused(ExitCode.Usage, "extract: --output -: standard output is read by this very command; write to another file",
                () => Claim("base"));
        });

    [Theory]
    [InlineData(1)]
    [InlineData(4096)]
    [InlineData(9000)]
    public void A_pipe_and_a_file_get_every_byte_whatever_interrupts(int length)
    {
        byte[] bytes = new byte[length];
        new Random(length).NextBytes(bytes);
        using StreamImage image = Open("image");
        int answers = 0;
        Answering([SYS_write], call => call[0] != _fd ? null : answers++ switch { 0 => -Errno.EINTR, 1 => -Errno.EAGAIN, _ => null }, () =>
        {
            image.Check(isClosed: false);
            image.Append(bytes);
        });
        image.Finish();
        Assert.Equal(length, image.Length);
        Assert.Equal(bytes, Unlocked.Read(_folder["image"], length));
    }

    [Theory]
    [InlineData(0, Errno.EIO)]
    [InlineData(-Errno.ENOSPC, Errno.ENOSPC)]
    [InlineData(-Errno.EPERM, Errno.EPERM)]
    public void A_write_that_fails_is_74_with_its_reason(int answer, int errno)
    {
        using StreamImage image = Open("image");
        int answers = 0;
        Answering([SYS_write], call => call[0] == _fd && answers++ == 0 ? answer : null, () =>
        {
            image.Check(isClosed: false);
            Refused(ExitCode.InputOutput, $"standard output: writing at 0 failed: {ErrnoText.Of(errno)}", () => image.Append([1]));
        });
    }

    [Fact]
    public void A_flush_that_is_refused_is_74_whatever_the_reason()
    {
        using StreamImage image = Open("image");
        image.Check(isClosed: false);
        FileFlush.Before = _ => -Errno.EPERM;
        Refused(ExitCode.InputOutput, $"standard output: flushing failed: {ErrnoText.Of(-Errno.EPERM)}", image.Finish);
    }

    [Theory]
    [InlineData(0, ExitCode.Interrupted)]
    [InlineData(-Errno.EINTR, ExitCode.Interrupted)]
    [InlineData(-Errno.EPERM, ExitCode.InputOutput)]
    public void A_write_waits_for_a_slow_reader_until_a_stop(int answer, ExitCode code)
    {
        Assert.Equal(0, Libc.SocketPair(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC, out int ours, out _fd));
        using StreamImage image = new(_stop, _fd);
        image.Check(isClosed: false);
        image.Append([1, 2, 3]);
        byte[] read = new byte[10];
        Assert.Equal(3, Libc.Read(ours, read));
        Answering([SYS_poll], call =>
        {
            _stop.Request();
            return answer;
        }, () =>
        {
            SnapuserdException stopped = Assert.Throws<SnapuserdException>(() => image.Append([4]));
            Assert.Equal(code, stopped.Code);
            Assert.Equal(code == ExitCode.Interrupted ? "stopped after 3 bytes of the image; nothing was changed"
                : $"standard output: waiting for it failed: {ErrnoText.Of(answer)}", stopped.Message);
        });
        image.Finish();
        _ = Libc.Close(ours);
    }

    private static void Refused(ExitCode code, string message, Action action)
    {
        SnapuserdException refusal = Assert.Throws<SnapuserdException>(action);
        Assert.Equal((code, message), (refusal.Code, refusal.Message));
    }

    private StreamImage Open(string name, int flags = Libc.O_WRONLY)
    {
        if (_fd >= 0) _ = Libc.Close(_fd);
        _fd = Libc.OpenAt(Libc.AT_FDCWD, _folder[name], flags | Libc.O_CLOEXEC);
        Assert.True(_fd >= 0);
        return new StreamImage(_stop, _fd);
    }

    private StreamImage Claim(string name)
    {
        StreamImage image = Open(name);
        image.Check(isClosed: false);
        image.Claim(_devices, withoutLock: false);
        return image;
    }

    private void Alone(string name) => BlockDevice.Open(_folder[name], DeviceAccess.Write | DeviceAccess.Exclusive).Dispose();
}
