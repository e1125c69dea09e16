using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Cli;

/// <summary>
/// SIGTERM, SIGINT and SIGHUP as a request instead of an end. The handler sets a flag and wakes whoever waits for I/O; the command stops
/// at its next safe point. (signalfd would need the signals blocked in every thread, and the collector's are not ours to block.)
/// A command has one, made before it opens anything and disposed last. From then on no signal ends the process any more: an impatient second one, between the last
/// result and the exit, must not make a failure of what is done.
/// </summary>
internal sealed class StopSignals : IDisposable
{
    private bool _closed;

    internal StopSignals()
    {
        try
        {
            // A console that goes away must not end a merge between two checkpoints any more than a SIGTERM.
            Listen(WakeUp.Fd);
        }
        catch (SnapuserdException)
        {
            WakeUp.Dispose();
            throw;
        }
    }

    /// <summary>Set by the first signal.</summary>
    internal StopFlag Flag { get; } = new(() => EndSignals.HaveCome);

    /// <summary>Signalled by every signal; for the one queue of the command to listen to.</summary>
    internal WakeUp WakeUp { get; } = new();

    /// <summary>
    /// For what serves, before it opens anything: signals that others send to a daemon of this kind or to all processes, and that must not end it. Android's daemon takes SIGUSR1 and does nothing; SIGPWR says that
    /// the power may fail, when a server is needed most. What it starts inherits this.
    /// </summary>
    internal static void IgnoreOthers()
    {
        _ = Libc.IgnoreSignal(Libc.SIGUSR1);
        _ = Libc.IgnoreSignal(Libc.SIGPWR);
    }

    /// <summary>Listens with an eventfd, or with none if it is −1; exit code 71 if the system refuses.</summary>
    internal static void Listen(int bell)
    {
        int result = EndSignals.Listen(bell);
        if (result < 0)
            throw new SnapuserdException(ExitCode.OutOfResources, $"cannot listen for signals: {Reason.Of(result)}; allow rt_sigaction in the sandbox");
    }

    /// <summary>Stops listening; signals that come later are forgotten.</summary>
    public void Dispose()
    {
        if (_closed) return;
        _closed = true;
        _ = EndSignals.Listen(-1);
        WakeUp.Dispose();
    }
}
