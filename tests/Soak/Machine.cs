using System;
using System.Diagnostics;
using System.IO;
using System.Threading;
using Snapuserd.Interop;
using Snapuserd.Tests.Daemon;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Soak;

/// <summary>What the rounds have in common: folders, file systems, and the daemon that lives through all of them.</summary>
internal sealed class Machine : IDisposable
{
    private readonly string _scratch;
    private FileSystem? _ext4, _xfs;
    private Process? _daemon;

    /// <param name="scratch">An empty folder, on which a file system in memory is mounted; the mount namespace is this program's
    /// own.</param>
    public Machine(string scratch)
    {
        _scratch = scratch;
        LoopDevice.Call("mount", "-t", "tmpfs", "-o", "size=1500M,huge=never", "tmpfs", scratch);
        // What programs leave there is theirs for certain.
        LoopDevice.Call("mount", "-t", "tmpfs", "tmpfs", "/run");
        Work = Path.Combine(scratch, "work");
        Directory.CreateDirectory(Path.Combine(Work, "devices"));
        Environment.SetEnvironmentVariable("TMPDIR", Path.Combine(scratch, "tmp"));
        Directory.CreateDirectory(Path.Combine(scratch, "tmp"));
    }

    /// <summary>The folder of a round, in memory.</summary>
    public string Work { get; }

    /// <summary>Below which everything lies that a round may make.</summary>
    public string Scratch => _scratch;

    public FileSystem Ext4 => _ext4 ??= new FileSystem(Path.Combine(_scratch, "ext4.img"), Path.Combine(_scratch, "ext4"), "ext4");

    public FileSystem Xfs => _xfs ??= new FileSystem(Path.Combine(_scratch, "xfs.img"), Path.Combine(_scratch, "xfs"), "xfs");

    public string DaemonSocket => Path.Combine(_scratch, "daemon");

    public int DaemonId => _daemon!.Id;

    public string this[string file] => Path.Combine(Work, file);

    /// <summary>The daemon ended, which it never does by itself.</summary>
    public string? DaemonEnd => _daemon!.HasExited ? $"the daemon ended with {_daemon.ExitCode}: {_daemon.StandardError.ReadToEnd()}"
        : null;

    public void StartDaemon()
    {
        _daemon = Binary.Start("daemon", "--socket", DaemonSocket, "--device", "nbd", "--socket-folder", this["devices"], "--memory",
            "16M");
        Until.True(() => File.Exists(DaemonSocket) || _daemon.HasExited, "the daemon listens");
        if (DaemonEnd is { } end) throw new SoakException(end);
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

    /// <summary>A new daemon, and nothing in the folder of the rounds.</summary>
    public void Restart()
    {
        StopDaemon();
        Directory.Delete(Work, recursive: true);
        Directory.CreateDirectory(this["devices"]);
        StartDaemon();
    }

    /// <summary>A connection to the daemon, with Android's messages.</summary>
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

/// <summary>What has happened so far.</summary>
internal sealed class Totals
{
    public int Rounds { get; set; }
    public int Kills { get; set; }
    public int PowerCuts { get; set; }
    public int Resumes { get; set; }
    public int Failures { get; set; }

    public override string ToString() => $"{Rounds} rounds, {Kills} kills, {PowerCuts} power cuts, {Resumes} resumes, {Failures} failures";
}

/// <summary>Asks before each step of a round whether the user has had enough.</summary>
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
