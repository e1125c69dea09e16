using System;
using Snapuserd.Cow;
using Snapuserd.Create;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Create;

/// <summary>The merge engine's forecast for a plan, which is written as a COW without a sequence list.</summary>
internal static class Forecast
{
    public static MergeForecast Of(DiffPlan plan, byte[] old, byte[] now)
    {
        var cow = new CowBuilder { MaxUnitBytes = 4096 };
        foreach (DiffRun op in NaivePlan.Ops(plan))
        {
            switch (op.Type)
            {
                case CowOpType.Copy: cow.Copy(op.NewBlock, (ulong)op.Source); break;
                case CowOpType.Xor: cow.Xor(op.NewBlock, (ulong)op.Source, NaivePlan.XorPayload(op, old, now)); break;
                case CowOpType.Replace: cow.Replace(op.NewBlock, now.AsSpan((int)op.NewBlock * 4096, 4096)); break;
                case CowOpType.Zero: cow.Zero(op.NewBlock); break;
            }
        }
        using CowFile file = CowFile.Read(new MemorySource(cow.Build()));
        return MergeForecast.Of(file);
    }
}
