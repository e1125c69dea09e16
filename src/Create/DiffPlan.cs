using System;
using System.Runtime.InteropServices;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>
/// <paramref name="Count"/> consecutive ops of one kind: op k writes block <paramref name="NewBlock"/> + k. <paramref name="Source"/> is
/// what the first op reads: a block for Copy (op k reads block Source + k), a byte offset for Xor (op k reads from Source + 4096·k), else
/// 0. The payload of an Xor is the new block xor the bytes read; that of a Replace is the new block.
/// </summary>
public readonly record struct DiffRun(CowOpType Type, uint NewBlock, long Source, int Count);

/// <summary>
/// The ops that turn one image into another, in merge order. First come Copy and Xor, none of which reads what an earlier one has written,
/// then Zero and Replace by ascending block. Written in this order they need no sequence list (cow-format §9). Blocks without an op stay
/// unchanged.
/// </summary>
public sealed class DiffPlan : IDisposable
{
    private readonly NativeArray<PackedRun> _runs;

    internal DiffPlan(NativeArray<PackedRun> runs) => _runs = runs;

    /// <summary>Runs in the plan.</summary>
    public int RunCount => checked((int)_runs.Length);

    /// <summary>The run at a position of the order.</summary>
    public DiffRun this[int position] => _runs[position].Unpack();

    /// <summary>Unchanged blocks of the new image; they have no op.</summary>
    public long UnchangedBlocks { get; internal init; }

    /// <summary>Blocks copied from elsewhere in the old image.</summary>
    public long CopyBlocks { get; internal init; }

    /// <summary>Blocks that are similar to bytes of the old image.</summary>
    public long XorBlocks { get; internal init; }

    /// <summary>Blocks with their whole content in the COW.</summary>
    public long ReplaceBlocks { get; internal init; }

    /// <summary>Blocks of zeros.</summary>
    public long ZeroBlocks { get; internal init; }

    /// <summary>Copy and Xor ops that became Replace because they were part of a cycle; counted as Replace above.</summary>
    public long CyclesBroken { get; internal init; }

    /// <summary>Peak memory of the comparison outside the managed heap, in bytes.</summary>
    public long PeakNativeBytes { get; internal init; }

    /// <summary>Frees the runs.</summary>
    public void Dispose() => _runs.Dispose();
}

/// <summary>A <see cref="DiffRun"/> in 16 bytes: a system partition can have a run per block.</summary>
[StructLayout(LayoutKind.Sequential)]
internal readonly struct PackedRun(CowOpType type, uint newBlock, long source, int count)
{
    private const int TypeShift = 48;

    private readonly ulong _bits = (ulong)source <= PackedChange.SourceMask
        ? (ulong)source | ((ulong)type << TypeShift)
        : throw new ArgumentOutOfRangeException(nameof(source), $"{type} of block {newBlock}: source {source} does not fit");
    private readonly uint _newBlock = newBlock;
    private readonly int _count = count;

    public DiffRun Unpack() => new((CowOpType)(_bits >> TypeShift), _newBlock, (long)(_bits & PackedChange.SourceMask), _count);
}
