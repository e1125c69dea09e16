using Snapuserd.Block;

namespace Snapuserd.Create;

/// <summary>Checks a stop flag inside a long loop, rarely enough to cost nothing.</summary>
internal sealed class StopPoll(StopFlag? stop)
{
    /// <summary>Steps between two checks: some microseconds of the loops here, so a stop takes effect at once.</summary>
    private const uint Every = 4096;

    private uint _steps;

    /// <summary>One step of the loop. Exit code 75 once the flag is set.</summary>
    public void Step()
    {
        if (++_steps % Every == 0) Look();
    }

    /// <summary>Checks at once.</summary>
    public void Look()
    {
        if (stop is { Requested: true }) throw new SnapuserdException(ExitCode.Interrupted, "stopped before the merge order was made");
    }
}
