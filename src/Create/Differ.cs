using System;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>Finds out how one image is made from another.</summary>
public static class Differ
{
    /// <summary>Largest image in bytes: its blocks have 32-bit numbers (cow-format §12).</summary>
    public const long MaximumImageBytes = (1L << 32) * CowOp.BlockSize;

    /// <summary>
    /// Compares <paramref name="target"/> with <paramref name="source"/>; neither may change meanwhile. Exit code 64 for an image that is not
    /// whole blocks or too large, or options out of range, 71 without memory, 74 when reading fails, 75 when stopped.
    /// </summary>
    public static DiffPlan Compare(IImageReader source, IImageReader target, DiffOptions options)
    {
        CheckLength(source);
        CheckLength(target);
        throw new NotImplementedException();
    }

    private static void CheckLength(IImageReader image)
    {
        if (image.Length % CowOp.BlockSize != 0)
            throw new SnapuserdException(ExitCode.Usage, $"{image.Name} has {image.Length} bytes, which is not a multiple of {CowOp.BlockSize}");
        if (image.Length > MaximumImageBytes)
            throw new SnapuserdException(ExitCode.Usage, $"{image.Name} has {image.Length} bytes, more than the 16 TiB that a COW can describe");
    }
}
