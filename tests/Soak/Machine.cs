using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Threading;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Soak;

/// <summary>The state shared by all rounds: folders, file systems, and the daemon that runs through all of them.</summary>
internal sealed class Machine : IDisposable
{
    private readonly string _scratch;
    private FileSystem? _ext4, _xfs;
    private const int KeptLines = 40;

    private readonly Queue<string> _said = new();
    private Process? _daemon;

    /// <param name="scratch">An empty folder, on which this mounts a file system in memory. The process must have its own mount
    /// namespace.</param>
    public Machine(string scratch)
    {
        _scratch = scratch;
        LoopDevice.Call("mount", "-t", "tmpfs", "-o", "size=1500M,huge=never", "tmpfs", scratch);
        // With an empty file system on /run, only the tested programs create files there.
        LoopDevice.Call("mount", "-t", "tmpfs", "tmpfs", "/run");
        Work = Path.Combine(scratch, "work");
        Directory.CreateDirectory(Path.Combine(Work, "devices"));
        Environment.SetEnvironmentVariable("TMPDIR", Path.Combine(scratch, "tmp"));
        Directory.CreateDirectory(Path.Combine(scratch, "tmp"));
    }

    /// <summary>The folder of a round, in memory.</summary>
    public string Work { get; }

    /// <summary>The folder that contains all files of the rounds.</summary>
    public string Scratch => _scratch;

    public FileSystem Ext4 => _ext4 ??= new FileSystem(Path.Combine(_scratch, "ext4.img"), Path.Combine(_scratch, "ext4"), "ext4");

    public FileSystem Xfs => _xfs ??= new FileSystem(Path.Combine(_scratch, "xfs.img"), Path.Combine(_scratch, "xfs"), "xfs");

    public string DaemonSocket => Path.Combine(_scratch, "daemon");

    public int DaemonId => _daemon!.Id;

    public string this[string file] => Path.Combine(Work, file);

    /// <summary>A description of the daemon's unexpected end; null while it runs.</summary>
    public string? DaemonEnd => _daemon!.HasExited ? $"the daemon ended with {_daemon.ExitCode}: {Said}" : null;

    /// <summary>The daemon's last lines of output.</summary>
    private string Said
    {
        get
        {
            lock (_said) return string.Join(" | ", _said);
        }
    }

    public void StartDaemon()
    {
        _daemon = Binary.Start("daemon", "--socket", DaemonSocket, "--device", "nbd", "--socket-folder", this["devices"], "--memory",
            "16M");
        _daemon.ErrorDataReceived += (_, line) =>
        {
            lock (_said)
            {
                if (line.Data is { } text) _said.Enqueue(text);
                while (_said.Count > KeptLines) _said.Dequeue();
            }
        };
        _daemon.BeginErrorReadLine();
        Until.True(() => File.Exists(DaemonSocket) || _daemon.HasExited, "the daemon to listen");
        if (DaemonEnd is { } end) throw new SoakException(end);
    }

    /// <summary>
    /// Describes the daemon for the report of a failure: the status of its snapshots, its output, and the state of each thread.
    /// </summary>
    public string DescribeDaemon(string status)
    {
        string text = $"getstatus {status}; output {Said}; {Binary.Run("ctl", "status", "--json", "--socket", DaemonSocket)}";
        foreach (string task in Directory.GetDirectories($"/proc/{DaemonId}/task"))
            text += $"; {File.ReadAllText(task + "/comm").Trim()} {File.ReadAllText(task + "/wchan")} "
                + $"{File.ReadAllText(task + "/syscall").Trim()}";
        return text;
    }

    public void StopDaemon()
    {
        if (_daemon is null) return;
        _ = Libc.Kill(_daemon.Id, Libc.SIGTERM);
        if (!_daemon.WaitForExit(60_000)) _daemon.Kill();
        _daemon.WaitForExit();
        _daemon.Dispose();
        _daemon = null;
        File.Delete(DaemonSocket);
    }

    /// <summary>Starts a new daemon and empties the folder of the rounds.</summary>
    public void Restart()
    {
        StopDaemon();
        Directory.Delete(Work, recursive: true);
        Directory.CreateDirectory(this["devices"]);
        StartDaemon();
    }

    /// <summary>A connection to the daemon for Android's messages.</summary>
    public Talker Talk() => new(DaemonSocket);

    public void Dispose()
    {
        StopDaemon();
        _ext4?.Dispose();
        _xfs?.Dispose();
        Environment.SetEnvironmentVariable("TMPDIR", null);
        LoopDevice.Call("umount", "--lazy", "/run");
        LoopDevice.Call("umount", "--lazy", _scratch);
    }
}

/// <summary>The counts of all rounds so far.</summary>
internal sealed class Totals
{
    public int Rounds { get; set; }
    public int Kills { get; set; }
    public int PowerCuts { get; set; }
    public int Resumes { get; set; }
    public int Failures { get; set; }

    public override string ToString() => $"{Rounds} rounds, {Kills} kills, {PowerCuts} power cuts, {Resumes} resumes, {Failures} failures";
}

/// <summary>Checks before each step of a round whether the user has requested a stop.</summary>
internal static class Interrupt
{
    private static bool _asked;

    public static bool IsAsked => Volatile.Read(ref _asked);

    public static void Ask() => Volatile.Write(ref _asked, true);

    public static void Check()
    {
        if (IsAsked) throw new OperationCanceledException();
    }
}
