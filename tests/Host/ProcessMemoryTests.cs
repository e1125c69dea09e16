using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Host;

/// <summary>The memory of this process.</summary>
public sealed class ProcessMemoryTests
{
    private const uint SYS_getrusage = 98;

    [Fact]
    public void The_peak_of_memory_is_in_bytes_or_minus_one_if_it_is_unknown()
    {
        Assert.True(Snapuserd.Host.ProcessMemory.Peak() > 4 << 20);
        foreach (int errno in (int[])[Errno.EPERM, Errno.ENOSYS])
            OwnThread.Refusing(SYS_getrusage, errno, () => Assert.Equal(-1, Snapuserd.Host.ProcessMemory.Peak()));
    }
}
