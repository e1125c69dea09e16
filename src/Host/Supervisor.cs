using System;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Interop;
using Snapuserd.Serve;
using Snapuserd.Text;

namespace Snapuserd.Host;

/// <summary>
/// `serve --supervise`: a parent process that restarts the server after a kill, so that readers of the device see a pause only. The
/// supervisor keeps everything that it needs in memory, because the file system with its program may be gone, or may be on the device
/// itself. So it copies the program to a file in memory, and locks its own memory. Supervisor and server have a root of their own with only
/// /dev and the folders of the named files. So no path lookup can reach the device, which does not answer while its server is dead, and
/// paths mean the same before and after switch_root. The supervisor also holds the COW, the base and the source
/// (<see cref="SupervisorHolds"/>), so that they are never free between two servers.
/// <code>
///   killed by a signal -> restart; ended while the device waits for a server -> restart; ended otherwise -> exit with the server's code
///   ten failures in a row -> remove the device if it is not in use; otherwise restart, with a growing pause
/// </code>
/// </summary>
public sealed class Supervisor
{
    /// <summary>
    /// The number of failures in a row after which the supervisor gives up or waits longer; a server that ends within
    /// <see cref="ShortMilliseconds"/> of its start has failed. The pause before a restart grows by <see cref="PauseMilliseconds"/> each
    /// time: 4.5 seconds in all.
    /// </summary>
    private const int MostFailures = 10, ShortMilliseconds = 10_000, PauseMilliseconds = 100;

    /// <summary>
    /// A server that exits (rather than being killed) has failed if it did so within this time: a take-over may wait long before it gives
    /// up.
    /// </summary>
    private const int LongStartMilliseconds = 60_000;

    /// <summary>
    /// The longest pause between restarts after <see cref="MostFailures"/> failures while the device is in use. The pause doubles each
    /// time.
    /// </summary>
    private const int LongestPauseMilliseconds = 60_000;

    /// <summary>Milliseconds between two checks during a pause for a signal or a stop request.</summary>
    private const int LookMilliseconds = 100;

    private readonly SupervisorOptions _options;
    private readonly IMachineLog _log;
    private int _resumed;
    private int _requests = -1;
    private SupervisorHolds? _holds;

    // None of the stop signals may end the process: a second one just before the exit must not turn a success into a failure.
    private Supervisor(SupervisorOptions options, IMachineLog log)
    {
        (_options, _log) = (options, log);
        StopSignals.Listen(-1);
    }

    /// <summary>
    /// Supervises until the server exits, or until it has failed too often while its device is not in use; the device is then removed. A
    /// device that is mounted, held, open or has waiting requests is never removed: waiting readers are better than readers with errors,
    /// and the next start may succeed.
    /// </summary>
    /// <param name="options">The server.</param>
    /// <param name="ready">The notifier of the first server, which inherits its descriptor; this process closes its copy.</param>
    /// <param name="log">Receives records about the servers.</param>
    public static ExitCode Run(SupervisorOptions options, ReadyNotifier ready, IMachineLog log)
    {
        string[] folders = FoldersOf(options);
        Child.RequireCalls(supervises: true);
        Supervisor supervisor = new(options, log) { _resumed = ResumeCount.Before(options.Cow) };
        int program = CopyOfProgram();
        supervisor._requests = PersistedControlState.Make();
        if (supervisor._requests < 0)
            log.Write(Priority.Warning, "requests_forgotten",
                $"requests of ctl are lost if the server is killed: {ErrnoText.Of(supervisor._requests)}");
        supervisor._holds = new SupervisorHolds(options);
        try
        {
            supervisor._holds.TakeMissing();
            MoveOut(folders);
            supervisor._holds.Listen();
            // Lock all pages at once: a page that is needed to restart the server might otherwise have to be read from the server's device.
            int locked = Libc.MLockAll(Libc.MCL_CURRENT | Libc.MCL_FUTURE);
            if (locked < 0)
                log.Write(Priority.Warning, "memory_not_locked", $"the supervisor's memory is not locked: {ErrnoText.Of(locked)}");
            RootStorage.BeKilledLast(log);
            return supervisor.Supervise(ready, program);
        }
        finally
        {
            _ = Libc.Close(program);
            if (supervisor._requests >= 0) _ = Libc.Close(supervisor._requests);
            supervisor._holds.Dispose();
        }
    }

    private ExitCode Supervise(ReadyNotifier ready, int program)
    {
        int device = _options.Device;
        string[] given = OwnProcess.Arguments();
        string[] arguments = Without(given, again: false);
        MonotonicClock clock = new();
        for (int failures = 0; ;)
        {
            long began = clock.Milliseconds;
            _holds!.TakeMissing();
            if (EndSignals.HaveCome) break;
            int child = Child.Start("the server", program, arguments, Environ());
            EndSignals.Forward(child);
            arguments = Without(given, again: true);
            // The server has inherited the descriptor. Without this copy, a reader gets the end of the stream as soon as the server closes
            // it.
            ready.Close();
            (int code, int signal) = Wait(child);
            _holds.TakeBaseAgain();
            if (code == Libc.NotExecuted)
                throw new SnapuserdException(ExitCode.Unavailable,
                    "--supervise: the system does not start this program from its descriptor (execveat)");
            failures = clock.Milliseconds - began < (code >= 0 ? LongStartMilliseconds : ShortMilliseconds) ? failures + 1 : 0;
            // The waiting device may belong to another image; that image's server takes it over.
            bool isOurs = PersistedControlState.HadDevice(_requests);
            if (code >= 0 && (EndSignals.HaveCome || code == 0 || !isOurs || !UblkServer.IsWaiting(device))) return (ExitCode)code;
            if (EndSignals.HaveCome) break;
            string how = code >= 0 ? $"ended with {code}" : $"was killed by signal {signal}";
            string? use = failures >= MostFailures && isOurs ? BlockDeviceUse.Of(UblkServer.PathOf(device)) : null;
            if (failures >= MostFailures && use == null && !IsToStop(out _))
            {
                RemoveDead();
                throw new SnapuserdException(ExitCode.Internal,
                    $"the server {how}, {failures} times in a row{(isOurs ? ": the device is removed" : "")}");
            }
            if (use != null) PauseLong($"the server {how}, {failures} times in a row", use, failures - MostFailures);
            else if (!IsToStop(out _)) _log.Write(Priority.Warning, "restart", $"the server {how}: starting it again");
            // The server was asked to stop but was killed before it stopped: do not start another.
            if (IsToStop(out bool merges))
            {
                RemoveDead();
                return merges || _options.Merges ? ExitCode.Interrupted : ExitCode.Done;
            }
            if (use == null) Libc.Sleep(failures * PauseMilliseconds);
        }
        RemoveDead();
        return ExitCode.Interrupted;
    }

    /// <summary>Removes the device of the last server, unless it belongs to another image.</summary>
    private void RemoveDead()
    {
        if (PersistedControlState.HadDevice(_requests)) _ = UblkServer.RemoveDead(_options.Device);
    }

    private bool IsToStop(out bool merges)
    {
        (bool stop, merges) = _requests >= 0 ? PersistedControlState.Asked(_requests) : default;
        return stop;
    }

    /// <summary>
    /// Waits before the next restart because the device is in use, longer each time, and answers `ctl` meanwhile. Returns early after a
    /// stop signal or a stop request.
    /// </summary>
    private void PauseLong(string failure, string use, int times)
    {
        int pause = (int)Math.Min(LongestPauseMilliseconds, 1000L << Math.Min(times, 20));
        string path = UblkServer.PathOf(_options.Device);
        string sentence = $"{failure}; {path} is not removed, because {use}: the next try is in {Units.Count(pause / 1000, "second")}";
        _log.WriteForMachine(Priority.Warning, "restart_later", sentence);
        SnapshotStatus status = new()
        {
            Name = _options.Name,
            Cow = _options.Cow,
            Base = _options.Base,
            Device = path,
            State = SnapshotState.Opening,
            Error = sentence,
        };
        using WaitingControl? control =
            _options.Control is { } socket ? WaitingControl.Start(socket, status, () => PersistedControlState.NoteStop(_requests)) : null;
        MonotonicClock clock = new();
        for (long end = clock.Milliseconds + pause; clock.Milliseconds < end && !EndSignals.HaveCome && !IsToStop(out _);)
            Libc.Sleep(LookMilliseconds);
    }

    private static (int Code, int Signal) Wait(int child)
    {
        int result, code = 0, signal = 0;
        do result = Libc.WaitForEnd(child);
        while (Retry.Interrupted(result));
        // The process ID is not reused until the child is reaped. Stop forwarding before that, so that no signal reaches a later process
        // with the same ID.
        EndSignals.Forward(0);
        if (result == 0) result = Libc.WaitPid(child, out code, out signal);
        return result < 0 ? throw new SnapuserdException(ExitCode.Internal, $"the server cannot be waited for: {ErrnoText.Of(result)}")
            : (code, signal);
    }

    /// <summary>The folders in which the server opens files; "/dev" first.</summary>
    private static string[] FoldersOf(SupervisorOptions server)
    {
        string[] folders = ["/dev", "", "", "", "", ""];
        int count = 1;
        foreach ((string option, string? path) in (ReadOnlySpan<(string, string?)>)[("--cow", server.Cow), ("--base", server.Base),
            ("--source", server.Source), ("--control", server.Control), ("$NOTIFY_SOCKET", OwnProcess.Variable("NOTIFY_SOCKET"))])
        {
            bool isOption = option[0] == '-';
            if (path == null || (!isOption && !path.StartsWith('/'))) continue;
            int slash = path.LastIndexOf('/');
            if (!path.StartsWith('/') || slash == 0 || path.Contains("/..", StringComparison.Ordinal))
                throw new SnapuserdException(ExitCode.Usage, $"{option} {path}: --supervise takes absolute paths, of files in folders and "
                    + "without \"..\", because the root may change meanwhile");
            string folder = path[..slash];
            if (!Array.Exists(folders[..count], known => folder == known || folder.StartsWith(known + "/", StringComparison.Ordinal)))
                folders[count++] = folder;
        }
        return folders[..count];
    }

    /// <summary>
    /// Gives this thread, and the servers that it starts, a new root that contains only those folders of the old root. The new root is in a
    /// mount namespace of its own, so other processes do not see it, and moving or removing a mount point's folder elsewhere does not
    /// affect it. A file system that is unmounted elsewhere is unmounted here as well.
    /// </summary>
    private static void MoveOut(string[] folders)
    {
        SystemUdev.MakeFolder();
        Check(Libc.Unshare(Libc.CLONE_NEWNS), "a mount namespace");
        Check(Libc.Mount("none", "/", "none", Libc.MS_REC | Libc.MS_SLAVE), "a mount namespace");
        Check(Libc.Mount("none", "/", "ramfs", 0), "an empty root");
        // "/" is still the old root, and ".." of a root leads to the mount on top of it.
        Check(Libc.ChDir("/.."), "an empty root");
        foreach (string folder in folders) Check(Bind(folder), $"{folder} in its own root");
        // Needed only for messages and oom_score_adj.
        _ = Bind("/proc");
        // A server sees there whether udev runs and must be informed of the mapped device. The folder is the same before and after
        // switch_root.
        _ = Bind(SystemUdev.Folder);
        Check(Libc.ChRoot("."), "an empty root");
    }

    private static int Bind(string folder)
    {
        for (int slash = folder.IndexOf('/', 1); ; slash = folder.IndexOf('/', slash + 1))
        {
            int made = Libc.MkDir("." + (slash < 0 ? folder : folder[..slash]), Modes.ReadableFolder);
            if (made < 0 && made != -Errno.EEXIST) return made;
            if (slash < 0) return Libc.Mount(folder, "." + folder, "none", Libc.MS_BIND | Libc.MS_REC);
        }
    }

    private static void Check(int result, string what)
    {
        if (result < 0) throw ErrnoPolicy.Failure(FailedCall.Command, result, $"--supervise cannot set up {what}");
    }

    /// <summary>
    /// Opens a copy of this program in memory, or the original file if no copy can be made. In a ramdisk the original is in memory anyway.
    /// </summary>
    private static int CopyOfProgram()
    {
        int own = OwnProgram.Open();
        int copy = Libc.MemFdCreate();
        if (copy >= 0 && TryCopy(own, copy))
        {
            _ = Libc.Close(own);
            return copy;
        }
        if (copy >= 0) _ = Libc.Close(copy);
        return own;
    }

    private static bool TryCopy(int from, int to)
    {
        byte[] buffer = new byte[64 << 10];
        for (long done = 0; ;)
        {
            nint read = Libc.PRead(from, buffer, done);
            if (Retry.Interrupted(read)) continue;
            if (read <= 0) return read == 0;
            if (Libc.PWrite(to, buffer.AsSpan(0, (int)read), done) != read) return false;
            done += read;
        }
    }

    /// <summary>
    /// The server's command line: <paramref name="given"/> without `--supervise`. When a server is started <paramref name="again"/>,
    /// `--ready-fd` is omitted as well, because its descriptor is closed by then.
    /// </summary>
    private static string[] Without(string[] given, bool again)
    {
        string[] kept = new string[given.Length];
        int count = 0;
        for (int i = 0; i < given.Length; i++)
        {
            if (given[i] == "--supervise") continue;
            if (again && given[i] == "--ready-fd") i++;
            else if (!again || !given[i].StartsWith("--ready-fd=", StringComparison.Ordinal)) kept[count++] = given[i];
        }
        return kept[..count];
    }

    /// <summary>
    /// This process's environment, with the resume count, the server's name for `ctl`, the supervisor's process ID, the held descriptors,
    /// and the descriptor of the request file.
    /// </summary>
    private string[] Environ()
    {
        (string Name, string Value)[] own =
        [
            (ResumeCount.Variable, Number(_resumed++)),
            (ServerName.Variable, _options.Name),
            (CtlRequests.SupervisorVariable, Number(Libc.GetPid())),
            (InheritedHolds.Variable, _holds!.ForChild()),
            (InheritedHolds.ReleaseVariable, Number(_holds.ReleaseSocket)),
            .. _requests < 0 ? [] : ((string, string)[])[(PersistedControlState.Variable, Number(_requests))],
        ];
        string[] inherited = Array.FindAll(OwnProcess.Environment(),
            variable => !Array.Exists(own, one => variable.StartsWith($"{one.Name}=", StringComparison.Ordinal)));
        return [.. inherited, .. Array.ConvertAll(own, one => $"{one.Name}={one.Value}")];

        static string Number(int value) => value.ToString(CultureInfo.InvariantCulture);
    }
}
