namespace Snapuserd.Block;

/// <summary>An event that a protocol waits for before its next step.</summary>
public interface IPending
{
    /// <summary>The event has happened.</summary>
    bool IsDone { get; }
}
