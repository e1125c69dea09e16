using System;
using System.Runtime.CompilerServices;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using System.Threading;
using Snapuserd.Interop;

namespace Snapuserd.Tests.Block;

/// <summary>
/// Runs a piece of a test on a thread of its own for which the kernel has special rules; Linux knows filters, users and directed signals
/// per thread, so nothing else in the process notices.
/// </summary>
internal static unsafe partial class OwnThread
{
    private const int PR_SET_NO_NEW_PRIVS = 38;
    private const int PR_SET_SECCOMP = 22;
    private const int SECCOMP_MODE_FILTER = 2;
    private const int SIGUSR2 = 12;
    private const long SYS_setresuid = 117;
    private const long SYS_tgkill = 234;
    private const long SYS_gettid = 186;

    /// <summary>System calls by their x86-64 number.</summary>
    public const uint SYS_pread64 = 17;
    public const uint SYS_io_uring_setup = 425;
    public const uint SYS_io_uring_register = 427;

    private struct Filter
    {
        public ushort Code;
        public byte JumpTrue;
        public byte JumpFalse;
        public uint Value;
    }

    private struct FilterProgram
    {
        public ushort Length;
        public Filter* Filters;
    }

    /// <summary>glibc's struct sigaction on x86-64.</summary>
    private struct SignalAction
    {
        public nint Handler;
        public fixed ulong Mask[16];
        public int Flags;
        public nint Restorer;
    }

    /// <summary>Under a seccomp filter that answers one system call with an errno, as containers do.</summary>
    public static void Refusing(uint systemCall, int errno, Action action) => Run(() =>
    {
        Filter* filters = stackalloc Filter[4];
        filters[0] = new Filter { Code = 0x20, Value = 0 };                                 // load the system call's number
        filters[1] = new Filter { Code = 0x15, JumpTrue = 0, JumpFalse = 1, Value = systemCall };         // is it this one?
        filters[2] = new Filter { Code = 0x06, Value = 0x0005_0000 | (uint)errno };         // answer with the errno
        filters[3] = new Filter { Code = 0x06, Value = 0x7fff_0000 };                       // allow
        FilterProgram program = new() { Length = 4, Filters = filters };
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, (nint)(&program), 0, 0) != 0)
            throw new InvalidOperationException("this kernel has no seccomp filters");
        action();
    });

    /// <summary>As nobody, if the process is root.</summary>
    public static void Unprivileged(Action action) => Run(() =>
    {
        if (Libc.GetEUid() == 0 && syscall(SYS_setresuid, -1, 65534, -1) != 0) throw new InvalidOperationException("cannot stop being root");
        action();
    });

    /// <summary>
    /// While another thread sends signals without end, whose handler does nothing and does not restart system calls. The action can ask how many were sent.
    /// </summary>
    public static void Interrupted(Action<Func<int>> action)
    {
        int sent = 0;
        Run(() =>
        {
            // Any function of the C library that takes a number and has no effects is a signal handler.
            SignalAction handler = new() { Handler = NativeLibrary.GetExport(NativeLibrary.Load("libc.so.6"), "abs") };
            SignalAction before;
            if (sigaction(SIGUSR2, &handler, &before) != 0) throw new InvalidOperationException("no handler");
            nint target = syscall(SYS_gettid, 0, 0, 0);
            StrongBox<bool> stop = new();
            Thread sender = new(() =>
            {
                while (!Volatile.Read(ref stop.Value))
                {
                    if (syscall(SYS_tgkill, Libc.GetPid(), target, SIGUSR2) == 0) Interlocked.Increment(ref sent);
                    // Gives the other thread a chance to do something between two signals.
                    Thread.Yield();
                }
            });
            sender.Start();
            try
            {
                action(() => Volatile.Read(ref sent));
            }
            finally
            {
                Volatile.Write(ref stop.Value, true);
                sender.Join();
                _ = sigaction(SIGUSR2, &before, null);
            }
        });
    }

    private static void Run(Action action)
    {
        ExceptionDispatchInfo? failure = null;
        Thread thread = new(() =>
        {
            try
            {
                action();
            }
            catch (Exception e)
            {
                failure = ExceptionDispatchInfo.Capture(e);
            }
        });
        thread.Start();
        thread.Join();
        failure?.Throw();
    }

    [DllImport("libc")]
    private static extern int prctl(int option, nint a, nint b, nint c, nint d);

    [DllImport("libc")]
    private static extern nint syscall(long number, nint a, nint b, nint c);

    [DllImport("libc")]
    private static extern int sigaction(int signal, SignalAction* action, SignalAction* before);
}
