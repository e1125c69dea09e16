using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>The writer's limits, exact to the byte: the end of a device, and the last byte that the format can address.</summary>
public sealed class WriterLimitTests
{
    private const long Max48 = (1L << 48) - 1;

    /// <summary>A file of 2^49 zeros with some records at their offsets. It discards everything that is written.</summary>
    private sealed class Vast : ICowOutput
    {
        private readonly Dictionary<long, byte[]> _records = [];

        public string Name => "vast.cow";

        public long Length => 1L << 49;

        public long? Capacity => null;

        public void Put(long offset, byte[] record) => _records[offset] = record;

        public void Read(long offset, Span<byte> destination)
        {
            destination.Clear();
            if (_records.TryGetValue(offset, out byte[]? record))
                record.AsSpan(0, Math.Min(record.Length, destination.Length)).CopyTo(destination);
        }

        public void Write(long offset, ReadOnlySpan<byte> bytes) { }

        public void Flush() { }

        public void Truncate(long length) { }
    }

    /// <summary>A version 3 file with a long list and a few bytes of scratch, so that the data begins at <paramref name="end"/>.</summary>
    private static Vast Version3(long end)
    {
        byte[] header = new CowBuilder { ScratchBytes = 0, MaxUnitBytes = 4096, OpCountMaxSlack = 4, ResumeMax = 0 }.Build()[..78];
        long rest = end - 78 - (4 * 16);
        Refusal.Put(header, 34, 4, (ulong)(rest % 4));
        Refusal.Put(header, 38, 8, (ulong)(rest / 4));
        Vast file = new();
        file.Put(0, header);
        return file;
    }

    /// <summary>A version 2 file with clusters of many gigabytes, so that the next op goes to <paramref name="next"/>.</summary>
    private static Vast Version2(long next)
    {
        const int Clusters = 4000;
        long rest = next - 38, slots = rest / (20L * Clusters), scratch = rest - (slots * 20 * Clusters);
        byte[] header = new CowBuilder { Version = 2, ScratchBytes = 0, ClusterOps = 4 }.Build()[..38];
        Refusal.Put(header, 22, 4, (ulong)slots);
        Refusal.Put(header, 34, 4, (ulong)scratch);
        Vast file = new();
        file.Put(0, header);
        byte[] cluster = new byte[20], footer = new byte[84];
        cluster[0] = (byte)CowOpType.Cluster;
        Refusal.Put(cluster, 12, 8, (ulong)((slots - 1) * 20));
        // One more Cluster op than full clusters: the writer reopens the last cluster, which was closed only for the footer.
        for (int i = 0; i <= Clusters; i++) file.Put(38 + scratch + (i * slots * 20), cluster);
        footer[0] = (byte)CowOpType.Footer;
        Refusal.Put(footer, 4, 8, 20ul * (Clusters + 1));
        Refusal.Put(footer, 12, 8, Clusters + 1);
        file.Put(next + (slots * 20), footer);
        return file;
    }

    private static void AssertTakes(bool takes, ICowOutput output, int version, long end, Action<CowWriter> call)
    {
        using CowWriter writer = CowWriter.Reopen(output, new CowWriterOptions { Version = version });
        if (takes)
        {
            call(writer);
            Assert.Equal(end, writer.Size);
            return;
        }
        Refusal.With(ExitCode.InputOutput, $"vast.cow: the file would have {end} bytes, more than the format can address", () =>
        {
            call(writer);
            _ = writer.Size;
        });
    }

    [Theory]
    [InlineData(Max48, true)]
    [InlineData(Max48 + 1, false)]
    public void File_may_end_at_the_largest_48_bit_offset_but_not_after_it(long end, bool takes)
    {
        AssertTakes(takes, Version3(end), 3, end, writer => writer.Zero(1));
        AssertTakes(takes, Version3(end), 3, end, writer => writer.Copy(1, 2));
        AssertTakes(takes, Version3(end - 4096), 3, end, writer => writer.Replace(1, new byte[4096]));
        AssertTakes(takes, Version3(end - 4096), 3, end, writer => writer.Xor(1, 5, new byte[4096]));
        // Space for one op and the footer.
        AssertTakes(takes, Version2(end - 84 - 20), 2, end, writer => writer.Zero(1));
        AssertTakes(takes, Version2(end - 84 - 40), 2, end, writer => writer.Copy(1, 2, 2));
    }

    [Fact]
    public void File_with_2_to_the_31_ops_is_refused()
    {
        Vast Of(ulong count)
        {
            byte[] header = new CowBuilder { ScratchBytes = 0, MaxUnitBytes = 4096 }.Build()[..78];
            Refusal.Put(header, 54, 8, count);
            Refusal.Put(header, 62, 8, uint.MaxValue);
            Vast file = new();
            file.Put(0, header);
            return file;
        }
        const ulong Many = 1ul << 31;
        Refusal.With(ExitCode.CowCorrupt, "vast.cow: header: a count is 2147483648, more than the 2147483647 this program takes",
            () => CowFile.Read(Of(Many)).Dispose());
        Refusal.With(ExitCode.CowCorrupt, "vast.cow: header: op_count is 2147483648, more than the 2147483647 this program takes",
            () => CowWriter.Reopen(Of(Many), new CowWriterOptions()).Dispose());
        Refusal.With(ExitCode.CowCorrupt, "vast.cow: op 0 (block 0): type is 0",
            () => CowWriter.Reopen(Of(Many - 1), new CowWriterOptions()).Dispose());
    }

    private static readonly byte[] s_noise = Enumerable.Range(0, 3 * 4096).Select(i => (byte)((i * i) >> 7)).ToArray();

    /// <summary>Makes the given calls, one per letter.</summary>
    private static void Write(ICowOutput output, CowWriterOptions options, string calls)
    {
        using CowWriter writer = CowWriter.Create(output, options);
        uint block = 0;
        foreach (char call in calls)
        {
            switch (call)
            {
                case 'z': writer.Zero(block++); break;
                case 'c': writer.Copy(block++, 100); break;
                case 'r': writer.Replace(block++, s_noise.AsSpan(0, 4096)); break;
                case 'x': writer.Xor(block++, 5, s_noise.AsSpan(4096, 4096)); break;
                case 's': writer.Sequence([0, 1]); break;
                default: writer.Label(block); break;
            }
        }
        writer.Finish();
    }

    public static TheoryData<int, int, string> Programs
    {
        get
        {
            TheoryData<int, int, string> programs = [];
            foreach ((int version, int cluster) in new[] { (2, 0), (2, 2), (2, 3), (2, 4), (2, 7), (3, 1) })
                foreach (string calls in new[] { "", "z", "zz", "zzz", "zzzz", "zzzzz", "c", "cc", "r", "rr", "rz", "zr", "zzr", "rzz", "x",
                    "zx", "l", "zl", "zzl", "zzzl", "rl", "zlr", "rrrrlz", "zzrzzx" })
                    programs.Add(version, cluster, calls);
            foreach (string calls in new[] { "scc", "sxcl", "sccrl" }) programs.Add(2, 4, calls);
            return programs;
        }
    }

    /// <summary>A device of exactly the file's length is large enough, and one byte less is not.</summary>
    [Theory]
    [MemberData(nameof(Programs))]
    public void Device_of_the_length_of_the_file_suffices_and_one_byte_less_does_not(int version, int cluster, string calls)
    {
        CowWriterOptions options = new() { Version = version, ClusterOps = cluster, ScratchBytes = 0, OpCountMax = 6 };
        MemoryOutput file = new();
        Write(file, options, calls);
        // A version 3 file includes all slots, used or not.
        long length = version == 2 ? file.Length : Math.Max(file.Length, CowHeader.Parse(new MemorySource(file.Bytes)).DataOffset);
        byte[] old = new byte[length];
        old.AsSpan().Fill(0x5a);
        MemoryOutput device = new(old, length);
        Write(device, options, calls);
        // Unused slots keep the device's old content.
        using CowFile expected = CowFile.Read(new MemorySource(file.Bytes)), cow = CowFile.Read(new MemorySource(device.Bytes));
        Assert.Equal(Enumerable.Range(0, expected.OpCount).Select(i => expected[i]), Enumerable.Range(0, cow.OpCount).Select(i => cow[i]));
        Refusal.With(ExitCode.InputOutput,
            $"output.cow: no space is left: the file would have {length} bytes, but there are only {length - 1}",
            () => Write(new MemoryOutput(new byte[length - 1], length - 1), options, calls));
    }
}
