using System;
using System.Threading;

namespace Snapuserd.Block;

/// <summary>
/// Asks a run to stop at its next safe point. Set from another thread, or by <paramref name="signalled"/>, which must stay true once it is
/// true. Read by the engine.
/// </summary>
public sealed class StopFlag(Func<bool>? signalled = null)
{
    private bool _requested;
    private Func<bool>? _reason;

    /// <summary>True once a stop was requested, a signal arrived, or the additional reason holds.</summary>
    public bool Requested => Volatile.Read(ref _requested) || (signalled?.Invoke() ?? false) || (_reason?.Invoke() ?? false);

    /// <summary>
    /// An additional reason to stop, evaluated with every check of the request. Once true, it must stay true. Only the thread that reads
    /// the flag may set it.
    /// </summary>
    public void StopAlsoWhen(Func<bool> reason) => _reason = reason;

    /// <summary>Requests the stop; it cannot be withdrawn.</summary>
    public void Request() => Volatile.Write(ref _requested, true);
}
