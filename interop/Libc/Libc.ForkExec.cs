using System;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>What <see cref="ForkExec"/>'s child exits with when the program cannot be started.</summary>
    public const int NotExecuted = 127;

    /// <summary>
    /// Starts the program that <paramref name="executable"/> is a descriptor of, as a child with <paramref name="arguments"/> as its argv and
    /// <paramref name="environment"/> ("NAME=value") as its environment. Needs no path and no /proc, which posix_spawn does. Returns the child's number, or a negative errno.
    /// </summary>
    public static int ForkExec(int executable, ReadOnlySpan<string> arguments, ReadOnlySpan<string> environment) =>
        ForkExec(executable, arguments, environment, ownSession: false, -1, -1, -1);

    /// <summary>
    /// The same; the child leads a session of its own if asked to, so that no terminal's signals reach it, and its three standard streams are copies of these descriptors, or for negative
    /// ones what they were.
    /// </summary>
    public static int ForkExec(int executable, ReadOnlySpan<string> arguments, ReadOnlySpan<string> environment, bool ownSession, int input, int output, int diagnostics)
    {
        byte* memory = (byte*)NativeMemory.AllocZeroed((nuint)(BytesOf(arguments) + BytesOf(environment) + sizeof(byte*)));
        byte** argv = (byte**)memory;
        byte** envp = (byte**)(memory + ((BytesOf(arguments) + sizeof(byte*) - 1) & -sizeof(byte*)));
        Write(arguments, argv);
        Write(environment, envp);
        byte nothing = 0;
        // Between these two calls nothing of the runtime may run: the child has this thread and no other, and the runtime would wait for
        // the others. Calls without a transition are plain calls.
        int child = fork();
        if (child == 0)
        {
            if (ownSession) _ = setsid();
            if (input >= 0) _ = dup2(input, 0);
            if (output >= 0) _ = dup2(output, 1);
            if (diagnostics >= 0) _ = dup2(diagnostics, 2);
            _ = execveat(executable, &nothing, argv, envp, AT_EMPTY_PATH);
            _exit(NotExecuted);
        }
        int result = child < 0 ? -Marshal.GetLastSystemError() : child;
        NativeMemory.Free(memory);
        return result;
    }

    private static int BytesOf(ReadOnlySpan<string> strings)
    {
        int size = (strings.Length + 1) * sizeof(byte*);
        foreach (string text in strings) size += ByteText.GetByteCount(text) + 1;
        return size;
    }

    private static void Write(ReadOnlySpan<string> strings, byte** pointers)
    {
        Span<byte> text = new(pointers + strings.Length + 1, BytesOf(strings) - ((strings.Length + 1) * sizeof(byte*)));
        for (int i = 0; i < strings.Length; i++)
        {
            pointers[i] = (byte*)Unsafe.AsPointer(ref MemoryMarshal.GetReference(text));
            text = text[(ByteText.Encode(strings[i], text) + 1)..];
        }
    }

    [DllImport("libc")]
    [SuppressGCTransition]
    private static extern int fork();

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
