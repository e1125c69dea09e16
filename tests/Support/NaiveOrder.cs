using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Cow;

namespace Snapuserd.Tests.Support;

/// <summary>A second implementation of the merge order and its rules, directly from cow-format §9 and in quadratic time.</summary>
public static class NaiveOrder
{
    /// <summary>Indices of data ops in merge order.</summary>
    public static int[] Of(CowBuilder cow)
    {
        BuiltOp[] ops = Data(cow);
        uint[] list = cow.Ops.Where(op => op.Type == CowOpType.Sequence).SelectMany(op => op.Blocks!).ToArray();
        bool sequenced = cow.Version == 3 ? list.Length > 0 : cow.Ops.Any(op => op.Type == CowOpType.Sequence);
        int First(uint block) => Array.FindIndex(ops, op => op.NewBlock == block);
        IEnumerable<uint> blocks;
        if (sequenced) blocks = list.Concat(ops.Select(op => op.NewBlock).Where(block => !list.Contains(block)).OrderBy(block => block));
        else if (cow.Version == 3) blocks = ops.Select(op => op.NewBlock);
        else
            blocks = ops.Where(Ordered).Select(op => op.NewBlock)
                .Concat(ops.Where(op => !Ordered(op)).Select(op => op.NewBlock).OrderBy(block => block));
        return blocks.Select(First).ToArray();
    }

    /// <summary>The safe-from count of each op; -1 if the op writes nothing. Null if the ops must be refused.</summary>
    public static int[]? Limits(CowBuilder cow, bool shared)
    {
        BuiltOp[] ops = Data(cow);
        foreach (BuiltOp a in ops)
        {
            foreach (BuiltOp b in ops)
            {
                if (ReferenceEquals(a, b)) continue;
                if (a.NewBlock == b.NewBlock) { if (Ordered(a) || Ordered(b)) return null; }
                else if (IsFirst(ops, a) && IsFirst(ops, b) && a.NewBlock < b.NewBlock && a.NewBlock + Blocks(a) > b.NewBlock) return null;
            }
        }
        int[] order = Of(cow);
        int[] limits =
            order.Select((index, position) => Array.IndexOf(order, index) < position || (shared && IsNoOp(ops[index])) ? -1 : 0).ToArray();
        if (!shared) return limits;
        for (int reader = 0; reader < order.Length; reader++)
        {
            BuiltOp op = ops[order[reader]];
            if (!Ordered(op) || IsNoOp(op)) continue;
            ulong from = op.Type == CowOpType.Copy ? op.Source * 4096 : op.Source;
            for (int writer = 0; writer < order.Length; writer++)
            {
                BuiltOp other = ops[order[writer]];
                bool touches = other.NewBlock * 4096ul < from + 4096 && (other.NewBlock + (ulong)Blocks(other)) * 4096 > from;
                if (!touches || IsNoOp(other)) continue;
                if (writer < reader) return null;
                if (limits[writer] >= 0) limits[writer] = Math.Max(limits[writer], reader + 1);
            }
        }
        return limits;
    }

    private static BuiltOp[] Data(CowBuilder cow) => cow.Ops.Where(op => op.Type is not (CowOpType.Label or CowOpType.Sequence)).ToArray();

    private static bool Ordered(BuiltOp op) => op.Type is CowOpType.Copy or CowOpType.Xor;

    private static bool IsNoOp(BuiltOp op) => op.Type == CowOpType.Copy && op.Source == op.NewBlock;

    private static bool IsFirst(BuiltOp[] ops, BuiltOp op) => ReferenceEquals(Array.Find(ops, other => other.NewBlock == op.NewBlock), op);

    private static int Blocks(BuiltOp op) => op.Type == CowOpType.Replace ? op.Plain!.Length / 4096 : 1;
}
