using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Threading.Tasks;

namespace Snapuserd.Tests.Mutants;

/// <summary>
/// Runs a program in separate namespaces: mounts, processes, a /dev whose only block devices are loop devices, its own /tmp and /run, and
/// /sys read-only. Limits memory and file size. Runs as root if this process is root, because tests attach loop devices and mount.
/// </summary>
public sealed class Sandbox
{
    // There is no limit on address space: the runtime reserves addresses that it never uses. The limit on file size allows sparse files.
    private const string Script = """
        set -eu
        job=$1 name=$2
        shift 2
        mount -t tmpfs -o mode=0755,size=1m mutants "$job/dev"
        for device in null zero full random urandom; do
            : >"$job/dev/$device"
            mount --bind "/dev/$device" "$job/dev/$device"
        done
        if [ "$(id -u)" = 0 ] && [ -e /dev/loop-control ] && mknod "$job/dev/loop-control" c 10 237 2>/dev/null; then
            for number in $(seq 0 127); do mknod "$job/dev/loop$number" b 7 "$number"; done
        fi
        mkdir "$job/dev/shm"
        mount -t tmpfs -o mode=1777,size=256m mutants "$job/dev/shm"
        ln -s /proc/self/fd "$job/dev/fd"
        ln -s /proc/self/fd/0 "$job/dev/stdin"
        ln -s /proc/self/fd/1 "$job/dev/stdout"
        ln -s /proc/self/fd/2 "$job/dev/stderr"
        mkdir "$job/dev/pts"
        mount -t devpts -o newinstance,ptmxmode=0666 mutants "$job/dev/pts"
        ln -s pts/ptmx "$job/dev/ptmx"
        : >"$job/dev/tty"
        mount --bind /dev/tty "$job/dev/tty"
        mount --move "$job/dev" /dev
        mount -o remount,bind,ro /sys 2>/dev/null || true
        mount -t tmpfs -o mode=0755,size=64m mutants /run
        # A short path, since that of a socket has at most 107 bytes; not over the folder that the job itself is in.
        short=/tmp
        case $job in /tmp/*) short=/var/tmp ;; esac
        mount --bind "$job/tmp" "$short"
        TMPDIR=$short/$name
        export TMPDIR HOME="$TMPDIR"
        mkdir "$TMPDIR"
        cd "$TMPDIR"
        status=0
        prlimit --data=4294967296 --fsize=70368744177664 --core=0 "$@" || status=$?
        exit $status
        """;

    private readonly string _job;

    /// <summary>Each run keeps its files in <paramref name="job"/>.</summary>
    public Sandbox(string job)
    {
        _job = job;
        Directory.CreateDirectory(Path.Combine(job, "dev"));
    }

    /// <summary>A folder that is empty at the start of a run, and writable for it.</summary>
    public string Output => Path.Combine(_job, "out");

    /// <summary>The name of its folder of temporary files, which identifies its loop devices.</summary>
    private string Name => string.Create(CultureInfo.InvariantCulture, $"mutants-{Environment.ProcessId}-{Path.GetFileName(_job)}");

    /// <summary>Runs a program to its end. Returns false if it was killed after <paramref name="limit"/>.</summary>
    public bool Run(IReadOnlyList<string> command, IReadOnlyDictionary<string, string> environment, TimeSpan limit)
    {
        Empty(Output);
        Empty(Path.Combine(_job, "tmp"));
        bool root = Environment.UserName == "root";
        ProcessStartInfo start =
            new("setpriv") { RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true };
        // The options make sure that an interrupted run leaves no process.
        List<string> words =
            ["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc",
                "--kill-child=KILL"];
        if (!root) words.Add("--map-root-user");
        words.AddRange(["sh", "-c", Script, "sandbox", _job, Name]);
        if (!root) words.AddRange(["unshare", "--user", $"--map-user={Id("-u")}", $"--map-group={Id("-g")}"]);
        foreach (string word in words) start.ArgumentList.Add(word);
        foreach (string word in command) start.ArgumentList.Add(word);
        foreach ((string name, string value) in environment) start.Environment[name] = value;
        using Process process = Process.Start(start)!;
        process.StandardInput.Close();
        Task output = CopyAsync(process.StandardOutput, Path.Combine(_job, "stdout")), error =
            CopyAsync(process.StandardError, Path.Combine(_job, "stderr"));
        bool ended = process.WaitForExit(limit);
        if (!ended) process.Kill();
        process.WaitForExit();
        Task.WaitAll(output, error);
        DetachLoopDevices();
        return ended;
    }

    /// <summary>Detaches the loop devices over files of this sandbox: they outlive the process that attached them.</summary>
    private void DetachLoopDevices()
    {
        string files = $"/{Name}/";
        foreach (string device in Directory.EnumerateDirectories("/sys/block", "loop*"))
        {
            try
            {
                if (!File.ReadAllText(Path.Combine(device, "loop/backing_file")).Contains(files, StringComparison.Ordinal)) continue;
            }
            catch (IOException)
            {
                continue;
            }
            using Process detach = Process.Start("losetup", ["--detach", $"/dev/{Path.GetFileName(device)}"]);
            detach.WaitForExit();
        }
    }

    private static async Task CopyAsync(StreamReader from, string path)
    {
        using StreamWriter to = new(path);
        char[] part = new char[4096];
        // A mutant that prints endlessly must not fill the disk.
        for (long kept = 0; await from.ReadAsync(part) is > 0 and int count; kept += count)
            if (kept < 1 << 20) await to.WriteAsync(part.AsMemory(0, count));
    }

    private static string Id(string which)
    {
        using Process id = Process.Start(new ProcessStartInfo("id", which) { RedirectStandardOutput = true })!;
        return id.StandardOutput.ReadToEnd().Trim();
    }

    private static void Empty(string folder)
    {
        if (Directory.Exists(folder))
        {
            // A test may have removed the permissions of its own folder; root can delete it anyway.
            Directory.Delete(folder, recursive: true);
        }
        Directory.CreateDirectory(folder);
        File.SetUnixFileMode(folder, (UnixFileMode)0x3ff);
    }
}
