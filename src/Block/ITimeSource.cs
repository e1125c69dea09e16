using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>Time as an input: the engine uses no other clock, so that the simulator can control time.</summary>
public interface ITimeSource
{
    /// <summary>Milliseconds since an arbitrary moment; never decreases.</summary>
    long Milliseconds { get; }
}

/// <summary>CLOCK_MONOTONIC: setting the date, which is common in early boot, does not change it.</summary>
public sealed class MonotonicClock : ITimeSource
{
    /// <inheritdoc/>
    public long Milliseconds
    {
        get
        {
            // Cannot fail for this clock. If it did, time would stand still, and only the number of bytes would cause checkpoints.
            _ = Libc.ClockGetTime(Libc.CLOCK_MONOTONIC, out TimeSpec now);
            return (now.Sec * 1000) + (now.Nsec / 1_000_000);
        }
    }
}
