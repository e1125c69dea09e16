using System;
using Snapuserd.Interop;
using Snapuserd.Serve;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Serve;

/// <summary>Tests the largest values of packed fields, and offsets made of several fields.</summary>
public sealed class PackedTests
{
    [Fact]
    public void Ublk_offsets_of_the_last_queue_and_tag_do_not_overlap_others()
    {
        // The maximum of the kernel's interface: 12 bits for the queue, 16 for the tag (of which it uses 12), and 25 for the byte.
        const int queue = 4095, tag = UblkAbi.UBLK_MAX_QUEUE_DEPTH - 1;
        long last = UblkAbi.UserCopyOffset(queue, tag);
        Assert.Equal(UblkAbi.UserCopyOffset(0, 0) + ((long)queue << 41) + ((long)tag << 25), last);
        Assert.Equal(1L << 25, last - UblkAbi.UserCopyOffset(queue, tag - 1));
        Assert.True(UblkAbi.UserCopyOffset(queue, 0) - UblkAbi.UserCopyOffset(queue - 1, tag) >= 1L << 25);
        Assert.True(last > 0 && last + (1L << 25) < 1L << 54, $"{last}");
        // A dead server may leave a device of any geometry. A device that exceeds these limits is not taken over.
        Assert.True(new UblkGeometry(queue + 1, tag + 1, 32 << 20, 1).IsSane(4096));
        Assert.False(new UblkGeometry(queue + 2, tag + 1, 4096, 1).IsSane(4096));
        Assert.False(new UblkGeometry(1, tag + 2, 4096, 1).IsSane(4096));
        Assert.False(new UblkGeometry(1, 1, (32 << 20) + 512, 1).IsSane(4096));
    }

    [Fact]
    public void Nbd_request_holds_the_largest_value_of_every_field()
    {
        byte[] bytes = NbdClient.Request(ushort.MaxValue, ulong.MaxValue, ulong.MaxValue, uint.MaxValue, ushort.MaxValue);
        Assert.Null(NbdRequest.Parse(bytes, out NbdRequest request));
        Assert.Equal(new NbdRequest(ushort.MaxValue, ushort.MaxValue, ulong.MaxValue, ulong.MaxValue, uint.MaxValue), request);
    }

    /// <summary>
    /// Linux (ublk_ch_mmap) expects the descriptors of queue N at N times the mapping size of the deepest queue, and accepts only the
    /// length of the actual queue, rounded up to pages.
    /// </summary>
    [Theory]
    [InlineData(4 << 10, 96 << 10)]
    [InlineData(16 << 10, 96 << 10)]
    [InlineData(64 << 10, 128 << 10)]
    public void Descriptor_offset_of_a_ublk_queue_matches_the_kernels_page_size(int page, int stride)
    {
        foreach (int queue in (ReadOnlySpan<int>)[0, 1, 2, 3, 4, 63, UblkAbi.UBLK_MAX_NR_QUEUES - 1])
        {
            long offset = UblkAbi.DescriptorOffset(queue, page);
            Assert.Equal(UblkAbi.UBLKSRV_CMD_BUF_OFFSET + ((long)queue * stride), offset);
            // mmap accepts only page-aligned offsets.
            Assert.Equal(0, offset % page);
            Assert.True(offset < UblkAbi.UBLKSRV_IO_BUF_OFFSET);
        }
        foreach (int depth in (ReadOnlySpan<int>)[1, 64, 170, 171, 128, 683, 2731, UblkAbi.UBLK_MAX_QUEUE_DEPTH])
        {
            nint length = UblkAbi.DescriptorLength(depth, page);
            Assert.Equal((depth * 24) + page - 1 - (((depth * 24) + page - 1) % page), length);
            Assert.True(length <= stride);
        }
    }
}
