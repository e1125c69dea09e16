using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

[LibraryHeader("sys/syscall.h")]
public sealed unsafe partial class IoUring
{
    // No C library wraps these three. The numbers are the same on every Linux architecture except alpha.
    [CName("SYS_io_uring_setup")]
    private const long SetupNumber = 425;
    [CName("SYS_io_uring_enter")]
    private const long EnterNumber = 426;
    [CName("SYS_io_uring_register")]
    private const long RegisterNumber = 427;

    private static int Setup(uint entries, IoUringParams* parameters)
    {
        nint result = syscall(SetupNumber, (nint)entries, (nint)parameters, 0, 0, 0, 0);
        return result < 0 ? -Marshal.GetLastPInvokeError() : (int)result;
    }

    private static int EnterCall(int fd, uint submit, uint complete, uint flags)
    {
        nint result = syscall(EnterNumber, fd, (nint)submit, (nint)complete, (nint)flags, 0, 0);
        return result < 0 ? -Marshal.GetLastPInvokeError() : (int)result;
    }

    private static int RegisterCall(int fd, uint opcode, void* argument, uint count)
    {
        nint result = syscall(RegisterNumber, fd, (nint)opcode, (nint)argument, (nint)count, 0, 0);
        return result < 0 ? -Marshal.GetLastPInvokeError() : (int)result;
    }

    // syscall(2) is variadic; on x86-64 and arm64 Linux it uses the same registers as a non-variadic call.
    [DllImport("libc", SetLastError = true)]
    private static extern nint syscall(long number, nint a, nint b, nint c, nint d, nint e, nint f);
}
