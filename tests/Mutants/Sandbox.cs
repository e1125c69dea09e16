using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Threading.Tasks;

namespace Snapuserd.Tests.Mutants;

/// <summary>
/// Runs a program in namespaces of its own: mounts, processes, a /dev with no block device, a /tmp of its own, not as root, and with limits
/// on
/// memory and file size.
/// </summary>
public sealed class Sandbox
{
    // Addresses are no limit: the runtime reserves what it never uses. A file may be sparse.
    private const string Script = """
        set -eu
        job=$1
        shift
        mount -t tmpfs -o mode=0755,size=1m mutants "$job/dev"
        for device in null zero full random urandom; do
            : >"$job/dev/$device"
            mount --bind "/dev/$device" "$job/dev/$device"
        done
        mkdir "$job/dev/shm"
        mount -t tmpfs -o mode=1777,size=256m mutants "$job/dev/shm"
        ln -s /proc/self/fd "$job/dev/fd"
        mount --move "$job/dev" /dev
        case $job in
            /tmp/*) TMPDIR=$job/tmp ;;
            *) mount --bind "$job/tmp" /tmp; TMPDIR=/tmp ;;
        esac
        export TMPDIR HOME="$TMPDIR"
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
        words.AddRange(["sh", "-c", Script, "sandbox", _job]);
        if (root) words.AddRange(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]);
        else words.AddRange(["unshare", "--user", $"--map-user={Id("-u")}", $"--map-group={Id("-g")}"]);
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
        return ended;
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
            // A test may have taken the rights from its own folder; as root that is no obstacle.
            Directory.Delete(folder, recursive: true);
        }
        Directory.CreateDirectory(folder);
        File.SetUnixFileMode(folder, (UnixFileMode)0x3ff);
    }
}
