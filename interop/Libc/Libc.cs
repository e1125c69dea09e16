namespace Snapuserd.Interop;

/// <summary>
/// The C library, usually one call per file: thin wrappers without policy. A call that can fail returns its result or a negative errno
/// (<see cref="Errno"/>).
/// </summary>
public static unsafe partial class Libc
{
}
