using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>Seconds and nanoseconds.</summary>
[CType("struct timespec", FieldPrefix = "tv_")]
[LibraryHeader("time.h")]
[StructLayout(LayoutKind.Sequential)]
public struct TimeSpec
{
    public long Sec;
    public long Nsec;
}

[LibraryHeader("time.h")]
public static unsafe partial class Libc
{
    public const int CLOCK_REALTIME = 0;
    public const int CLOCK_MONOTONIC = 1;

    /// <summary>clock_gettime(2). Returns 0 or a negative errno.</summary>
    public static int ClockGetTime(int clock, out TimeSpec time)
    {
        fixed (TimeSpec* target = &time)
            return clock_gettime(clock, target) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int clock_gettime(int clockid, TimeSpec* tp);
}
