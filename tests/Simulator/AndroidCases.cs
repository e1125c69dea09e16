using System.Collections.Generic;
using Snapuserd.Cow;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Simulator;

/// <summary>
/// Small random merges that Android supports: ordered ops first, none reading what an earlier op writes, and no Xor in place without
/// scratch.
/// </summary>
public static class AndroidCases
{
    private sealed record Op(CowOpType Type, int NewBlock, long SourceByte, int Blocks)
    {
        public bool Reads(int block) => Type is CowOpType.Copy or CowOpType.Xor && block >= SourceByte / Page.Size
            && block <= (SourceByte + Page.Size - 1) / Page.Size;
    }

    /// <summary>The merge that a seed selects.</summary>
    public static MergeCase Random(ulong seed)
    {
        Chance chance = new(seed * 77777);
        int blocks = 6 + chance.Below(14), window = 1 + chance.Below(4), shift = chance.Below(5) - 2;
        bool v3 = chance.Percent(60), scratch = chance.Percent(85), clustered = chance.Percent(60), listed = chance.Percent(50)
            && (v3 || clustered);
        CowCompression compression = (CowCompression)chance.Below(5);
        byte[] old = SmallCases.Random((long)seed, blocks);
        List<Op> ordered = [], others = [];
        int unmapped = 10 + chance.Below(30), plain = 10 + chance.Below(40);
        for (int block = 0; block < blocks; block++)
        {
            if (chance.Percent(unmapped)) continue;
            // Shifts by the same distance create the chains that windows are made for.
            int source = chance.Percent(60) ? (block + shift + blocks) % blocks : chance.Below(blocks);
            if (chance.Percent(plain))
            {
                int unit = v3 && block + 2 <= blocks && chance.Percent(40) ? 2 : 1;
                others.Add(chance.Percent(60) ? new Op(CowOpType.Replace, block, 0, unit) : new Op(CowOpType.Zero, block, 0, unit = 1));
                block += unit - 1;
            }
            else if (chance.Percent(50)) ordered.Add(new Op(CowOpType.Copy, block, source * Page.Size, 1));
            else
            {
                int from = chance.Percent(30) ? block : source;
                long odd = chance.Percent(50) && from + 1 < blocks ? 1 + chance.Below(Page.Size - 1) : 0;
                ordered.Add(new Op(CowOpType.Xor, block, (from * Page.Size) + odd, 1));
            }
        }
        if (!scratch)
            foreach (Op op in ordered.FindAll(op => op.Type == CowOpType.Xor && op.Reads(op.NewBlock))) Give(op);
        Shuffle(ordered, chance);
        List<Op> order = [];
        while (ordered.Count > 0)
        {
            // A block may be overwritten once no other op reads it. In a cycle, one op has to carry its data itself instead.
            int free = ordered.FindIndex(op => !ordered.Exists(other => other != op && other.Reads(op.NewBlock)));
            if (free < 0) { Give(ordered[0]); continue; }
            order.Add(ordered[free]);
            ordered.RemoveAt(free);
        }
        Shuffle(others, chance);

        CowBuilder cow = new()
        {
            Version = v3 ? 3 : 2,
            ScratchBytes = scratch ? SmallCases.ScratchFor(window) : 0,
            ClusterOps = !v3 && clustered ? 2 + chance.Below(6) : 0,
            Compression = compression,
            MaxUnitBytes = 8192,
        };
        List<Op> file = [.. order, .. others];
        if (listed && order.Count > 0)
        {
            cow.Sequence([.. order.ConvertAll(op => (uint)op.NewBlock)]);
            Shuffle(file, chance);
        }
        foreach (Op op in file)
        {
            switch (op.Type)
            {
                case CowOpType.Copy: cow.Copy((uint)op.NewBlock, (ulong)op.SourceByte / Page.Size); break;
                case CowOpType.Xor: cow.Xor((uint)op.NewBlock, (ulong)op.SourceByte, Payload(1)); break;
                case CowOpType.Zero: cow.Zero((uint)op.NewBlock); break;
                default: cow.Replace((uint)op.NewBlock, Payload(op.Blocks)); break;
            }
        }
        MergeOptions options = new() { VerifyFirst = false, CheckpointBytes = (1 + chance.Below(6)) * Page.Size };
        return new MergeCase($"random {seed}", new Image(cow.Build()), new Image(old), new Image(NaiveMerger.Merge(cow, old)))
        {
            Options = options,
            QueueDepth = 1 + chance.Below(8),
        };

        void Give(Op op)
        {
            ordered.Remove(op);
            others.Add(op with { Type = CowOpType.Replace });
        }

        byte[] Payload(int count)
        {
            byte[] bytes = new byte[count * Page.Size];
            // Half of the payloads compress, so that there are raw and compressed units.
            int step = chance.Percent(50) ? 1 : 64;
            for (int i = 0; i < bytes.Length; i += step) bytes[i] = (byte)chance.Next();
            return bytes;
        }
    }

    private static void Shuffle<T>(List<T> list, Chance chance)
    {
        for (int i = list.Count - 1; i > 0; i--)
        {
            int other = chance.Below(i + 1);
            (list[i], list[other]) = (list[other], list[i]);
        }
    }
}
