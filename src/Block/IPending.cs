namespace Snapuserd.Block;

/// <summary>Something that a protocol waits for before its next step.</summary>
public interface IPending
{
    /// <summary>It has come.</summary>
    bool IsDone { get; }
}
