namespace Snapuserd.Interop;

/// <summary>The C library, one call per file: thin, no policy, no allocation. Every call returns its result, or a negative errno (<see cref="Errno"/>).</summary>
public static unsafe partial class Libc
{
    /// <summary>Page size of x86-64 in bytes. An architecture with another one gets its own file.</summary>
    public const int PageSize = 4096;
}
