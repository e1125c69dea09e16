using System;

namespace Snapuserd.Daemon;

/// <summary>Wakes snapshots whose merges have a rate: an engine has no timer, so time alone does not let it go on.</summary>
public sealed class RateTicks(Func<Snapshot[]> snapshots) : IControlTicks
{
    /// <summary>At a rate, what a merge writes in this time is what it writes at once: fifty times a second looks even, and costs nothing.</summary>
    private const int Milliseconds = 20;

    private long _next;

    /// <inheritdoc/>
    public int Due(long now)
    {
        foreach (Snapshot snapshot in snapshots())
            if (snapshot.NeedsTicks) return (int)Math.Clamp(_next - now, 0, Milliseconds);
        return -1;
    }

    /// <inheritdoc/>
    public void Tick(long now)
    {
        _next = now + Milliseconds;
        foreach (Snapshot snapshot in snapshots())
            if (snapshot.NeedsTicks) snapshot.Wake();
    }
}
