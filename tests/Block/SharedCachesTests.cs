using System;
using System.IO;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>Two devices over one disk have two page caches.</summary>
public sealed class SharedCachesTests
{
    private static byte[] Read(BlockDevice device, long offset)
    {
        byte[] bytes = new byte[512];
        Assert.Equal(512, Libc.PRead(device.Fd, bytes, offset));
        return bytes;
    }

    [RootTheory]
    [InlineData(0, 512)]
    [InlineData(1024, 0)]
    [InlineData(0, 4096)]
    public void Data_written_through_one_loop_device_is_read_through_another_on_the_same_file(int sourceStart, int targetStart)
    {
        const int Size = 1 << 20;
        using TempFolder folder = new();
        byte[] old = new byte[Size], now = new byte[4096];
        Array.Fill(old, (byte)'o');
        Array.Fill(now, (byte)'n');
        File.WriteAllBytes(folder["disk"], old);
        using LoopDevice first = new(folder["disk"], "--offset", $"{sourceStart}"),
            second = new(folder["disk"], "--offset", $"{targetStart}");
        using BlockDevice source = BlockDevice.Open(first.Path, DeviceAccess.Read);
        using BlockDevice target = BlockDevice.Open(second.Path, DeviceAccess.Write);
        long at = 8192 + targetStart - sourceStart;
        Assert.Equal(old[..512], Read(source, at));
        Assert.Equal(now.Length, Libc.PWrite(target.Fd, now, 8192));
        // Shows why the product drops the cache: even after a flush, the cached page is still the old one.
        Assert.Equal(0, Libc.FSync(target.Fd));
        Assert.Equal(old[..512], Read(source, at));

        SharedCaches.MakeCoherent(source, target);
        Assert.Equal(now[..512], Read(source, at));
        Assert.Equal(now[..512], Read(target, 8192));
    }

    /// <summary>The cache of one device alone: of a mapping of another program, say.</summary>
    [RootFact]
    public void Dropped_cache_shows_what_was_written_through_another_device()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["disk"], new byte[1 << 20]);
        using LoopDevice first = new(folder["disk"]), second = new(folder["disk"]);
        using BlockDevice mapped = BlockDevice.Open(first.Path, DeviceAccess.Read);
        using BlockDevice target = BlockDevice.Open(second.Path, DeviceAccess.Write);
        Assert.Equal(new byte[512], Read(mapped, 8192));
        Assert.Equal(4096, Libc.PWrite(target.Fd, SomeBytes(), 8192));
        Assert.Equal(0, Libc.FSync(target.Fd));
        Assert.Equal(new byte[512], Read(mapped, 8192));
        BlockDevice.DropCache(mapped.Fd);
        Assert.Equal(SomeBytes()[..512], Read(mapped, 8192));
    }

    [Fact]
    public void File_is_coherent_with_itself()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["disk"], new byte[8192]);
        using BlockDevice source = BlockDevice.Open(folder["disk"], DeviceAccess.Read),
            target = BlockDevice.Open(folder["disk"], DeviceAccess.Write);
        Assert.Equal(4096, Libc.PWrite(target.Fd, SomeBytes(), 512));
        SharedCaches.MakeCoherent(source, target);
        Assert.Equal(SomeBytes()[..512], Read(source, 512));
    }

    private static byte[] SomeBytes()
    {
        byte[] bytes = new byte[4096];
        new Random(1).NextBytes(bytes);
        return bytes;
    }
}
