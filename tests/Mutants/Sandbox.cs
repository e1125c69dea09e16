using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Threading.Tasks;

namespace Snapuserd.Tests.Mutants;

/// <summary>
/// Runs a program in namespaces of its own: mounts, processes, a /dev whose only block devices are loop devices, a /tmp and a /run of its own,
/// /sys read-only, and with limits on memory and file size. As root where the tool is root, because tests attach loop devices and mount.
/// </summary>
public sealed class Sandbox
{
    // Addresses are no limit: the runtime reserves what it never uses. A file may be sparse.
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
        mount --move "$job/dev" /dev
        mount -o remount,bind,ro /sys 2>/dev/null || true
        mount -t tmpfs -o mode=0755,size=64m mutants /run
        case $job in
            /tmp/*) TMPDIR=$job/tmp/$name ;;
            *) mount --bind "$job/tmp" /tmp; TMPDIR=/tmp/$name ;;
        esac
        export TMPDIR HOME="$TMPDIR"
        mkdir "$TMPDIR"
        cd "$TMPDIR"
        status=0
        prlimit --data=4294967296 --fsize=70368744177664 --core=0 "$@" || status=$?
        exit $status
        """;

    private readonly string _job;

    /// <summary>In <paramref name="job"/> each run has its files.</summary>
    public Sandbox(string job)
    {
        _job = job;
        Directory.CreateDirectory(Path.Combine(job, "dev"));
    }

    /// <summary>A folder that is empty at the start of a run, and that it can write to.</summary>
    public string Output => Path.Combine(_job, "out");

    /// <summary>The folder of its temporary files, by which loop devices are told from those of others.</summary>
    private string Name => string.Create(CultureInfo.InvariantCulture, $"mutants-{Environment.ProcessId}-{Path.GetFileName(_job)}");

    /// <summary>Runs a program to its end. False if it had to be ended after <paramref name="limit"/>.</summary>
    public bool Run(IReadOnlyList<string> command, IReadOnlyDictionary<string, string> environment, TimeSpan limit)
    {
        Empty(Output);
        Empty(Path.Combine(_job, "tmp"));
        bool root = Environment.UserName == "root";
        ProcessStartInfo start =
            new("setpriv") { RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true };
        // A run that is interrupted leaves no process.
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

    /// <summary>Loop devices outlive the process that attached them. Those over files of this sandbox are detached.</summary>
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
        // What a mutant prints for ever must not fill the disk.
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
            // A test may have taken the rights from its own folder. That is no obstacle for root.
            Directory.Delete(folder, recursive: true);
        }
        Directory.CreateDirectory(folder);
        File.SetUnixFileMode(folder, (UnixFileMode)0x3ff);
    }
}
