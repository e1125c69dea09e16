using System;
using System.Globalization;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("signal.h")]
public static unsafe partial class Libc
{
    /// <summary>Exit code of <see cref="ForkExec"/>'s child when the program cannot be started.</summary>
    public const int NotExecuted = 127;

    /// <summary>
    /// Starts the program of the descriptor <paramref name="executable"/> as a child, with <paramref name="arguments"/> as its argv and
    /// <paramref name="environment"/> ("NAME=value") as its environment. Needs no path, and works without /proc. With
    /// <paramref name="ownSession"/> the child leads a new session, so that no terminal's signals reach it. Its standard streams are copies
    /// of <paramref name="input"/>, <paramref name="output"/> and <paramref name="diagnostics"/>; a negative descriptor leaves the stream
    /// unchanged. Returns the child's PID or a negative errno.
    /// </summary>
    public static int ForkExec(int executable, ReadOnlySpan<string> arguments, ReadOnlySpan<string> environment, bool ownSession = false,
        int input = -1, int output = -1, int diagnostics = -1)
    {
        byte* memory = (byte*)NativeMemory.AllocZeroed((nuint)(BytesOf(arguments) + BytesOf(environment) + sizeof(byte*)));
        byte** argv = (byte**)memory;
        byte** envp = (byte**)(memory + ((BytesOf(arguments) + sizeof(byte*) - 1) & -sizeof(byte*)));
        Write(arguments, argv);
        Write(environment, envp);
        int spawned = Spawn(executable, argv, envp, ownSession, [input, output, diagnostics]);
        // If processes or memory have run out, fork would fail too. After any other error fork is tried, because the error may come from a
        // missing /proc, or from a sandbox that refuses a call that only posix_spawn makes. If the program itself is at fault, the fork's
        // child ends with NotExecuted.
        if (spawned is >= 0 or -Errno.EAGAIN or -Errno.ENOMEM)
        {
            NativeMemory.Free(memory);
            return spawned;
        }
        byte nothing = 0;
        nint* handling = stackalloc nint[SignalActionWords], byDefault = stackalloc nint[SignalActionWords];
        ulong* all = stackalloc ulong[SignalSetWords], before = stackalloc ulong[SignalSetWords];
        new Span<nint>(byDefault, SignalActionWords).Clear();
        new Span<ulong>(all, SignalSetWords).Fill(ulong.MaxValue);
        // A signal handler in the child would write to the parent's pipes and eventfds, so signals are blocked until the child has no
        // handlers.
        _ = pthread_sigmask(SIG_SETMASK, all, before);
        // No code of the runtime may run between these two calls: the child has only this thread, and the runtime would wait for the
        // others. SuppressGCTransition makes these calls plain C calls.
        int child = fork();
        if (child == 0)
        {
            for (int signal = 1; signal <= LastSignal; signal++)
                if (sigaction(signal, null, handling) == 0 && *handling > Ignored) _ = sigaction(signal, byDefault, null);
            _ = pthread_sigmask(SIG_SETMASK, before, null);
            if (ownSession) _ = setsid();
            if (input >= 0) _ = dup2(input, 0);
            if (output >= 0) _ = dup2(output, 1);
            if (diagnostics >= 0) _ = dup2(diagnostics, 2);
            _ = execveat(executable, &nothing, argv, envp, AT_EMPTY_PATH);
            _exit(NotExecuted);
        }
        int result = child < 0 ? -Marshal.GetLastSystemError() : child;
        _ = pthread_sigmask(SIG_SETMASK, before, null);
        NativeMemory.Free(memory);
        return result;
    }

    /// <summary>
    /// Starts the program by posix_spawn, which needs /proc for the name of a descriptor. It is tried before fork, because a fork's child
    /// hangs if the runtime collects garbage on another thread at that moment. Even a call with SuppressGCTransition checks for a
    /// collection, and the thread that would end the collection is not in the child.
    /// </summary>
    private static int Spawn(int executable, byte** argv, byte** envp, bool ownSession, ReadOnlySpan<int> streams)
    {
        Span<byte> path = stackalloc byte[32];
        path[ByteText.Encode(string.Create(CultureInfo.InvariantCulture, $"/proc/self/fd/{executable}"), path)] = 0;
        fixed (byte* name = path) return PosixSpawn(name, argv, envp, ownSession, streams);
    }

    private const int SIG_SETMASK = 2, LastSignal = 64;
    private const nint Ignored = 1;

    // glibc's sigset_t and struct sigaction on 64-bit machines; the first word of the latter is the handler.
    private const int SignalSetWords = 16, SignalActionWords = 19;

    [DllImport("libc")]
    [SuppressGCTransition]
    private static extern int fork();

    [DllImport("libc")]
    [SuppressGCTransition]
    private static extern int pthread_sigmask(int how, ulong* set, ulong* before);

    [DllImport("libc")]
    [SuppressGCTransition]
    private static extern int sigaction(int signal, nint* action, nint* before);

    [DllImport("libc")]
    [SuppressGCTransition]
    private static extern int setsid();

    [DllImport("libc")]
    [SuppressGCTransition]
    private static extern int dup2(int oldfd, int newfd);

    [DllImport("libc")]
    [SuppressGCTransition]
    private static extern int execveat(int dirfd, byte* pathname, byte** argv, byte** envp, int flags);

    [DllImport("libc")]
    [SuppressGCTransition]
    private static extern void _exit(int status);
}
