using System;
using Snapuserd.Block;

namespace Snapuserd.Boot;

/// <summary>
/// The operations of a boot on devices, processes and the clock. Tests use an implementation that records them and returns prepared
/// results.
/// </summary>
public interface IBootSystem
{
    /// <summary>A monotonic clock, in milliseconds.</summary>
    long Milliseconds { get; }

    /// <summary>Sleeps for <paramref name="milliseconds"/>.</summary>
    void Pause(int milliseconds);

    /// <summary>The value of resume=, if no such device exists yet.</summary>
    string? MissingResumeDevice();

    /// <summary>Searches for a hibernation image that was not resumed.</summary>
    HibernationLook LookForImage();

    /// <summary>True if the kernel has ublk.</summary>
    bool HasUblk { get; }

    /// <summary>
    /// Called if the COW does not exist in <paramref name="folder"/>. Returns the reason why it may still exist, for example on a file
    /// system that is not mounted there yet; null if there is no COW.
    /// </summary>
    string? Doubt(string folder);

    /// <summary>
    /// True if ublk device <paramref name="number"/> exists and a new server cannot take it over, for example because its server is alive
    /// or the device is not one of ours.
    /// </summary>
    bool IsUblkTaken(int number);

    /// <summary>
    /// Asks the server at <paramref name="socket"/> about <paramref name="row"/>, for at most a few seconds; null if no program listens
    /// there.
    /// </summary>
    RowServer? Ask(string socket, BootRow row);

    /// <summary>True if the row's mapped device is on its base, read-only: an earlier boot has taken the old image.</summary>
    bool IsOld(BootRow row);

    /// <summary>
    /// Keeps other merges and servers from the row's COW and base until the result is disposed; processes started meanwhile inherit the
    /// hold. Throws with exit code 76 (in use) if another process holds one of them.
    /// </summary>
    IDisposable Claim(BootRow row);

    /// <summary>Decodes every payload of the row's COW; throws the first error.</summary>
    void Verify(BootRow row);

    /// <summary>
    /// Starts a server with these arguments, in its own session, and waits until it is ready or has ended. Returns
    /// <list type="bullet">
    /// <item>0 if it has reported that it is ready, even if it has ended since;</item>
    /// <item>75 (interrupted) if it ended with 0 without that report, because it was stopped;</item>
    /// <item>its exit code if it failed; 69 if it could not be executed, and 70 if a signal killed it;</item>
    /// <item>74 (EX_IOERR) if it was not ready in time, so that this method ended it.</item>
    /// </list>
    /// </summary>
    ExitCode Serve(string[] arguments);

    /// <summary>Runs `merge` with these arguments to its end, with its progress shown; returns its exit code.</summary>
    ExitCode Merge(string[] arguments);

    /// <summary>
    /// Throws if /dev/mapper/NAME is not available: there is no device mapper or no permission, or a device of that name is not ours.
    /// </summary>
    void CheckMapper(BootRow row);

    /// <summary>Puts /dev/mapper/NAME of <paramref name="row"/> on its base.</summary>
    void StandOnBase(BootRow row, bool readOnly);

    /// <summary>Flushes the base and the COW, so that the COW's merge count is durable.</summary>
    void Flush(BootRow row);
}
