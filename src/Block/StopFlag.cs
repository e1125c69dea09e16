using System;
using System.Threading;

namespace Snapuserd.Block;

/// <summary>
/// Asks a run to stop at its next safe point. Set from another thread, or by what <paramref name="signalled"/> says, which stays true; read by
/// the engine.
/// </summary>
public sealed class StopFlag(Func<bool>? signalled = null)
{
    private bool _requested;
    private Func<bool>? _reason;

    /// <summary>True once somebody asked, or a reason has come up.</summary>
    public bool Requested => Volatile.Read(ref _requested) || (signalled?.Invoke() ?? false) || (_reason?.Invoke() ?? false);

    /// <summary>Another reason to stop, looked at whenever the request is; it stays once it is there. Set by the thread that reads the flag.</summary>
    public void StopAlsoWhen(Func<bool> reason) => _reason = reason;

    /// <summary>Asks; for good.</summary>
    public void Request() => Volatile.Write(ref _requested, true);
}
