using System;

namespace Snapuserd.Control;

/// <summary>Wakes snapshots whose merges have a rate limit: an engine has no timer, so it needs a wake-up to continue.</summary>
public sealed class RateTicks(Func<Snapshot[]> snapshots) : IControlTicks
{
    /// <summary>
    /// Milliseconds between two wake-ups. A rate-limited merge writes one interval's amount at once: fifty times a second is smooth and
    /// cheap.
    /// </summary>
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
