using System;
using Snapuserd.Cow;

namespace Snapuserd.Create;

/// <summary>Combines single ops into runs. It runs twice: first to count the runs, so that the array has the exact size.</summary>
internal struct PlanWriter(NativeArray<PackedRun>? runs)
{
    private CowOpType _type;
    private long _block;
    private long _source;
    private int _count;

    /// <summary>Runs so far, without the open one.</summary>
    public long Runs { get; private set; }

    /// <summary>Adds the op of one block.</summary>
    public void Add(long block, PackedChange change)
    {
        long stride = change.Type switch { CowOpType.Copy => 1, CowOpType.Xor => CowOp.BlockSize, _ => 0 };
        long source = change.IsOrdered ? change.Source : 0;
        bool goesOn = _count is > 0 and < int.MaxValue && change.Type == _type && block == _block + _count
            && source == _source + (stride * _count);
        if (!goesOn)
        {
            End();
            (_type, _block, _source) = (change.Type, block, source);
        }
        _count++;
    }

    /// <summary>Ends the open run.</summary>
    public void End()
    {
        if (_count == 0) return;
        if (runs != null) runs[Runs] = new PackedRun(_type, (uint)_block, _source, _count);
        Runs++;
        _count = 0;
    }
}
