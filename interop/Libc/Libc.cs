namespace Snapuserd.Interop;

/// <summary>
/// The C library, one call per file: thin wrappers without policy or allocation. Every call returns its result, or a negative errno
/// (<see cref="Errno"/>).
/// </summary>
public static unsafe partial class Libc
{
}
