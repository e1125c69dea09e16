using System;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("unistd.h")]
public static unsafe partial class Libc
{
    /// <summary>
    /// execv(3): replaces the process by the program at <paramref name="path"/>, with <paramref name="arguments"/> as its argv. Returns
    /// only on failure, with a negative errno; −ENOMEM also when the arguments do not fit into memory.
    /// </summary>
    public static int ExecV(string path, ReadOnlySpan<string> arguments)
    {
        byte* program = stackalloc byte[CPath.Capacity];
        int encoded = CPath.Encode(path, new Span<byte>(program, CPath.Capacity));
        if (encoded < 0) return encoded;
        byte** argv = (byte**)NativeMemory.AllocZeroed((nuint)BytesOf(arguments));
        Write(arguments, argv);
        _ = execv(program, argv);
        int errno = -Marshal.GetLastPInvokeError();
        NativeMemory.Free(argv);
        return errno;
    }

    /// <summary>Bytes of an argv or an environment: its pointers, the null that ends them, and the strings.</summary>
    private static int BytesOf(ReadOnlySpan<string> strings)
    {
        int size = (strings.Length + 1) * sizeof(byte*);
        foreach (string text in strings) size += ByteText.GetByteCount(text) + 1;
        return size;
    }

    /// <summary>Writes an argv or an environment to zeroed memory of <see cref="BytesOf"/> bytes.</summary>
    private static void Write(ReadOnlySpan<string> strings, byte** pointers)
    {
        Span<byte> text = new(pointers + strings.Length + 1, BytesOf(strings) - ((strings.Length + 1) * sizeof(byte*)));
        for (int i = 0; i < strings.Length; i++)
        {
            pointers[i] = (byte*)Unsafe.AsPointer(ref MemoryMarshal.GetReference(text));
            text = text[(ByteText.Encode(strings[i], text) + 1)..];
        }
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int execv(byte* pathname, byte** argv);
}
