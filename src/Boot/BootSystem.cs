using System;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Host;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Serve;

namespace Snapuserd.Boot;

/// <summary>The operations of a boot on the running system.</summary>
/// <param name="log">Receives records about rows.</param>
/// <param name="hasTerminal">True if standard error is a terminal on which a merge can draw its progress.</param>
/// <param name="controlFolder">The folder of the servers' sockets.</param>
/// <param name="hibernation">Searches for a hibernation image.</param>
public sealed class BootSystem(ILog log, bool hasTerminal, string controlFolder, HibernationSearch hibernation) : IBootSystem, IDisposable
{
    private const string UblkControl = "/dev/ublk-control";

    /// <summary>
    /// Milliseconds until a server must be ready. A server first reads the COW's ops. A million ops are 16 MB, which take a few seconds on
    /// the slowest card; a disk that recovers from errors may take minutes.
    /// </summary>
    public const int ReadyMilliseconds = 300_000;

    private const int LookMilliseconds = 50;

    /// <summary>Milliseconds for a server to answer its reads and remove its device.</summary>
    private const int EndMilliseconds = 10_000;

    private int _program = -1;

    /// <summary>The clock; tests set their own.</summary>
    public ITimeSource Clock { get; init; } = new MonotonicClock();

    /// <summary>Opens the program that serves and merges. Tests use a shell.</summary>
    public Func<int> OpensProgram { get; init; } = OwnProgram.Open;

    /// <summary>Opens the mapped device. Tests replace it with one that needs no kernel.</summary>
    public Func<string, MappedDevice> OpensMapped { get; init; } = MappedDevice.Open;

    /// <summary>Describes a mapped device's target: the device at a path, read-only if the second argument is true.</summary>
    public Func<string, bool, MapperTarget> TargetOf { get; init; } = (path, readOnly) => MapperTarget.Of(path, readOnly);

    public long Milliseconds => Clock.Milliseconds;

    public string? MissingResumeDevice() => hibernation.MissingDevice();

    public HibernationLook LookForImage() => hibernation.Look();

    public bool HasUblk => Libc.Statx(Libc.AT_FDCWD, UblkControl, 0, Libc.STATX_BASIC_STATS, out _) == 0;

    public void Pause(int milliseconds) => Libc.Sleep(milliseconds);

    public string? Doubt(string folder) => CowFolder.Doubt(folder);

    public bool IsUblkTaken(int number) =>
        (Exists($"/dev/ublkb{number}") || Exists($"/dev/ublkc{number}")) && !UblkServer.IsWaiting(number);

    public RowServer? Ask(string socket, BootRow row) => RowServer.Ask(socket, row);

    public bool IsOld(BootRow row)
    {
        try
        {
            using MappedDevice mapped = OpensMapped(row.Name);
            return mapped.Table is { ReadOnly: true } && TargetOf(row.Base, true).IsUnder(mapped.Table);
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
        DeviceOptions options = new()
        {
            Cow = row.Cow,
            ArenaBytes = DeviceOptions.DefaultArenaBytes,
            Report = sentence => log.Write(Priority.Warning, "row", $"{row.Name}: {sentence}"),
        };
        using DeviceSet devices = new(options, new StopFlag(), wakeUp);
        using var cow = PayloadCheck.Run(devices.Setup);
    }

    public ExitCode Serve(string[] arguments)
    {
        ControlFolder.Make(controlFolder);
        // A server does not inherit the console: it may be a pipe of init's, which has no reader after switch_root.
        int devNull = Libc.OpenAt(Libc.AT_FDCWD, "/dev/null", Libc.O_RDWR | Libc.O_CLOEXEC);
        int kernelLog = Libc.OpenAt(Libc.AT_FDCWD, KernelLog.Path, Libc.O_WRONLY | Libc.O_CLOEXEC);
        int ours = -1, theirs = -1;
        try
        {
            int result = Libc.SocketPair(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC, out ours, out theirs);
            if (result >= 0) result = Libc.Fcntl(theirs, Libc.F_SETFD, 0);
            if (result < 0) throw Child.CannotStart("a server", result);
            string[] all = [.. arguments, "--ready-fd", theirs.ToString(CultureInfo.InvariantCulture)];
            int child = Child.Start("a server", Program, all, Environment(), ownSession: true, devNull, devNull,
                kernelLog >= 0 ? kernelLog : devNull);
            _ = Libc.Close(theirs);
            theirs = -1;
            return AwaitReady(child, ours);
        }
        finally
        {
            foreach (int fd in (ReadOnlySpan<int>)[devNull, kernelLog, ours, theirs])
                if (fd >= 0) _ = Libc.Close(fd);
        }
    }

    public ExitCode Merge(string[] arguments)
    {
        // Standard output is for rows, so the merge prints its result on standard error.
        string[] all = [.. arguments, "--progress", hasTerminal ? "auto" : "plain"];
        int child = Child.Start("a merge", Program, all, Environment(), output: 2);
        int result = Child.Wait(child, out int code);
        return result < 0 || code < 0 ? ExitCode.Internal : (ExitCode)code;
    }

    public void CheckMapper(BootRow row)
    {
        using MappedDevice mapped = OpensMapped(row.Name);
    }

    public void StandOnBase(BootRow row, bool readOnly)
    {
        using MappedDevice mapped = OpensMapped(row.Name);
        mapped.Discard();
        mapped.StandOn(TargetOf(row.Base, readOnly));
    }

    public void Flush(BootRow row)
    {
        using BlockDevice target = BlockDevice.Open(row.Base, DeviceAccess.Read);
        using BlockDevice cow = BlockDevice.Open(row.Cow, DeviceAccess.Read);
        if (FinishedMerge.Flush(target, cow) is (BlockDevice device, int error))
            throw new SnapuserdException(ExitCode.InputOutput, $"{device.Path} cannot be flushed: {ErrnoText.Of(error)}");
    }

    public void Dispose()
    {
        if (_program >= 0) _ = Libc.Close(_program);
    }

    /// <summary>A descriptor of this program's own file, which children execute.</summary>
    private int Program
    {
        get
        {
            Child.RequireCalls(supervises: false);
            return _program >= 0 ? _program : _program = OpensProgram();
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
            // A line means that the server is ready. The end of the stream means that it is gone; a supervisor may start another one, which
            // does not report here.
            if (closed) Pause(LookMilliseconds);
            else if (Libc.Poll(one, LookMilliseconds) > 0)
            {
                nint read = Libc.Read(ready, line);
                if (read > 0) return ExitCode.Done;
                closed = !Retry.Interrupted(read);
            }
            if (Libc.TryWaitPid(child, out int code, out _) == 0) continue;
            // The server may have reported and ended between two checks, for example because everything was merged already. If it ended
            // with 0 and did not report, it was stopped.
            if (!closed && Libc.Poll(one, 0) > 0 && Libc.Read(ready, line) > 0) return ExitCode.Done;
            return code switch
            {
                < 0 => ExitCode.Internal,
                0 => ExitCode.Interrupted,
                Libc.NotExecuted => ExitCode.Unavailable,
                _ => (ExitCode)code,
            };
        }
        End(child);
        return ExitCode.InputOutput;
    }

    /// <summary>Ends the child and all processes that it has started, a supervisor's server included.</summary>
    private void End(int child)
    {
        _ = Libc.Kill(child, Libc.SIGTERM);
        for (long deadline = Milliseconds + EndMilliseconds; Milliseconds < deadline; Pause(LookMilliseconds))
            if (Libc.TryWaitPid(child, out _, out _) != 0) return;
        _ = Libc.Kill(-child, Libc.SIGKILL);
        _ = Libc.WaitPid(child, out _, out _);
    }

    private static string[] Environment()
    {
        const string holds = InheritedHolds.Variable + "=";
        string[] inherited = Array.FindAll(OwnProcess.Environment(), variable => !variable.StartsWith(holds, StringComparison.Ordinal));
        return [.. inherited, holds + InheritedHolds.ForChild([])];
    }
}
