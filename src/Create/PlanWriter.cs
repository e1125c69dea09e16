using System;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>
/// Combines ops of consecutive blocks into runs and stores these in <paramref name="runs"/>. Without an array it only counts the runs, so
/// that the caller can allocate an array of exactly that length for a second pass.
/// </summary>
internal struct PlanWriter(NativeArray<PackedRun>? runs)
{
    private CowOpType _type;
    private long _block;
    private long _source;
    private int _count;

    /// <summary>Number of complete runs; the run that <see cref="Add"/> may still extend is not counted.</summary>
    public long Runs { get; private set; }

    /// <summary>Extends the current run by the op of one block, or starts a new run with it.</summary>
    public void Add(long block, PackedChange change)
    {
        long stride = change.Type switch { CowOpType.Copy => 1, CowOpType.Xor => CowOp.BlockSize, _ => 0 };
        long source = change.IsOrdered ? change.Source : 0;
        bool continues = _count is > 0 and < int.MaxValue && change.Type == _type && block == _block + _count
            && source == _source + (stride * _count);
        if (!continues)
        {
            End();
            (_type, _block, _source) = (change.Type, block, source);
        }
        _count++;
    }

    /// <summary>Completes the current run, if there is one. The caller does this after the last op.</summary>
    public void End()
    {
        if (_count == 0) return;
        if (runs != null) runs[Runs] = new PackedRun(_type, (uint)_block, _source, _count);
        Runs++;
        _count = 0;
    }
}
