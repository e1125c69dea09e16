namespace Snapuserd.Block;

/// <summary>Time as an input: a clock in production, a number in the simulator.</summary>
public interface ITimeSource
{
    /// <summary>Milliseconds since some fixed moment; never goes back.</summary>
    long Milliseconds { get; }
}
