using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Host;

/// <summary>
/// Turns SIGTERM, SIGINT and SIGHUP into a stop request. The handler sets a flag and wakes the thread that waits for I/O; the command stops
/// at its next safe point. (signalfd would need the signals blocked in every thread, and the runtime's collector threads are not under this
/// program's control.) A command creates this object before it opens anything, and disposes of it last. Even afterwards none of these
/// signals ends the process: a second signal between the last result and the exit must not turn a success into a failure.
/// </summary>
public sealed class StopSignals : IDisposable
{
    private bool _closed;

    public StopSignals()
    {
        try
        {
            // SIGHUP as well: a closed console must not end a merge between two checkpoints.
            Listen(WakeUp.Fd);
        }
        catch (SnapuserdException)
        {
            WakeUp.Dispose();
            throw;
        }
    }

    /// <summary>Set by the first signal.</summary>
    public StopFlag Flag { get; } = new(() => EndSignals.HaveCome);

    /// <summary>Signalled by every such signal. Only one queue may wait on it: the command's.</summary>
    public WakeUp WakeUp { get; } = new();

    /// <summary>
    /// For a server, before it opens anything: ignores SIGUSR1 and SIGPWR, which would end the process by default. Android's daemon also
    /// ignores SIGUSR1. SIGPWR announces a possible power failure, when a server is needed most. Child processes inherit this.
    /// </summary>
    public static void IgnoreOthers()
    {
        _ = Libc.IgnoreSignal(Libc.SIGUSR1);
        _ = Libc.IgnoreSignal(Libc.SIGPWR);
    }

    /// <summary>
    /// For every command, before anything else: ignores SIGPIPE and SIGXFSZ. A closed pipe, or a file at its size limit (ulimit -f), then
    /// makes write(2) return an error, which a command can handle.
    /// </summary>
    public static void IgnoreThoseOfWrites()
    {
        _ = Libc.IgnoreSignal(Libc.SIGPIPE);
        _ = Libc.IgnoreSignal(Libc.SIGXFSZ);
    }

    /// <summary>
    /// Installs the handlers, which signal the eventfd <paramref name="wakeUp"/> unless it is −1. Throws with exit code 71 if the system
    /// refuses.
    /// </summary>
    public static void Listen(int wakeUp)
    {
        int result = EndSignals.Listen(wakeUp);
        if (result < 0)
            throw new SnapuserdException(ExitCode.OutOfResources,
                $"cannot listen for signals: {ErrnoText.Of(result)}; allow rt_sigaction in the sandbox");
    }

    /// <summary>Detaches the wake-up; later signals are ignored.</summary>
    public void Dispose()
    {
        if (_closed) return;
        _closed = true;
        _ = EndSignals.Listen(-1);
        WakeUp.Dispose();
    }
}
