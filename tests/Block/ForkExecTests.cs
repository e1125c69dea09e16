using System;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Runtime;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>
/// A child between fork and exec still has the parent's memory, descriptors and signal handlers. Each test starts its program twice: by
/// posix_spawn, and by fork, which the product uses where posix_spawn cannot open the program.
/// </summary>
/// <remarks>A fork during a garbage collection leaves a child that waits for ever, so no other test may run at the same time.</remarks>
[Collection(nameof(ForkExecTests))]
[CollectionDefinition(nameof(ForkExecTests), DisableParallelization = true)]
public sealed class ForkExecTests
{
    /// <summary>No signal is sent.</summary>
    private const uint Nowhere = 0;

    /// <summary>The child still has the parent's handlers.</summary>
    private const uint AtFirstHandler = OwnThread.SYS_rt_sigaction;

    /// <summary>The child is about to execute its program.</summary>
    private const uint AtExec = OwnThread.SYS_execve;

    [Theory]
    [InlineData(Nowhere, false)]
    [InlineData(Nowhere, true)]
    [InlineData(AtFirstHandler, false)]
    [InlineData(AtFirstHandler, true)]
    [InlineData(AtExec, false)]
    [InlineData(AtExec, true)]
    public void Signal_to_a_child_before_its_exec_ends_it_without_running_a_handler_of_the_parent(uint place, bool forked)
    {
        int code = 0, signal = 0;
        bool sent = false;
        OwnThread.Handling(() => Start(forked, "/bin/true", -1, () => { }, number =>
        {
            if (sent || place != number) return;
            sent = true;
            Assert.Equal(0, Libc.Kill(OwnThread.Caller, OwnThread.SIGUSR2));
            if (place == AtFirstHandler) return;
            // The call is answered only after the child has taken the signal; otherwise the program would take it.
            while (IsPending(OwnThread.Caller)) { }
        }, out code, out signal));
        Assert.Equal(place != Nowhere, sent);
        Assert.Equal(sent ? (-1, OwnThread.SIGUSR2) : (0, 0), (code, signal));

        static bool IsPending(int process)
        {
            try
            {
                string status = File.ReadAllText($"/proc/{process}/status");
                return (Signals(status, "ShdPnd") & ~Signals(status, "SigBlk") & Bit(OwnThread.SIGUSR2)) != 0
                    && !status.Contains("\nState:\tZ", StringComparison.Ordinal);
            }
            catch (IOException)
            {
                // The parent has already reaped the child.
                return false;
            }
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Program_begins_with_the_blocked_and_ignored_signals_of_its_parent_and_no_handlers(bool forked)
    {
        using TempFolder folder = new();
        int output = Libc.OpenAt(Libc.AT_FDCWD, folder["output"], Libc.O_RDWR | Libc.O_CREAT | Libc.O_CLOEXEC, 0x180), code = -1,
            signal = -1;
        ulong blocked = 0, ignored = 0, caught = 0;
        OwnThread.Handling(() => Start(forked, "/bin/cat", output, () =>
        {
            OwnThread.Block(Libc.SIGUSR1);
            string own = File.ReadAllText("/proc/thread-self/status");
            (blocked, ignored, caught) = (Signals(own, "SigBlk"), Signals(own, "SigIgn"), Signals(own, "SigCgt"));
        }, _ => { }, out code, out signal));
        _ = Libc.Close(output);
        Assert.Equal((0, 0), (code, signal));
        // .NET ignores SIGPIPE in every process.
        Assert.Equal(Bit(Libc.SIGUSR1) | Bit(Libc.SIGPIPE) | Bit(OwnThread.SIGUSR2),
            (blocked & Bit(Libc.SIGUSR1)) | (ignored & Bit(Libc.SIGPIPE)) | (caught & Bit(OwnThread.SIGUSR2)));
        string status = File.ReadAllText(folder["output"]);
        Assert.Equal((blocked, ignored, 0ul), (Signals(status, "SigBlk"), Signals(status, "SigIgn"), Signals(status, "SigCgt")));
    }

    private static ulong Bit(int number) => 1ul << (number - 1);

    /// <summary>A signal set of /proc/PID/status, without the signals that the C library reserves.</summary>
    private static ulong Signals(string status, string name) =>
        ulong.Parse(status.Split('\n').Single(line => line.StartsWith(name, StringComparison.Ordinal))[(name.Length + 2)..],
            NumberStyles.HexNumber, CultureInfo.InvariantCulture) & ~(Bit(32) | Bit(33));

    /// <summary>
    /// Starts a program and waits for its end. First, <paramref name="prepare"/> runs on the starting thread. <paramref name="met"/> gets
    /// the
    /// number of each of the child's calls: the first is <see cref="AtFirstHandler"/>, the last <see cref="AtExec"/>.
    /// </summary>
    private static void Start(bool forked, string program, int output, Action prepare, Action<uint> met, out int code, out int signal)
    {
        int executable = Libc.OpenAt(Libc.AT_FDCWD, program, Libc.O_RDONLY | Libc.O_CLOEXEC), ended = -1, killed = -1;
        bool refused = false;
        OwnThread.Answering([OwnThread.SYS_execve, OwnThread.SYS_execveat, OwnThread.SYS_rt_sigaction], call =>
        {
            if (forked && !refused)
            {
                // Fails the first execve, of a path in /proc, as on a system without /proc.
                if (call.Number != OwnThread.SYS_execve) return null;
                refused = true;
                return -Errno.ENOENT;
            }
            met(call.Number == OwnThread.SYS_execveat ? AtExec : call.Number);
            return null;
        }, () =>
        {
            prepare();
            Assert.True(GC.TryStartNoGCRegion(64 << 20));
            int child = Libc.ForkExec(executable, [Path.GetFileName(program), "/proc/self/status"], [], ownSession: false, -1, output, -1);
            if (GCSettings.LatencyMode == GCLatencyMode.NoGCRegion) GC.EndNoGCRegion();
            Assert.True(child > 0);
            Assert.Equal(0, Libc.WaitPid(child, out ended, out killed));
        });
        _ = Libc.Close(executable);
        Assert.Equal(forked, refused);
        (code, signal) = (ended, killed);
    }
}
