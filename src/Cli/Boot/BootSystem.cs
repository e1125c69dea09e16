using System;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Daemon;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Serve;

namespace Snapuserd.Cli.Boot;

/// <summary>The system that this program runs in.</summary>
internal sealed class BootSystem(Invocation invocation, string controlFolder, HibernationSearch hibernation) : IBootSystem, IDisposable
{
    private const string UblkControl = "/dev/ublk-control";

    /// <summary>A server reads the COW's ops before it is ready: a million of them are 16 MB, which the slowest card gives in a few seconds; a disk that recovers from errors may take minutes, and is given them.</summary>
    internal const int ReadyMilliseconds = 300_000;

    private const int LookMilliseconds = 50;

    /// <summary>What a server has to answer its reads and remove its device.</summary>
    private const int EndMilliseconds = 10_000;

    private readonly MonotonicClock _clock = new();
    private int _program = -1;

    public long Milliseconds => _clock.Milliseconds;

    public string? MissingResumeDevice() => hibernation.MissingDevice();

    public HibernationLook LookForImage() => hibernation.Look();

    public bool HasUblk => Libc.Statx(Libc.AT_FDCWD, UblkControl, 0, Libc.STATX_BASIC_STATS, out _) == 0;

    public void Pause(int milliseconds) => _ = Libc.Poll(default, milliseconds);

    public string? Doubt(string folder) => CowFolder.Doubt(folder);

    public bool IsUblkTaken(int number) =>
        (Exists($"/dev/ublkb{number}") || Exists($"/dev/ublkc{number}")) && !UblkServer.IsWaiting(number);

    public RowServer? Ask(string socket, BootRow row) => RowServer.Ask(socket, row);

    public bool IsOld(BootRow row)
    {
        try
        {
            using MappedDevice mapped = MappedDevice.Open(row.Name);
            return mapped.Table is { ReadOnly: true } && MapperTarget.Of(row.Base, readOnly: true).IsUnder(mapped.Table);
        }
        catch (SnapuserdException)
        {
            return false;
        }
    }

    public IDisposable Claim(BootRow row) => StorageClaim.Take(row.Cow, row.Base);

    public void Verify(BootRow row)
    {
        using WakeUp wakeUp = new();
        DeviceOptions options = new() { Cow = row.Cow, ArenaBytes = (int)Verbs.DefaultMemory, Report = sentence => invocation.Output.Write(Priority.Warning, "row", $"{row.Name}: {sentence}") };
        using DeviceSet devices = new(options, new StopFlag(), wakeUp);
        using var cow = PayloadCheck.Run(devices.Setup);
    }

    public ExitCode Serve(string[] arguments)
    {
        int made = Libc.MkDir(controlFolder, 0x1ed);
        if (made is < 0 and not -Errno.EEXIST) throw new SnapuserdException(ExitCode.CannotCreate, $"{controlFolder} cannot be made: {Reason.Of(made)}");
        // Not the console, which may be a pipe of the init's, and is nobody's behind switch_root.
        int nothing = Libc.OpenAt(Libc.AT_FDCWD, "/dev/null", Libc.O_RDWR | Libc.O_CLOEXEC);
        int kernel = Libc.OpenAt(Libc.AT_FDCWD, KernelLog.Path, Libc.O_WRONLY | Libc.O_CLOEXEC);
        int ours = -1, theirs = -1;
        try
        {
            int result = Libc.SocketPair(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC, out ours, out theirs);
            if (result >= 0) result = Libc.Fcntl(theirs, Libc.F_SETFD, 0);
            if (result < 0) throw new SnapuserdException(ExitCode.OutOfResources, $"a server cannot be started: {Reason.Of(result)}");
            string[] words = [.. arguments, "--ready-fd", theirs.ToString(CultureInfo.InvariantCulture)];
            int child = Libc.ForkExec(Program, words, Environment(), ownSession: true, nothing, nothing, kernel >= 0 ? kernel : nothing);
            _ = Libc.Close(theirs);
            theirs = -1;
            if (child < 0) throw new SnapuserdException(ExitCode.OutOfResources, $"a server cannot be started: {Reason.Of(child)}");
            return AwaitReady(child, ours);
        }
        finally
        {
            foreach (int fd in (ReadOnlySpan<int>)[nothing, kernel, ours, theirs])
                if (fd >= 0) _ = Libc.Close(fd);
        }
    }

    public ExitCode Merge(string[] arguments)
    {
        // Its results are lines for people here, and standard output is for rows.
        string[] words = [.. arguments, "--progress", invocation.Output.HasTerminal ? "auto" : "plain"];
        int child = Libc.ForkExec(Program, words, Environment(), ownSession: false, -1, output: 2, -1);
        if (child < 0) throw new SnapuserdException(ExitCode.OutOfResources, $"a merge cannot be started: {Reason.Of(child)}");
        int result, code;
        do result = Libc.WaitPid(child, out code, out _);
        while (result == -Errno.EINTR);
        return result < 0 || code < 0 ? ExitCode.Internal : (ExitCode)code;
    }

    public void CheckMapper(BootRow row)
    {
        using MappedDevice mapped = MappedDevice.Open(row.Name);
    }

    public void StandOnBase(BootRow row, bool readOnly)
    {
        using MappedDevice mapped = MappedDevice.Open(row.Name);
        mapped.Discard();
        mapped.StandOn(MapperTarget.Of(row.Base, readOnly));
    }

    public void Flush(BootRow row)
    {
        foreach (string path in (ReadOnlySpan<string>)[row.Base, row.Cow])
        {
            using BlockDevice device = BlockDevice.Open(path, DeviceAccess.Read);
            int flushed = FileFlush.Of(device.Fd);
            if (flushed < 0) throw new SnapuserdException(ExitCode.InputOutput, $"{path} cannot be flushed: {Reason.Of(flushed)}");
        }
    }

    public void Dispose()
    {
        if (_program >= 0) _ = Libc.Close(_program);
    }

    /// <summary>Our own file, for a child that can be waited for.</summary>
    private int Program
    {
        get
        {
            Child.RequireCalls(supervises: false);
            return _program >= 0 ? _program : _program = OpenProgram();
        }
    }

    private static bool Exists(string path) => Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out _) == 0;

    private ExitCode AwaitReady(int child, int ready)
    {
        long deadline = Milliseconds + ReadyMilliseconds;
        byte[] line = new byte[256];
        bool closed = false;
        while (Milliseconds < deadline)
        {
            Span<PollFd> one = [new PollFd { Fd = ready, Events = Libc.POLLIN }];
            // A line, or the end: the server has told, or it is gone, and a supervisor may start another that tells nobody.
            if (closed) Pause(LookMilliseconds);
            else if (Libc.Poll(one, LookMilliseconds) > 0)
            {
                nint read = Libc.Read(ready, line);
                if (read > 0) return ExitCode.Done;
                closed = read != -Errno.EINTR;
            }
            if (Libc.TryWaitPid(child, out int code, out _) == 0) continue;
            // It may have told and ended between two looks, as one does that finds everything done. Without having told it was stopped.
            if (!closed && Libc.Poll(one, 0) > 0 && Libc.Read(ready, line) > 0) return ExitCode.Done;
            return code switch { < 0 => ExitCode.Internal, 0 => ExitCode.Interrupted, Libc.NotExecuted => ExitCode.Unavailable, _ => (ExitCode)code };
        }
        End(child);
        return ExitCode.InputOutput;
    }

    /// <summary>All that it has started, at its head the child: the server of a supervisor as well.</summary>
    private void End(int child)
    {
        _ = Libc.Kill(child, Libc.SIGTERM);
        for (long deadline = Milliseconds + EndMilliseconds; Milliseconds < deadline; Pause(LookMilliseconds))
            if (Libc.TryWaitPid(child, out _, out _) != 0) return;
        _ = Libc.Kill(-child, Libc.SIGKILL);
        _ = Libc.WaitPid(child, out _, out _);
    }

    /// <summary>This program's own file. It runs from a ramdisk here, and a supervisor copies itself to memory.</summary>
    private static int OpenProgram()
    {
        int own = -Errno.ENOENT;
        if (Libc.ExecutedPath() is { } path) own = Libc.OpenAt(Libc.AT_FDCWD, path, Libc.O_RDONLY | Libc.O_CLOEXEC);
        if (own < 0) own = Libc.OpenAt(Libc.AT_FDCWD, "/proc/self/exe", Libc.O_RDONLY | Libc.O_CLOEXEC);
        return own >= 0 ? own : throw new SnapuserdException(ExitCode.InputMissing, $"this program's own file cannot be opened: {Reason.Of(own)}");
    }

    private static string[] Environment()
    {
        const string holds = InheritedHolds.Variable + "=";
        string[] inherited = Array.FindAll(OwnProcess.Environment(), variable => !variable.StartsWith(holds, StringComparison.Ordinal));
        return [.. inherited, holds + InheritedHolds.ForChild([])];
    }
}
