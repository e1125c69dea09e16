using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("elf.h")]
[LibraryHeader("sys/auxv.h")]
public static unsafe partial class Libc
{
    private const ulong AT_PAGESZ = 6;
    private const ulong AT_EXECFN = 31;

    /// <summary>Page size of the running kernel in bytes; <see cref="Sizes.SystemPage"/> reads it once, for all other code.</summary>
    internal static int PageSize() => (int)getauxval(AT_PAGESZ);

    /// <summary>The path that was passed to execve to start this program; null if the kernel does not report it.</summary>
    public static string? ExecutedPath() => ByteText.Decode((byte*)getauxval(AT_EXECFN));

    [DllImport("libc")]
    private static extern ulong getauxval(ulong type);
}
