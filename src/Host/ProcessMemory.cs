using Snapuserd.Interop;

namespace Snapuserd.Host;

/// <summary>The memory of this process.</summary>
public static class ProcessMemory
{
    /// <summary>Peak resident memory in bytes; −1 if unknown.</summary>
    public static long Peak() => Libc.GetRUsage(Libc.RUSAGE_SELF, out ResourceUsage usage) < 0 ? -1 : usage.PeakKibibytes * 1024;
}
