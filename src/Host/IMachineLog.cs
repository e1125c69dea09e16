using Snapuserd.Block;

namespace Snapuserd.Host;

/// <summary>A log with records that may concern all users of the machine.</summary>
public interface IMachineLog : ILog
{
    /// <summary>Writes a record to the kernel's log in addition to this log's own destination.</summary>
    void WriteForMachine(Priority priority, string name, string sentence);
}
