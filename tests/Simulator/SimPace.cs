using Snapuserd.Merge;

namespace Snapuserd.Tests.Simulator;

/// <summary>Somebody who pauses a merge, slows it down and lets it go on, when the seed says so; and at the latest when it waits for nothing else.</summary>
public sealed class SimPace(ulong seed)
{
    private readonly Chance _chance = new(seed);

    /// <summary>What the engine asks.</summary>
    public MergePace Pace { get; } = new();

    /// <summary>Times that the merge was held.</summary>
    public int Held { get; private set; }

    /// <summary>The merge waits; <paramref name="idle"/>: with nothing in flight. True if it may have been held, and goes on.</summary>
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
