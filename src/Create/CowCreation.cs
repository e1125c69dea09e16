using System;
using System.Numerics;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;

namespace Snapuserd.Create;

/// <summary>
/// Writes a plan with a COW writer: reads the bytes that the ops need from both images and passes them on in merge order.
/// </summary>
public static class CowCreation
{
    /// <summary>
    /// Blocks per call. The writer cuts units from chunks of this length, so a longer call would not make larger units (cow-format §7.3).
    /// </summary>
    public const int CallBlocks = 1024;

    /// <summary>
    /// Number of ops of <paramref name="plan"/> in a COW whose largest unit is <paramref name="maxUnitBytes"/>. A v3 file needs it as
    /// op_count_max.
    /// </summary>
    public static long CountOps(DiffPlan plan, int maxUnitBytes)
    {
        long ops = 0;
        int largest = maxUnitBytes / CowOp.BlockSize;
        for (int i = 0; i < plan.RunCount; i++)
        {
            DiffRun run = plan[i];
            ops += run.Type == CowOpType.Replace
                ? (run.Count / CallBlocks * Units(CallBlocks, largest)) + Units(run.Count % CallBlocks, largest)
                : run.Count;
        }
        return ops;
    }

    /// <summary>
    /// Writes every op of <paramref name="plan"/>, but does not finish the file. <paramref name="progress"/> receives the number of blocks
    /// done. Exit code 74 if an image or the output fails, 75 if asked to stop.
    /// </summary>
    public static void Write(DiffPlan plan, IImageReader source, IImageReader target, CowWriter writer, StopFlag stop,
        Action<long> progress)
    {
        int result = MappedMemory.Map(2 * CallBlocks * CowOp.BlockSize, out MappedMemory? memory);
        if (result < 0) throw new SnapuserdException(ExitCode.OutOfResources, $"cannot map buffers to write with: {Errno.Name(result)}");
        using (memory)
        {
            Span<byte> fresh = memory!.Span<byte>(0, CallBlocks * CowOp.BlockSize);
            Span<byte> old = memory.Span<byte>(CallBlocks * CowOp.BlockSize, CallBlocks * CowOp.BlockSize);
            long done = 0;
            for (int i = 0; i < plan.RunCount; i++)
            {
                DiffRun run = plan[i];
                for (int from = 0; from < run.Count; from += CallBlocks)
                {
                    if (stop.Requested) throw new SnapuserdException(ExitCode.Interrupted, "stopped; no COW was written");
                    int count = Math.Min(CallBlocks, run.Count - from);
                    Part(run, from, count, source, target, writer, fresh, old);
                    done += count;
                    progress(done);
                }
            }
        }
    }

    private static void Part(in DiffRun run, int from, int count, IImageReader source, IImageReader target, CowWriter writer,
        Span<byte> fresh, Span<byte> old)
    {
        uint block = run.NewBlock + (uint)from;
        Span<byte> data = fresh[..(count * CowOp.BlockSize)];
        switch (run.Type)
        {
            case CowOpType.Copy:
                writer.Copy(block, (ulong)(run.Source + from), count);
                break;
            case CowOpType.Zero:
                writer.Zero(block, count);
                break;
            case CowOpType.Replace:
                target.Read(block * (long)CowOp.BlockSize, data);
                writer.Replace(block, data);
                break;
            default:
                long sourceByte = run.Source + ((long)from * CowOp.BlockSize);
                target.Read(block * (long)CowOp.BlockSize, data);
                source.Read(sourceByte, old[..data.Length]);
                XorKernel.XorInto(data, old[..data.Length]);
                writer.Xor(block, (ulong)sourceByte, data);
                break;
        }
    }

    /// <summary>Units of a run: as many of the largest as fit, then one unit per power of two in the rest (cow-format §7.3).</summary>
    private static long Units(int blocks, int largest) => (blocks / largest) + BitOperations.PopCount((uint)(blocks % largest));
}
