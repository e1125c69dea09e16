using System;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Merge;

/// <summary>The evidence in a COW about the start of its merge: the rows of the table in docs/states.md.</summary>
public enum MergeStart
{
    /// <summary>
    /// No engine has begun: count 0, state 0, and the merge order starts with a Copy or Xor, before which Android's engine sets the state
    /// to 2. The base is the old image.
    /// </summary>
    NotBegun,
    /// <summary>
    /// Count 0 and state 0, but Android's engine leaves no other trace until it counts. This program has not begun. The state of the base
    /// is unknown.
    /// </summary>
    NotBegunHere,
    /// <summary>A merge has begun: a count above 0, or a state other than 0. At count 0 the base may still be the old image.</summary>
    Begun,
    /// <summary>The COW shows nothing: version 1, no scratch, or cut off before the state byte. The state of the base is unknown.</summary>
    NotShown,
}

/// <summary>Reads from a COW whether its merge has begun.</summary>
public static class MergeTrace
{
    /// <summary>Looks up the evidence in the table of docs/states.md.</summary>
    /// <param name="count">Header field num_merge_ops.</param>
    /// <param name="state">The scratch state byte; null if the file has none.</param>
    /// <param name="orderedFirst">The first op of the merge order is a Copy or Xor; false also if that cannot be known.</param>
    public static MergeStart Of(ulong count, byte? state, bool orderedFirst) => (count, state) switch
    {
        (0, null) => MergeStart.NotShown,
        (0, ScratchLayout.NeverUsed) => orderedFirst ? MergeStart.NotBegun : MergeStart.NotBegunHere,
        _ => MergeStart.Begun,
    };

    /// <summary>
    /// The evidence in <paramref name="source"/>. <paramref name="cow"/> is the COW read from it; null if not all of its ops can be read,
    /// in which case the first may still be readable. Exit code 65 if the header is damaged; 74 if the device fails.
    /// </summary>
    public static MergeStart Of(IByteSource source, CowFile? cow)
    {
        CowHeader header = cow?.Header ?? CowHeader.Parse(new WithoutEnd(source));
        ScratchLayout scratch = new(header.HeaderBytes, header.ScratchBytes);
        byte? state = null;
        if (header.Major >= 2 && scratch.Window > 0 && scratch.StateOffset < source.Length)
        {
            Span<byte> one = stackalloc byte[1];
            source.Read(scratch.StateOffset, one);
            state = one[0];
        }
        return Of(header.NumMergeOps, state,
            cow != null ? cow.Order.Count > 0 && cow[cow.Order.OpIndex(0)].IsOrdered : CowFile.StartsOrdered(source, header));
    }

    /// <summary>
    /// The same bytes with an unlimited length, so that the header is not rejected because the file is too short for its contents. Bytes
    /// past the real end are never read.
    /// </summary>
    private sealed class WithoutEnd(IByteSource source) : IByteSource
    {
        public string Name => source.Name;

        public long Length => long.MaxValue;

        public void Read(long offset, Span<byte> destination)
        {
            if (offset < 0 || offset > source.Length - destination.Length)
                throw new CowCutOffException($"{source.Name} ends before byte {offset + destination.Length}");
            source.Read(offset, destination);
        }
    }
}
