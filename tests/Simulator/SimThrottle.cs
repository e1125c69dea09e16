using Snapuserd.Merge;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// Pauses, slows down and resumes a merge as the seed decides. Resumes it at the latest when the merge waits for nothing else.
/// </summary>
public sealed class SimThrottle(ulong seed)
{
    private readonly Chance _chance = new(seed);

    /// <summary>The rate that the engine consults.</summary>
    public MergeThrottle Throttle { get; } = new();

    /// <summary>Times that the merge was held.</summary>
    public int Held { get; private set; }

    /// <summary>
    /// Called when the merge waits; <paramref name="idle"/> means nothing is in flight. True if the merge was held and now continues.
    /// </summary>
    public bool Look(bool idle)
    {
        if (idle)
        {
            if (!Throttle.IsPaused && !Throttle.IsLimited) return false;
            Held++;
            Throttle.Resume();
            Throttle.BytesPerSecond = 0;
            return true;
        }
        switch (_chance.Below(12))
        {
            case 0: Throttle.Pause(); break;
            case 1: Throttle.Resume(); break;
            case 2: Throttle.BytesPerSecond = 4096L << _chance.Below(16); break;
            case 3: Throttle.BytesPerSecond = 0; break;
        }
        return false;
    }
}
