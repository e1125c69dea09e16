namespace Snapuserd.Interop;

[LibraryHeader("limits.h")]
public static unsafe partial class Libc
{
    /// <summary>Bytes of the longest path that the kernel takes, the closing zero included.</summary>
    public const int PATH_MAX = 4096;

    /// <summary>Bytes that a pipe takes whole or not at all.</summary>
    public const int PIPE_BUF = 4096;
}
