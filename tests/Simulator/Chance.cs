namespace Snapuserd.Tests.Simulator;

/// <summary>The random generator splitmix64. A seed gives the same numbers on every machine and runtime.</summary>
public sealed class Chance(ulong seed)
{
    private ulong _state = seed;

    /// <summary>64 bits.</summary>
    public ulong Next()
    {
        _state += 0x9e3779b97f4a7c15;
        return Mix(_state);
    }

    /// <summary>A number from 0 to <paramref name="below"/> − 1.</summary>
    public int Below(int below) => (int)(Next() % (ulong)below);

    /// <summary>True <paramref name="percent"/> times in a hundred.</summary>
    public bool Percent(int percent) => Below(100) < percent;

    /// <summary>One well-mixed number from another.</summary>
    public static ulong Mix(ulong z)
    {
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        return z ^ (z >> 31);
    }
}
