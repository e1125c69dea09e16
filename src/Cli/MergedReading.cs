using System;
using Snapuserd.Block;
using Snapuserd.Merge;

namespace Snapuserd.Cli;

/// <summary>Takes a chunk of the merged image; chunks come in order and leave no gap.</summary>
internal delegate void ChunkSink(ReadOnlySpan<byte> chunk);

/// <summary>Reads the merged image from beginning to end, for `verify` and `extract`.</summary>
internal static class MergedReading
{
    /// <summary>Hands the image to <paramref name="sink"/>. <paramref name="check"/> sees the devices before anything is read.</summary>
    internal static void Read(Invocation invocation, ProgressObserver observer, ChunkSink sink, Action<DeviceSet>? check = null)
    {
        using var devices = new DeviceSet(invocation, writes: false);
        check?.Invoke(devices);
        using MergedImage image = MergedImage.Open(devices.Setup);
        int ops = image.Cow.Order.Count;
        for (long offset = 0; offset < image.Length;)
        {
            if (devices.Setup.Stop.Requested) throw new SnapuserdException(ExitCode.Interrupted, $"stopped at byte {offset} of {image.Length}; nothing was changed");
            ReadOnlySpan<byte> chunk = image.Read(offset);
            sink(chunk);
            offset += chunk.Length;
            observer.Progress(new MergeProgress((int)((double)offset / image.Length * ops), ops, offset, image.Length));
        }
    }
}
