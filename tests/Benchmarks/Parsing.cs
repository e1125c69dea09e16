using System;
using System.Buffers.Binary;
using System.IO;
using Snapuserd.Block;
using Snapuserd.Cow;

namespace Snapuserd.Tests.Benchmarks;

/// <summary>Reading and checking a COW with many ops, from memory: this measures only the program's own work.</summary>
internal static class Parsing
{
    private const int HeaderBytes = 78;
    private const int OpBytes = 16;
    private const int ResumePoints = 4;

    internal static void Run(TextWriter output, int ops, int turns)
    {
        byte[] file = Build(ops);
        byte[] copy = new byte[file.Length];
        var source = new Source(file);
        (Times, Times) times = Turns.Measure(
            () => file.CopyTo(copy, 0),
            () =>
            {
                using CowFile cow = CowFile.Read(source);
                cow.Order.Check(sharedDevices: true, default);
                if (cow.OpCount != ops) throw new InvalidOperationException($"{cow.OpCount} ops");
            },
            turns);
        Turns.Print(output, $"{ops} ops, order checked", "memcpy of them", times, ops / 1e6, "M ops/s");
    }

    /// <summary>
    /// A v3 file without scratch and payloads (cow-format §6.6): half of the blocks are copied from the following block, the others become
    /// zero.
    /// </summary>
    private static byte[] Build(int ops)
    {
        byte[] file = new byte[HeaderBytes + (16 * ResumePoints) + (OpBytes * ops)];
        Span<byte> header = file;
        BinaryPrimitives.WriteUInt64LittleEndian(header, CowHeader.Magic);
        BinaryPrimitives.WriteUInt16LittleEndian(header[8..], 3);
        BinaryPrimitives.WriteUInt16LittleEndian(header[12..], HeaderBytes);
        BinaryPrimitives.WriteUInt16LittleEndian(header[16..], OpBytes);
        BinaryPrimitives.WriteUInt32LittleEndian(header[18..], CowOp.BlockSize);
        BinaryPrimitives.WriteUInt32LittleEndian(header[50..], ResumePoints);
        BinaryPrimitives.WriteUInt64LittleEndian(header[54..], (ulong)ops);
        BinaryPrimitives.WriteUInt64LittleEndian(header[62..], (ulong)ops);
        BinaryPrimitives.WriteUInt32LittleEndian(header[74..], CowOp.BlockSize);
        for (int i = 0; i < ops; i++)
        {
            Span<byte> op = file.AsSpan(HeaderBytes + (16 * ResumePoints) + (OpBytes * i));
            bool copies = i < ops / 2;
            BinaryPrimitives.WriteUInt32LittleEndian(op[4..], (uint)i);
            // A chain shifted by one block: every copy reads the block that the next one writes.
            BinaryPrimitives.WriteUInt64LittleEndian(op[8..],
                copies ? ((ulong)CowOpType.Copy << 60) | (uint)(i + 1) : (ulong)CowOpType.Zero << 60);
        }
        return file;
    }

    private sealed class Source(byte[] bytes) : IByteSource
    {
        public string Name => "bench.cow";

        public long Length => bytes.Length;

        public void Read(long offset, Span<byte> destination) => bytes.AsSpan((int)offset, destination.Length).CopyTo(destination);
    }
}
