using System;
using Snapuserd.Block;

namespace Snapuserd.Merge;

/// <summary>Receives a chunk of the merged image. Chunks come in order and without gaps.</summary>
public delegate void ChunkSink(ReadOnlySpan<byte> chunk);

/// <summary>Reads the merged image from beginning to end, for `verify` and `extract`.</summary>
public static class MergedReading
{
    /// <summary>Passes the image to <paramref name="sink"/>. Exit code 75 if asked to stop.</summary>
    public static void Read(MergedImage image, StopFlag stop, IMergeObserver observer, ChunkSink sink)
    {
        int ops = image.Cow.Order.Count;
        observer.Progress(new MergeProgress(0, ops, 0, image.Length));
        for (long offset = 0; offset < image.Length;)
        {
            if (stop.Requested)
                throw new SnapuserdException(ExitCode.Interrupted, $"stopped at byte {offset} of {image.Length}; nothing was changed");
            ReadOnlySpan<byte> chunk = image.Read(offset);
            sink(chunk);
            offset += chunk.Length;
            observer.Progress(new MergeProgress((int)((double)offset / image.Length * ops), ops, offset, image.Length));
        }
    }
}
