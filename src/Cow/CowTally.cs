using System.Collections.Generic;

namespace Snapuserd.Cow;

/// <summary>
/// A point at which an interrupted writer may continue, because the <paramref name="OpIndex"/> ops before it are on disk (cow-format §8).
/// </summary>
public readonly record struct ResumePoint(ulong Label, ulong OpIndex);

/// <summary>How a file's merge order is derived (cow-format §9).</summary>
internal enum OrderRule
{
    /// <summary>v1 and v2 without Sequence ops: ordered ops in file order, then the others by block.</summary>
    OrderedFirst,
    /// <summary>The listed blocks, then all other ops by block.</summary>
    Listed,
    /// <summary>v3 without a list: file order.</summary>
    FileOrder,
}

/// <summary>Counts of an op reader; mutable while reading, passed to <see cref="CowFile"/> at the end.</summary>
internal sealed class CowTally
{
    /// <summary>v2: records of any type.</summary>
    public long Records;
    public int Ops, Sequence;
    public int Copy, Replace, Zero, Xor;
    public long ReplaceBlocks;
    public int Labels, Clusters, SequenceOps;
    public ulong? LastLabel;
    public CowCompression Compression;
    public int MaxBlocks = 1;
    public int MaxStored;
    public OrderRule Rule;
    /// <summary>The op that writes furthest into the base, and the op that reads furthest into the source; -1 if there is none.</summary>
    public int FurthestWrite = -1, FurthestRead = -1;
    /// <summary>The ends, in bytes, of the furthest write and of the furthest read.</summary>
    public long WriteEnd, ReadEnd;
    public List<ResumePoint> ResumePoints = [];
    /// <summary>v3: end of the ops' data, in bytes.</summary>
    public long DataEnd;
    /// <summary>
    /// v2, for a writer that continues: location of the next op and its data; used slots and data bytes of the open cluster.
    /// </summary>
    public long NextOp, NextData, ClusterSlots, ClusterData;
    /// <summary>v2: location of the footer.</summary>
    public long Footer;

    /// <summary>Counts the data op with index <see cref="Ops"/>. Its values must have been checked.</summary>
    public void Count(in CowOp op)
    {
        switch (op.Type)
        {
            case CowOpType.Copy: Copy++; break;
            case CowOpType.Replace: Replace++; ReplaceBlocks += op.Blocks; break;
            case CowOpType.Zero: Zero++; break;
            case CowOpType.Xor: Xor++; break;
        }
        if (op.Blocks > MaxBlocks) MaxBlocks = op.Blocks;
        if (op.HasData && op.DataLength > MaxStored) MaxStored = op.DataLength;
        long writeEnd = (op.NewBlock + (long)op.Blocks) * CowOp.BlockSize;
        if (writeEnd > WriteEnd) { WriteEnd = writeEnd; FurthestWrite = Ops; }
        if (op.IsOrdered && op.SourceByte + CowOp.BlockSize > ReadEnd) { ReadEnd = op.SourceByte + CowOp.BlockSize; FurthestRead = Ops; }
        Ops++;
    }
}
