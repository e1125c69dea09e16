using System;
using System.Runtime.InteropServices;
using Snapuserd.Block;

namespace Snapuserd.Cli;

/// <summary>
/// SIGTERM, SIGINT and SIGHUP as a request instead of an end. The handler sets a flag and wakes whoever waits for I/O; the command stops
/// at its next safe point. (signalfd would need the signals blocked in every thread, and the collector's are not ours to block.)
/// A command has one, made before it opens anything and disposed last. From then on no signal ends the process any more: an impatient second one, between the last
/// result and the exit, must not make a failure of what is done.
/// </summary>
internal sealed class StopSignals : IDisposable
{
    private readonly object _gate = new();
    private bool _closed;

    // Rooted here, or the collector would end the last command's registrations.
    private static PosixSignalRegistration[] s_registrations = [];

    internal StopSignals()
    {
        try
        {
            s_registrations = Register(OnSignal);
        }
        catch (SnapuserdException)
        {
            WakeUp.Dispose();
            throw;
        }
    }

    /// <summary>Set by the first signal.</summary>
    internal StopFlag Flag { get; } = new();

    /// <summary>Signalled by every signal; for the one queue of the command to listen to.</summary>
    internal WakeUp WakeUp { get; } = new();

    /// <summary>Nobody waits for signals any more; those that come are forgotten.</summary>
    public void Dispose()
    {
        // A handler may have begun on its own thread; it must not write to a number that is somebody else's by then.
        lock (_gate)
        {
            if (_closed) return;
            _closed = true;
            WakeUp.Dispose();
        }
    }

    /// <summary>Registers a handler of SIGTERM, SIGINT and SIGHUP, for as long as what it returns is kept; exit code 71 if the system refuses.</summary>
    internal static PosixSignalRegistration[] Register(Action<PosixSignalContext> handler)
    {
        try
        {
            return
            [
                PosixSignalRegistration.Create(PosixSignal.SIGTERM, handler),
                PosixSignalRegistration.Create(PosixSignal.SIGINT, handler),
                // A console that goes away must not end a merge between two checkpoints any more than a SIGTERM.
                PosixSignalRegistration.Create(PosixSignal.SIGHUP, handler),
            ];
        }
        catch (TypeInitializationException)
        {
            // The first registration makes the runtime's pipe and the thread that reads it. It keeps the errno to itself, but these are what can be short.
            throw new SnapuserdException(ExitCode.OutOfResources,
                "cannot listen for signals: no descriptor, thread or memory is left, or a sandbox forbids pipe2; try to raise the limits (ulimit -n, ulimit -u, pids.max of the cgroup)");
        }
    }

    private void OnSignal(PosixSignalContext context)
    {
        context.Cancel = true;
        lock (_gate)
        {
            if (_closed) return;
            Flag.Request();
            WakeUp.Signal();
        }
    }
}
