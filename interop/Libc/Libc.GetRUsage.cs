using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>Seconds and microseconds.</summary>
[CType("struct timeval")]
[LibraryHeader("sys/time.h")]
[StructLayout(LayoutKind.Sequential)]
public struct TimeVal
{
    [CName("tv_sec")]
    public long Seconds;
    [CName("tv_usec")]
    public long Microseconds;
}

/// <summary>Resource usage of a process: times since its start, the peak of its resident memory in KiB, counts since its start.</summary>
[CType("struct rusage", FieldPrefix = "ru_")]
[LibraryHeader("sys/resource.h")]
[StructLayout(LayoutKind.Sequential)]
public struct ResourceUsage
{
    [CName("ru_utime")]
    public TimeVal UserTime;
    [CName("ru_stime")]
    public TimeVal SystemTime;
    [CName("ru_maxrss")]
    public long PeakKibibytes;
    [CName("ru_ixrss")]
    public long SharedText;
    [CName("ru_idrss")]
    public long UnsharedData;
    [CName("ru_isrss")]
    public long UnsharedStack;
    [CName("ru_minflt")]
    public long MinorFaults;
    [CName("ru_majflt")]
    public long MajorFaults;
    [CName("ru_nswap")]
    public long Swaps;
    [CName("ru_inblock")]
    public long BlocksIn;
    [CName("ru_oublock")]
    public long BlocksOut;
    [CName("ru_msgsnd")]
    public long MessagesSent;
    [CName("ru_msgrcv")]
    public long MessagesReceived;
    [CName("ru_nsignals")]
    public long Signals;
    [CName("ru_nvcsw")]
    public long VoluntarySwitches;
    [CName("ru_nivcsw")]
    public long InvoluntarySwitches;
}

public static unsafe partial class Libc
{
    public const int RUSAGE_SELF = 0;

    /// <summary>getrusage(2). Returns 0 or a negative errno.</summary>
    public static int GetRUsage(int who, out ResourceUsage usage)
    {
        fixed (ResourceUsage* start = &usage) return getrusage(who, start) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int getrusage(int who, ResourceUsage* usage);
}
