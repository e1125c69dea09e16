using System;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Cow;
using Snapuserd.Create;
using Xunit;

namespace Snapuserd.Tests.Create;

/// <summary>A plain model of a plan, which applies one op after another in place.</summary>
internal static class NaivePlan
{
    private const int Size = 4096;

    /// <summary>Every op of the plan, one per block.</summary>
    public static List<DiffRun> Ops(DiffPlan plan)
    {
        var ops = new List<DiffRun>();
        for (int i = 0; i < plan.RunCount; i++)
        {
            DiffRun run = plan[i];
            Assert.True(run.Count > 0, $"run {i} is empty");
            for (int k = 0; k < run.Count; k++)
            {
                long source = run.Type switch
                {
                    CowOpType.Copy => run.Source + k,
                    CowOpType.Xor => run.Source + ((long)k * Size),
                    _ => run.Source,
                };
                ops.Add(new DiffRun(run.Type, run.NewBlock + (uint)k, source, 1));
            }
        }
        return ops;
    }

    /// <summary>
    /// Merges in place. The device first has the content of <paramref name="old"/>; if the new image is longer, the rest has arbitrary
    /// bytes. Ops read the device, with the changes of earlier ops. The payloads are made from the unchanged images, as the contract of a
    /// plan demands.
    /// </summary>
    public static byte[] Apply(DiffPlan plan, byte[] old, byte[] now)
    {
        byte[] device = new byte[Math.Max(old.Length, now.Length)];
        device.AsSpan().Fill(0xdb);
        old.CopyTo(device, 0);
        foreach (DiffRun op in Ops(plan))
        {
            Span<byte> destination = device.AsSpan((int)op.NewBlock * Size, Size);
            ReadOnlySpan<byte> wanted = now.AsSpan((int)op.NewBlock * Size, Size);
            switch (op.Type)
            {
                case CowOpType.Copy:
                    device.AsSpan((int)op.Source * Size, Size).ToArray().CopyTo(destination);
                    break;
                case CowOpType.Xor:
                    byte[] payload = XorPayload(op, old, now);
                    byte[] read = device.AsSpan((int)op.Source, Size).ToArray();
                    for (int i = 0; i < Size; i++) destination[i] = (byte)(read[i] ^ payload[i]);
                    break;
                case CowOpType.Replace:
                    wanted.CopyTo(destination);
                    break;
                case CowOpType.Zero:
                    destination.Clear();
                    break;
                default:
                    throw new ArgumentException($"a plan has no {op.Type}");
            }
        }
        return device[..now.Length];
    }

    /// <summary>The payload that the COW stores for an Xor.</summary>
    public static byte[] XorPayload(DiffRun op, byte[] old, byte[] now)
    {
        byte[] payload = now.AsSpan((int)op.NewBlock * Size, Size).ToArray();
        for (int i = 0; i < Size; i++) payload[i] ^= old[op.Source + i];
        return payload;
    }

    /// <summary>
    /// Checks the contract of a plan. No op reads a block that an earlier op writes. Each changed block has one op, and unchanged blocks
    /// have none. Sources lie inside the old image, the counts are right, and the merge gives the new image.
    /// </summary>
    public static void Check(DiffPlan plan, byte[] old, byte[] now)
    {
        List<DiffRun> ops = Ops(plan);
        var writtenAt = new Dictionary<long, int>();
        for (int position = 0; position < ops.Count; position++)
        {
            DiffRun op = ops[position];
            Assert.True(((long)op.NewBlock + 1) * Size <= now.Length, $"{op} is outside of the image");
            bool same = (op.NewBlock + 1L) * Size <= old.Length
                && now.AsSpan((int)op.NewBlock * Size, Size).SequenceEqual(old.AsSpan((int)op.NewBlock * Size, Size));
            Assert.False(same, $"{op} writes a block that is unchanged");
            foreach (long block in Reads(op))
            {
                Assert.True((block + 1) * Size <= old.Length, $"{op} reads outside of the old image");
                Assert.False(writtenAt.ContainsKey(block), $"{op} reads block {block}, which an earlier op writes");
            }
            Assert.True(writtenAt.TryAdd(op.NewBlock, position), $"{op} writes a block that has an op already");
        }

        int ordered = ops.TakeWhile(op => op.Type is CowOpType.Copy or CowOpType.Xor).Count();
        Assert.All(ops.Skip(ordered),
            op => Assert.True(op.Type is CowOpType.Replace or CowOpType.Zero, $"{op} comes after a Replace or Zero"));
        uint[] rest = ops.Skip(ordered).Select(op => op.NewBlock).ToArray();
        Assert.Equal(rest.Order(), rest);

        Assert.Equal(ops.Count(op => op.Type == CowOpType.Copy), plan.CopyBlocks);
        Assert.Equal(ops.Count(op => op.Type == CowOpType.Xor), plan.XorBlocks);
        Assert.Equal(ops.Count(op => op.Type == CowOpType.Replace), plan.ReplaceBlocks);
        Assert.Equal(ops.Count(op => op.Type == CowOpType.Zero), plan.ZeroBlocks);
        Assert.Equal((now.Length / Size) - ops.Count, plan.UnchangedBlocks);
        Assert.True(Apply(plan, old, now).AsSpan().SequenceEqual(now), "the plan does not lead to the new image");
    }

    /// <summary>The blocks that an op reads.</summary>
    public static IEnumerable<long> Reads(DiffRun op)
    {
        if (op.Type == CowOpType.Copy) yield return op.Source;
        if (op.Type != CowOpType.Xor) yield break;
        yield return op.Source / Size;
        if (op.Source % Size != 0) yield return (op.Source / Size) + 1;
    }

    /// <summary>The plan as text, for comparing two plans.</summary>
    public static string Print(DiffPlan plan) =>
        string.Join('\n', Enumerable.Range(0, plan.RunCount).Select(i => plan[i].ToString()));
}
