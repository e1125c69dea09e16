using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("elf.h")]
[LibraryHeader("sys/auxv.h")]
public static unsafe partial class Libc
{
    private const ulong AT_EXECFN = 31;

    /// <summary>The path that this program was started by, as whoever started it wrote it; null if the kernel did not say.</summary>
    public static string? ExecutedPath() => ByteText.Decode((byte*)getauxval(AT_EXECFN));

    [DllImport("libc")]
    private static extern ulong getauxval(ulong type);
}
