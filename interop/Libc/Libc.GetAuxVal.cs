using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("elf.h")]
[LibraryHeader("sys/auxv.h")]
public static unsafe partial class Libc
{
    private const ulong AT_PAGESZ = 6;
    private const ulong AT_EXECFN = 31;

    /// <summary>Bytes of a page of the running kernel; <see cref="Sizes.SystemPage"/> reads it once, for all others.</summary>
    internal static int PageSize() => (int)getauxval(AT_PAGESZ);

    /// <summary>The path that this program was started by, as whoever started it wrote it; null if the kernel did not say.</summary>
    public static string? ExecutedPath() => ByteText.Decode((byte*)getauxval(AT_EXECFN));

    [DllImport("libc")]
    private static extern ulong getauxval(ulong type);
}
