using Snapuserd.Merge;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// Pauses, slows down and resumes a merge as the seed decides; resumes it at the latest when the merge waits for nothing else.
/// </summary>
public sealed class SimPace(ulong seed)
{
    private readonly Chance _chance = new(seed);

    /// <summary>The pace that the engine consults.</summary>
    public MergePace Pace { get; } = new();

    /// <summary>Times that the merge was held.</summary>
    public int Held { get; private set; }

    /// <summary>
    /// Called when the merge waits; <paramref name="idle"/> means nothing is in flight. True if the merge was held and now continues.
    /// </summary>
    public bool Look(bool idle)
    {
        if (idle)
        {
            if (!Pace.IsPaused && !Pace.IsLimited) return false;
            Held++;
            Pace.Resume();
            Pace.BytesPerSecond = 0;
            return true;
        }
        switch (_chance.Below(12))
        {
            case 0: Pace.Pause(); break;
            case 1: Pace.Resume(); break;
            case 2: Pace.BytesPerSecond = 4096L << _chance.Below(16); break;
            case 3: Pace.BytesPerSecond = 0; break;
        }
        return false;
    }
}
