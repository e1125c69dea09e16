using System;
using System.Buffers.Binary;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Merge;

namespace Snapuserd.Cli;

/// <summary>
/// A COW whose merge has begun and is not done is the only file that can finish its base. Nothing that this program writes takes its place.
/// </summary>
internal static class BegunCow
{
    /// <summary>Exit code 65 if <paramref name="path"/> holds a begun COW. What is no COW, an untouched one or a merged one may be replaced.</summary>
    internal static void Refuse(string path)
    {
        string? why;
        try
        {
            using CowInput input = new(path);
            why = Why(input.Source);
        }
        catch (SnapuserdException e) when (e.Code is ExitCode.CowCorrupt or ExitCode.InputMissing)
        {
            // Without a header that can be read there is no merge that could go on.
            return;
        }
        if (why != null)
        {
            throw new SnapuserdException(ExitCode.CowCorrupt,
                $"{path} is a COW whose merge has begun ({why}): it is the only file that can finish its base, and is not replaced; finish it (snapuserd merge), or write to another file");
        }
    }

    /// <summary>How the merge stands, as a clause; null unless it has begun and is not done: the count is above 0, or the scratch state is not 0, or the magic says that a block is being overwritten.</summary>
    private static string? Why(IByteSource source)
    {
        Span<byte> magic = stackalloc byte[sizeof(ulong)];
        if (source.Length < magic.Length) return null;
        source.Read(0, magic);
        if (BinaryPrimitives.ReadUInt64LittleEndian(magic) == CowHeader.UnsafeMagic) return "it was killed while it overwrote a block without scratch";
        CowHeader header = CowHeader.Parse(source);
        int state = 0;
        if (header.Major >= 2 && header.ScratchBytes > 0)
        {
            Span<byte> one = stackalloc byte[1];
            source.Read(new ScratchLayout(header.HeaderBytes, header.ScratchBytes).StateOffset, one);
            state = one[0];
        }
        if (header.Major < 2 || (header.NumMergeOps == 0 && state == ScratchLayout.NeverUsed)) return null;
        try
        {
            using CowFile cow = CowFile.Read(source);
            return header.NumMergeOps >= (ulong)cow.Order.Count ? null : $"{header.NumMergeOps} of {cow.Order.Count} ops are merged";
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.CowCorrupt)
        {
            return $"{header.NumMergeOps} ops are merged, and its ops are damaged";
        }
    }
}
