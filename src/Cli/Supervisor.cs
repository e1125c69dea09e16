using System;
using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Cli.Control;
using Snapuserd.Daemon;
using Snapuserd.Interop;
using Snapuserd.Serve;

namespace Snapuserd.Cli;

/// <summary>
/// `serve --supervise`: a parent that does nothing but start the server again when it was killed, so that those who read the device see a pause. What it needs
/// for that is in its memory from the start, because the file system that it came from may be gone, or may be on the very device: the program as a file in
/// memory, and itself locked; and both live in a root of their own, an empty one, which has nothing but /dev and the folders of the files that were named. So no
/// path that they look up can lead to the device, which answers nothing while its server is dead, and paths mean the same before switch_root and after it.
/// It also holds the COW, the base and the source (<see cref="SupervisorHolds"/>), so that they are free at no moment between two servers.
/// <code>
///   killed by a signal -> again; ended while the device waits for a server -> again; ended otherwise -> its exit code is ours
///   ten failures in a row -> the device is removed if it is not in use; otherwise again, with a growing pause
/// </code>
/// </summary>
internal sealed class Supervisor
{
    /// <summary>Times in a row that a server may end within <see cref="ShortMilliseconds"/>, and what passes between them the longer the more: six seconds of pause for the readers in all.</summary>
    private const int MostFailures = 10, ShortMilliseconds = 10_000, PauseMilliseconds = 100;

    /// <summary>A server that ended by itself within this time, with its device still waiting, has failed as well: a take-over may wait long before it gives up.</summary>
    private const int LongStartMilliseconds = 60_000;

    /// <summary>After that many failures, with a device in use: the pause doubles up to this.</summary>
    private const int LongestPauseMilliseconds = 60_000;

    /// <summary>How often a pause looks whether it is to end.</summary>
    private const int LookMilliseconds = 100;

    private readonly string _name;
    private readonly bool _merges;
    private int _resumed;
    private int _requests = -1;
    private SupervisorHolds? _holds;

    // No signal ends the process any more: a second one at the very end must not make a failure of what is done.
    private Supervisor(string name, bool merges)
    {
        (_name, _merges) = (name, merges);
        StopSignals.Listen(-1);
    }

    /// <summary>
    /// Supervises until the server ends by itself, or cannot be kept alive and its device is not in use, which is then removed. A device that is mounted, held, open or has requests waiting is never given up: readers that wait
    /// are better off than readers with errors, and the next start may succeed.
    /// </summary>
    internal static ExitCode Run(Invocation invocation, int device, string name)
    {
        string[] folders = FoldersOf(invocation.Arguments);
        Child.RequireCalls(supervises: true);
        Readiness ready = new(invocation, name);
        Supervisor supervisor = new(name, invocation.Arguments.Has("--merge")) { _resumed = Resumptions.Before(invocation.Arguments.Required("--cow")) };
        int program = OwnProgram();
        supervisor._requests = StandingRequests.Make();
        if (supervisor._requests < 0) invocation.Output.Write(Priority.Warning, "requests_forgotten", $"what ctl asks for is forgotten if the server is killed: {Reason.Of(supervisor._requests)}");
        supervisor._holds = new SupervisorHolds(invocation);
        try
        {
            supervisor._holds.TakeMissing();
            MoveOut(folders);
            supervisor._holds.Listen();
            // All of it, at once: what would have to be read in to start the server again may be on its device.
            int locked = Libc.MLockAll(Libc.MCL_CURRENT | Libc.MCL_FUTURE);
            if (locked < 0) invocation.Output.Write(Priority.Warning, "memory_not_locked", $"the supervisor's memory is not locked: {Reason.Of(locked)}");
            RootStorage.BeKilledLast(invocation.Output);
            return supervisor.Supervise(invocation, ready, program, device);
        }
        finally
        {
            _ = Libc.Close(program);
            if (supervisor._requests >= 0) _ = Libc.Close(supervisor._requests);
            supervisor._holds.Dispose();
        }
    }

    private ExitCode Supervise(Invocation invocation, Readiness ready, int program, int device)
    {
        Output output = invocation.Output;
        string[] words = OwnProcess.Arguments();
        string[] arguments = Without(words, again: false);
        MonotonicClock clock = new();
        for (int failures = 0; ;)
        {
            long began = clock.Milliseconds;
            _holds!.TakeMissing();
            if (EndSignals.HaveCome) break;
            int child = Libc.ForkExec(program, arguments, Environ());
            if (child < 0) throw new SnapuserdException(ExitCode.OutOfResources, $"the server cannot be started: {Reason.Of(child)}");
            EndSignals.Forward(child);
            arguments = Without(words, again: true);
            // It is the server's from here on: whoever reads it to its end waits for one process only.
            ready.Close();
            (int code, int signal) = Wait(child);
            _holds.TakeBaseAgain();
            if (code == Libc.NotExecuted) throw new SnapuserdException(ExitCode.Unavailable, "--supervise: the system does not start this program from its descriptor (execveat)");
            failures = clock.Milliseconds - began < (code >= 0 ? LongStartMilliseconds : ShortMilliseconds) ? failures + 1 : 0;
            // The device that waits may be another image's, which its own server takes over.
            bool isOurs = StandingRequests.HadDevice(_requests);
            if (code >= 0 && (EndSignals.HaveCome || code == 0 || !isOurs || !UblkServer.IsWaiting(device))) return (ExitCode)code;
            if (EndSignals.HaveCome) break;
            string how = code >= 0 ? $"ended with {code}" : $"was killed by signal {signal}";
            string? use = failures >= MostFailures && isOurs ? BlockDeviceUse.Of(UblkServer.PathOf(device)) : null;
            if (failures >= MostFailures && use == null && !IsToStop(out _))
            {
                RemoveDead(device);
                throw new SnapuserdException(ExitCode.Internal, $"the server {how}, {failures} times in a row{(isOurs ? ": the device is removed" : "")}");
            }
            if (use != null) PauseLong(invocation, device, $"the server {how}, {failures} times in a row", use, failures - MostFailures);
            else if (!IsToStop(out _)) output.Write(Priority.Warning, "restart", $"the server {how}: starting it again");
            // It was told to stop and killed before it could: no other is wanted.
            if (IsToStop(out bool merges))
            {
                RemoveDead(device);
                return merges || _merges ? ExitCode.Interrupted : ExitCode.Done;
            }
            if (use == null) _ = Libc.Poll(default, failures * PauseMilliseconds);
        }
        RemoveDead(device);
        return ExitCode.Interrupted;
    }

    /// <summary>Removes what the last server has left, and no device of another image.</summary>
    private void RemoveDead(int device)
    {
        if (StandingRequests.HadDevice(_requests)) _ = UblkServer.RemoveDead(device);
    }

    private bool IsToStop(out bool merges)
    {
        (bool stop, merges) = _requests >= 0 ? StandingRequests.Asked(_requests) : default;
        return stop;
    }

    /// <summary>Waits before the next try for a device that is in use, the longer the more often that was done; until then `ctl` is answered here. Ends at once when the server is to stop.</summary>
    private void PauseLong(Invocation invocation, int device, string failure, string use, int times)
    {
        int pause = (int)Math.Min(LongestPauseMilliseconds, 1000L << Math.Min(times, 20));
        string path = UblkServer.PathOf(device);
        string sentence = $"{failure}; {path} is not removed, because {use}: the next try is in {Units.Count(pause / 1000, "second")}";
        invocation.Output.WriteForMachine(Priority.Warning, "restart_later", sentence);
        SnapshotStatus status = new()
        {
            Name = _name,
            Cow = invocation.Arguments.Required("--cow"),
            Base = invocation.Arguments.Required("--base"),
            Device = path,
            State = SnapshotState.Opening,
            Error = sentence,
        };
        using WaitingControl? control = invocation.Arguments.Text("--control") is { } socket ? WaitingControl.Start(socket, status, () => StandingRequests.NoteStop(_requests)) : null;
        MonotonicClock clock = new();
        for (long end = clock.Milliseconds + pause; clock.Milliseconds < end && !EndSignals.HaveCome && !IsToStop(out _);) _ = Libc.Poll(default, LookMilliseconds);
    }

    private static (int Code, int Signal) Wait(int child)
    {
        int result, code = 0, signal = 0;
        do result = Libc.WaitForEnd(child);
        while (result == -Errno.EINTR);
        // Its number is nobody else's until it is collected, and a signal must not reach whoever gets it next.
        EndSignals.Forward(0);
        if (result == 0) result = Libc.WaitPid(child, out code, out signal);
        return result < 0 ? throw new SnapuserdException(ExitCode.Internal, $"the server cannot be waited for: {Reason.Of(result)}") : (code, signal);
    }

    /// <summary>The folders that the server opens something in; "/dev" first.</summary>
    private static string[] FoldersOf(Arguments arguments)
    {
        string[] folders = ["/dev", "", "", "", "", ""];
        int count = 1;
        foreach (string option in (ReadOnlySpan<string>)["--cow", "--base", "--source", "--control", "$NOTIFY_SOCKET"])
        {
            bool isOption = option[0] == '-';
            string? path = isOption ? arguments.Text(option) : OwnProcess.Variable("NOTIFY_SOCKET");
            if (path == null || (!isOption && !path.StartsWith('/'))) continue;
            int slash = path.LastIndexOf('/');
            if (!path.StartsWith('/') || slash == 0 || path.Contains("/..", StringComparison.Ordinal))
                throw new SnapuserdException(ExitCode.Usage, $"{option} {path}: --supervise takes absolute paths, of files in folders and without \"..\", because the root may change meanwhile");
            string folder = path[..slash];
            if (!Array.Exists(folders[..count], known => folder == known || folder.StartsWith(known + "/", StringComparison.Ordinal))) folders[count++] = folder;
        }
        return folders[..count];
    }

    /// <summary>
    /// Gives this thread, and with it the servers, a root of their own with those folders of the old one. In a mount namespace of its own, so that nobody sees
    /// it, nothing that is moved or removed elsewhere is moved or removed here, and what is unmounted elsewhere is unmounted here as well.
    /// </summary>
    private static void MoveOut(string[] folders)
    {
        SystemUdev.MakeFolder();
        Check(Libc.Unshare(Libc.CLONE_NEWNS), "a mount namespace");
        Check(Libc.Mount("none", "/", "none", Libc.MS_REC | Libc.MS_SLAVE), "a mount namespace");
        Check(Libc.Mount("none", "/", "ramfs", 0), "an empty root");
        // "/" is still the old root, and ".." of a root is what lies on top of it.
        Check(Libc.ChDir("/.."), "an empty root");
        foreach (string folder in folders) Check(Bind(folder), folder);
        // Only for sentences and oom_score_adj.
        _ = Bind("/proc");
        // Whether there is a udev to tell of the mapped device. The same folder before switch_root and after.
        _ = Bind(SystemUdev.Folder);
        Check(Libc.ChRoot("."), "an empty root");
    }

    private static int Bind(string folder)
    {
        for (int slash = folder.IndexOf('/', 1); ; slash = folder.IndexOf('/', slash + 1))
        {
            int made = Libc.MkDir("." + (slash < 0 ? folder : folder[..slash]), 0x1ed);
            if (made < 0 && made != -Errno.EEXIST) return made;
            if (slash < 0) return Libc.Mount(folder, "." + folder, "none", Libc.MS_BIND | Libc.MS_REC);
        }
    }

    private static void Check(int result, string what)
    {
        if (result >= 0) return;
        ExitCode code = result is -Errno.EPERM or -Errno.EACCES ? ExitCode.Permission : result == -Errno.ENOENT ? ExitCode.InputMissing : ExitCode.Unavailable;
        throw new SnapuserdException(code, $"--supervise cannot have {what}: {Reason.Of(result)}");
    }

    /// <summary>This program as a file in memory; or, where the system gives none to be executed, as it is: that will do if it lies in a ramdisk.</summary>
    private static int OwnProgram()
    {
        int own = -Errno.ENOENT;
        if (Libc.ExecutedPath() is { } path) own = Libc.OpenAt(Libc.AT_FDCWD, path, Libc.O_RDONLY | Libc.O_CLOEXEC);
        if (own < 0) own = Libc.OpenAt(Libc.AT_FDCWD, "/proc/self/exe", Libc.O_RDONLY | Libc.O_CLOEXEC);
        if (own < 0) throw new SnapuserdException(ExitCode.InputMissing, $"--supervise: this program's own file cannot be opened: {Reason.Of(own)}");
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
            if (read == -Errno.EINTR) continue;
            if (read <= 0) return read == 0;
            if (Libc.PWrite(to, buffer.AsSpan(0, (int)read), done) != read) return false;
            done += read;
        }
    }

    /// <summary>The server's command line; once it was ready, nobody is to be told of that again, and the descriptor is gone.</summary>
    private static string[] Without(string[] words, bool again)
    {
        string[] kept = new string[words.Length];
        int count = 0;
        for (int i = 0; i < words.Length; i++)
        {
            if (words[i] == "--supervise") continue;
            if (again && words[i] == "--ready-fd") i++;
            else if (!again || !words[i].StartsWith("--ready-fd=", StringComparison.Ordinal)) kept[count++] = words[i];
        }
        return kept[..count];
    }

    /// <summary>Ours, how often the merge was taken up again, what `ctl` calls the server, and where servers note what they are asked for.</summary>
    private string[] Environ()
    {
        (string Name, string Value)[] own =
        [
            (Resumptions.Variable, Number(_resumed++)),
            (ServerName.Variable, _name),
            (CtlRequests.SupervisorVariable, Number(Libc.GetPid())),
            (InheritedHolds.Variable, _holds!.ForChild()),
            (InheritedHolds.ReleaseVariable, Number(_holds.ReleaseSocket)),
            .. _requests < 0 ? [] : ((string, string)[])[(StandingRequests.Variable, Number(_requests))],
        ];
        string[] inherited = Array.FindAll(OwnProcess.Environment(), variable => !Array.Exists(own, one => variable.StartsWith($"{one.Name}=", StringComparison.Ordinal)));
        return [.. inherited, .. Array.ConvertAll(own, one => $"{one.Name}={one.Value}")];

        static string Number(int value) => value.ToString(CultureInfo.InvariantCulture);
    }
}
