using System.Threading;

namespace Snapuserd.Block;

/// <summary>Asks a run to stop at its next safe point. Set from a signal handler or another thread, read by the engine.</summary>
public sealed class StopFlag
{
    private bool _requested;

    /// <summary>True once somebody asked.</summary>
    public bool Requested => Volatile.Read(ref _requested);

    /// <summary>Asks; for good.</summary>
    public void Request() => Volatile.Write(ref _requested, true);
}
