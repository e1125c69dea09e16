using Snapuserd.Block;

namespace Snapuserd.Create;

/// <summary>Looks at a stop flag from inside a long loop, seldom enough to cost nothing.</summary>
internal sealed class StopPoll(StopFlag? stop)
{
    /// <summary>Steps between two looks: some microseconds of what the loops here do, so that nobody who stops has to wait.</summary>
    private const uint Every = 4096;

    private uint _steps;

    /// <summary>One step of the loop; exit code 75 once the flag is set.</summary>
    public void Step()
    {
        if (++_steps % Every == 0) Look();
    }

    /// <summary>Looks at once.</summary>
    public void Look()
    {
        if (stop is { Requested: true }) throw new SnapuserdException(ExitCode.Interrupted, "stopped before the merge order was made");
    }
}
