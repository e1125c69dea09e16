using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// The purpose of a system call that failed. One errno means different things for different purposes and has different exit codes.
/// </summary>
public enum FailedCall
{
    /// <summary>Opens or reads a file or device that has to exist, or connects to a server.</summary>
    Open,
    /// <summary>Creates a file, a folder or a socket.</summary>
    Create,
    /// <summary>Opens the control device of a kernel driver, or looks the driver up.</summary>
    OpenDriver,
    /// <summary>Asks the kernel or one of its drivers to make or change something.</summary>
    Command,
    /// <summary>Takes a lock.</summary>
    Lock,
    /// <summary>Mounts a file system.</summary>
    Mount,
}

/// <summary>
/// The only table of exit codes for errnos (docs/exit-codes.md). Two kinds of failures have one exit code for every errno. A failed
/// transfer or flush of an open device is always <see cref="ExitCode.InputOutput"/>. A lack of memory, threads or processes is always
/// <see cref="ExitCode.OutOfResources"/>.
/// </summary>
public static class ErrnoPolicy
{
    /// <summary>The exit code if <paramref name="call"/> fails with <paramref name="errno"/>, of either sign.</summary>
    public static ExitCode CodeOf(FailedCall call, int errno)
    {
        int number = errno < 0 ? -errno : errno;
        if (Errno.IsOutOfResources(-number)) return ExitCode.OutOfResources;
        return call switch
        {
            FailedCall.Create => Create(number),
            FailedCall.Lock => Lock(number),
            _ => number switch
            {
                Errno.EACCES or Errno.EPERM or Errno.EROFS => ExitCode.Permission,
                Errno.EBUSY or Errno.ETXTBSY => ExitCode.InUse,
                _ when call == FailedCall.Open => Open(number),
                _ when call == FailedCall.Mount => Mount(number),
                _ => Driver(call, number),
            },
        };
    }

    /// <summary>"<paramref name="what"/>: permission denied (EACCES)", with its exit code.</summary>
    public static SnapuserdException Failure(FailedCall call, int errno, string what) =>
        new(CodeOf(call, errno), $"{what}: {ErrnoText.Of(errno)}");

    private static ExitCode Open(int number) => number switch
    {
        Errno.ENOENT or Errno.ENOTDIR or Errno.ELOOP or Errno.ENAMETOOLONG => ExitCode.InputMissing,
        Errno.ENXIO or Errno.ENODEV or Errno.ENOMEDIUM => ExitCode.InputMissing,
        // No server listens there, or the kernel has no such sockets.
        Errno.ECONNREFUSED or Errno.EAFNOSUPPORT => ExitCode.InputMissing,
        Errno.EINVAL => ExitCode.Usage,
        _ => ExitCode.InputOutput,
    };

    private static ExitCode Create(int number) => number switch
    {
        Errno.EBUSY or Errno.ETXTBSY or Errno.EADDRINUSE => ExitCode.InUse,
        Errno.EINVAL or Errno.ENAMETOOLONG => ExitCode.Usage,
        _ => ExitCode.CannotCreate,
    };

    private static ExitCode Driver(FailedCall call, int number) => number switch
    {
        // For the open of a control device, the driver is missing. For a command, the device that it names is missing.
        Errno.ENOENT or Errno.ENOTDIR or Errno.ENXIO or Errno.ENODEV => call == FailedCall.OpenDriver
            ? ExitCode.Unavailable : ExitCode.InputMissing,
        Errno.ENOSYS or Errno.EOPNOTSUPP or Errno.ENOTTY or Errno.EINVAL => ExitCode.Unavailable,
        Errno.EAFNOSUPPORT or Errno.EPROTONOSUPPORT => ExitCode.Unavailable,
        Errno.EEXIST => ExitCode.InUse,
        Errno.ENOSPC => ExitCode.OutOfResources,
        _ => ExitCode.InputOutput,
    };

    private static ExitCode Mount(int number) => number switch
    {
        // Either the kernel has no such file system, or it has no mounts without a path.
        Errno.ENODEV or Errno.ENOSYS => ExitCode.Unavailable,
        // The device has no such file system, or its checksums are wrong.
        Errno.EINVAL or Errno.EUCLEAN or Errno.EBADMSG => ExitCode.CowCorrupt,
        _ => ExitCode.InputOutput,
    };

    private static ExitCode Lock(int number) => number switch
    {
        Errno.EAGAIN => ExitCode.InUse,
        Errno.ENOSPC or Errno.ENOLCK => ExitCode.OutOfResources,
        // Any other error means that the folder of the locks was replaced or changed after root made it.
        _ => ExitCode.Permission,
    };
}
