using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>Time as an input: the engine asks this and nothing else, so that the simulator can give it any time.</summary>
public interface ITimeSource
{
    /// <summary>Milliseconds since some moment; never goes back.</summary>
    long Milliseconds { get; }
}

/// <summary>CLOCK_MONOTONIC: unmoved by whoever sets the date, which in early boot somebody will.</summary>
public sealed class MonotonicClock : ITimeSource
{
    /// <inheritdoc/>
    public long Milliseconds
    {
        get
        {
            // Cannot fail for this clock; if it did, time would stand still and checkpoints would come by bytes alone.
            _ = Libc.ClockGetTime(Libc.CLOCK_MONOTONIC, out TimeSpec now);
            return (now.Sec * 1000) + (now.Nsec / 1_000_000);
        }
    }
}
