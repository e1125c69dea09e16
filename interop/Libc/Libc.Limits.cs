namespace Snapuserd.Interop;

[LibraryHeader("limits.h")]
public static unsafe partial class Libc
{
    /// <summary>Bytes of the longest path that the kernel accepts, including the closing zero.</summary>
    public const int PATH_MAX = 4096;

    /// <summary>Largest write to a pipe in bytes that is atomic.</summary>
    public const int PIPE_BUF = 4096;
}
