using System;
using Snapuserd.Interop;
using Xunit;

namespace Snapuserd.Tests.Interop;

/// <summary>The ring on this machine's kernel.</summary>
public sealed class IoUringTests
{
    [Theory]
    [InlineData(0u)]
    [InlineData(IoUringAbi.IORING_SETUP_SQE128)]
    public void Kernel_completes_every_request_while_the_ring_wraps_around(uint flags)
    {
        Assert.Equal(0, IoUring.Open(8, flags, 0, out IoUring? made));
        Ring ring = made!.Ring;
        Assert.Equal(8u, ring.Capacity);
        ulong next = 0;
        ulong seen = 0;
        while (next < 5000)
        {
            while (ring.TryPrepare(new IoUringSqe { Opcode = IoUringAbi.IORING_OP_NOP, UserData = next })) next++;
            int taken = ring.Enter(1);
            Assert.True(taken == 8 || taken == -Errno.EINTR, Errno.Name(taken));
            while (ring.TryReap(out IoUringCqe completion))
            {
                Assert.Equal(0, completion.Res);
                Assert.Equal(seen++, completion.UserData);
            }
        }
        Assert.Equal(next, seen);
        made.Close();
    }

    [Fact]
    public void Completion_ring_has_the_requested_size()
    {
        Assert.Equal(0, IoUring.Open(4, 0, 64, out IoUring? made));
        Assert.Equal(64u, made!.Ring.CompletionCapacity);
        made.Close();
    }

    [Fact]
    public void Flag_that_the_kernel_does_not_know_is_EINVAL_on_every_step()
    {
        Assert.Equal(-Errno.EINVAL, IoUring.Open(4, 1u << 31, 0, out IoUring? made));
        Assert.Null(made);
    }

    [Fact]
    public void Disabled_ring_starts_when_it_is_enabled()
    {
        Assert.Equal(0, IoUring.Open(4, IoUringAbi.IORING_SETUP_R_DISABLED, 0, out IoUring? made));
        made!.Ring.TryPrepare(new IoUringSqe { UserData = 1 });
        Assert.True(made.Ring.Enter(0) < 0);
        Assert.Equal(0, made.Enable());
        Assert.Equal(1, made.Ring.Enter(1));
        Assert.True(made.Ring.TryReap(out _));
        made.Close();
    }

    [Fact]
    public void Unmapped_memory_is_not_registered()
    {
        Assert.Equal(0, IoUring.Open(4, 0, 0, out IoUring? made));
        Assert.Equal(-Errno.EFAULT, made!.RegisterBuffer(Sizes.SystemPage, Sizes.SystemPage));
        made.Close();
    }
}
