using Snapuserd.Block;
using Snapuserd.Serve;

namespace Snapuserd.Cli;

/// <summary>Chooses what `--device` asks for and starts it.</summary>
internal static class BlockServers
{
    /// <summary>
    /// Starts serving <paramref name="view"/> with at most <paramref name="memory"/> bytes of buffers. <paramref name="device"/> is what readers open. `auto` takes ublk, and
    /// NBD where the kernel has no ublk (69).
    /// </summary>
    internal static IBlockServer Start(Invocation invocation, SnapshotView view, BlockDevice[] devices, int memory, WakeUp wakeUp, out string device)
    {
        throw new SnapuserdException(ExitCode.Unavailable, "no block server yet");
    }
}
