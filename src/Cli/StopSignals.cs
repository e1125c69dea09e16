using System;
using System.Runtime.InteropServices;
using System.Threading;

namespace Snapuserd.Cli;

/// <summary>
/// SIGTERM and SIGINT as a request instead of an end. The handler sets a flag and wakes whoever waits for I/O; the engine stops at its
/// next checkpoint. (signalfd would need the signals blocked in every thread, and the collector's are not ours to block.)
/// </summary>
internal sealed class StopSignals : IDisposable
{
    private readonly Action _wakeUp;
    private readonly PosixSignalRegistration _terminate;
    private readonly PosixSignalRegistration _interrupt;
    private int _requested;

    /// <param name="wakeUp">Called on another thread, once per signal; must be callable until <see cref="Dispose"/> has returned.</param>
    internal StopSignals(Action wakeUp)
    {
        _wakeUp = wakeUp;
        _terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, OnSignal);
        _interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, OnSignal);
    }

    /// <summary>Whether a signal has come.</summary>
    internal bool Requested => Volatile.Read(ref _requested) != 0;

    /// <summary>The signals end the process again.</summary>
    public void Dispose()
    {
        _terminate.Dispose();
        _interrupt.Dispose();
    }

    private void OnSignal(PosixSignalContext context)
    {
        context.Cancel = true;
        Volatile.Write(ref _requested, 1);
        _wakeUp();
    }
}
