using System;
using System.Collections.Generic;
using Snapuserd.Cow;

namespace Snapuserd.Tests.Support;

/// <summary>
/// The meaning of a COW in the simplest form: every op's result is computed from the untouched old image and written to its block. A merge
/// in a valid order gives the same result (cow-format §9), because no op reads data that an earlier op has overwritten. Independent of
/// src/Cow.
/// </summary>
public static class NaiveMerger
{
    /// <summary>
    /// The merged image; as long as <paramref name="old"/>. Of several Replace and Zero ops for one block, only the first has an effect.
    /// </summary>
    public static byte[] Merge(CowBuilder cow, byte[] old) => Merge(cow.Ops, old, old);

    /// <summary>The merged image for a separate source and base: blocks that no op writes come from <paramref name="baseImage"/>.</summary>
    public static byte[] Merge(IReadOnlyList<BuiltOp> ops, byte[] source, byte[] baseImage)
    {
        byte[] merged = (byte[])baseImage.Clone();
        var written = new HashSet<uint>();
        foreach (BuiltOp op in ops)
        {
            if (op.Type is CowOpType.Label or CowOpType.Sequence or CowOpType.Cluster) continue;
            if (!written.Add(op.NewBlock)) continue;
            Result(op, source).CopyTo(merged, (long)op.NewBlock * 4096);
        }
        return merged;
    }

    private static byte[] Result(BuiltOp op, byte[] source)
    {
        switch (op.Type)
        {
            case CowOpType.Copy:
                return source.AsSpan((int)op.Source * 4096, 4096).ToArray();
            case CowOpType.Replace:
                return (byte[])op.Plain!.Clone();
            case CowOpType.Zero:
                return new byte[4096];
            case CowOpType.Xor:
                byte[] bytes = source.AsSpan((int)op.Source, 4096).ToArray();
                for (int i = 0; i < bytes.Length; i++) bytes[i] ^= op.Plain![i];
                return bytes;
            default:
                throw new ArgumentException($"{op.Type} has no result");
        }
    }
}
