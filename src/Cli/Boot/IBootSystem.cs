using System;
using Snapuserd.Block;

namespace Snapuserd.Cli.Boot;

/// <summary>What a boot does to the system it runs in. The tests have one that only writes it down.</summary>
internal interface IBootSystem
{
    /// <summary>A clock that does not go back, in milliseconds.</summary>
    long Milliseconds { get; }

    /// <summary>Lets <paramref name="milliseconds"/> pass.</summary>
    void Pause(int milliseconds);

    /// <summary>The value of resume=, if no such device is there yet.</summary>
    string? MissingResumeDevice();

    /// <summary>Looks for a hibernation image that has not been resumed.</summary>
    HibernationLook LookForImage();

    /// <summary>The kernel has ublk.</summary>
    bool HasUblk { get; }

    /// <summary>Why a COW that is not to be seen in <paramref name="folder"/> may be on a file system that is yet to be mounted there; null if it would be seen.</summary>
    string? Doubt(string folder);

    /// <summary>There is a device of that number with a living server, or one that is none of ours.</summary>
    bool IsUblkTaken(int number);

    /// <summary>Asks who listens there what it does for <paramref name="row"/>, for a few seconds at the most; null if nobody listens.</summary>
    RowServer? Ask(string socket, BootRow row);

    /// <summary>The row's mapped device stands on its base already, read-only: it was taken for old.</summary>
    bool IsOld(BootRow row);

    /// <summary>Keeps other merges and servers from the row's COW and base until the returned is disposed, and those that are started meanwhile hold them. Throws 76 if another has them.</summary>
    IDisposable Claim(BootRow row);

    /// <summary>Decodes every payload; throws what is wrong.</summary>
    void Verify(BootRow row);

    /// <summary>
    /// Starts a server with these arguments, in a session of its own, and waits until it is ready or has ended. Returns 0 when it is ready, otherwise the code it ended with, or 74 if
    /// it did neither in time and was killed.
    /// </summary>
    ExitCode Serve(string[] arguments);

    /// <summary>Runs `merge` with these arguments to its end, and shows its progress; returns its exit code.</summary>
    ExitCode Merge(string[] arguments);

    /// <summary>Throws if there is no device mapper, without which there is no /dev/mapper/NAME.</summary>
    void CheckMapper(BootRow row);

    /// <summary>Has /dev/mapper/NAME of <paramref name="row"/> stand on its base.</summary>
    void StandOnBase(BootRow row, bool readOnly);

    /// <summary>What the COW says of the base is durable, on both.</summary>
    void Flush(BootRow row);
}
