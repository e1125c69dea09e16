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
        int size = (arguments.Length + 1) * sizeof(byte*);
        foreach (string argument in arguments) size += ByteText.GetByteCount(argument) + 1;
        byte* memory = (byte*)NativeMemory.AllocZeroed((nuint)size);
        byte** argv = (byte**)memory;
        Span<byte> text = new(memory + ((arguments.Length + 1) * sizeof(byte*)), size - ((arguments.Length + 1) * sizeof(byte*)));
        for (int i = 0; i < arguments.Length; i++)
        {
            argv[i] = (byte*)Unsafe.AsPointer(ref MemoryMarshal.GetReference(text));
            text = text[(ByteText.Encode(arguments[i], text) + 1)..];
        }
        _ = execv(program, argv);
        int errno = -Marshal.GetLastPInvokeError();
        NativeMemory.Free(memory);
        return errno;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int execv(byte* pathname, byte** argv);
}
