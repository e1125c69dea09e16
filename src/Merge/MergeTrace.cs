using System;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Merge;

/// <summary>What a COW shows of merges.</summary>
public static class MergeTrace
{
    /// <summary>
    /// No merge of this very file has begun, for certain: its header is in order, its count is 0, and so is its state byte, whatever has become of the rest of the file. A merge makes the state byte durable before
    /// its first write to a base (design §5). False where the file cannot show it: in version 1, without scratch, or cut off before the state byte. Exit code 74 when the device fails.
    /// </summary>
    public static bool IsUntouched(IByteSource source)
    {
        try
        {
            CowHeader header = CowHeader.Parse(new WithoutEnd(source));
            ScratchLayout scratch = new(header.HeaderBytes, header.ScratchBytes);
            if (header.Major < 2 || header.NumMergeOps > 0 || scratch.Window == 0 || scratch.StateOffset >= source.Length) return false;
            Span<byte> state = stackalloc byte[1];
            source.Read(scratch.StateOffset, state);
            return state[0] == ScratchLayout.NeverUsed;
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.CowCorrupt)
        {
            return false;
        }
    }

    /// <summary>The same bytes, and as many more as anything could want, which are never read: a header is checked by itself.</summary>
    private sealed class WithoutEnd(IByteSource source) : IByteSource
    {
        public string Name => source.Name;

        public long Length => long.MaxValue;

        public void Read(long offset, Span<byte> destination)
        {
            if (offset > source.Length - destination.Length) throw new SnapuserdException(ExitCode.CowCorrupt, $"{source.Name}: the header is cut off");
            source.Read(offset, destination);
        }
    }
}
