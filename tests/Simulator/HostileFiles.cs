using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Linq;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;

namespace Snapuserd.Tests.Simulator;

/// <summary>A number in a file: its position and its size in bytes.</summary>
public readonly record struct HostileField(int At, int Bytes, string Name);

/// <summary>
/// A file to be mutated, and the positions of its parts before the mutation: records of ops (the footer is the last of v1 and v2),
/// payloads, scratch. A mutation may move the parts; the positions stay as they were, so a later mutation may hit other bytes.
/// </summary>
public sealed record HostileFile(byte[] Bytes, int Version, int[] Ops, int[] Data, int ScratchAt, int ScratchBytes)
{
    public int OpBytes => Version == 3 ? 16 : 20;

    /// <summary>Every number in header, sequence list, resume points, ops, footer and scratch metadata.</summary>
    public List<HostileField> Fields()
    {
        List<HostileField> fields = [];
        void Add(int at, int bytes, string name)
        {
            if (at >= 0 && at + bytes <= Bytes.Length) fields.Add(new HostileField(at, bytes, name));
        }
        (int At, int Bytes, string Name)[] header =
        [
            (0, 8, "magic"), (8, 2, "major"), (10, 2, "minor"), (12, 2, "header_size"), (14, 2, "footer_size"), (16, 2, "op_size"),
            (18, 4, "block_size"),
            (22, 4, "cluster_ops"), (26, 8, "num_merge_ops"), (34, 4, "buffer_size"), (38, 8, "sequence_data_count"),
            (46, 4, "resume_point_count"),
            (50, 4, "resume_point_max"), (54, 8, "op_count"), (62, 8, "op_count_max"), (70, 4, "compression_algorithm"),
            (74, 4, "max_compression_size"),
        ];
        foreach ((int at, int bytes, string name) in header)
            if (at + bytes <= ScratchAt) Add(at, bytes, name);
        if (ScratchBytes > 0)
        {
            Add(ScratchAt, 1, "state");
            for (int at = ScratchAt + 1; at + 16 <= ScratchAt + (ScratchBytes / 256) && at < ScratchAt + 100; at += 8) Add(at, 8, "entry");
        }
        // The area between scratch and the first op holds the sequence list and the resume points.
        if (Version == 3 && Ops.Length > 0)
            for (int at = ScratchAt + ScratchBytes; at + 4 <= Ops[0]; at += 4) Add(at, 4, "list or resume point");
        foreach (int op in Ops)
        {
            if (Version == 3)
            {
                Add(op, 4, "data_length");
                Add(op + 4, 4, "new_block");
                Add(op + 8, 6, "source");
                Add(op + 14, 2, "type and factor");
            }
            else
            {
                Add(op, 1, "type");
                Add(op + 1, 1, "compression");
                Add(op + 2, 2, "data_length");
                Add(op + 4, 8, "new_block");
                Add(op + 12, 8, "source");
            }
        }
        return fields;
    }

    public ulong Get(HostileField field)
    {
        ulong value = 0;
        for (int i = field.Bytes - 1; i >= 0; i--) value = (value << 8) | Bytes[field.At + i];
        return value;
    }

    /// <summary>A copy in which <paramref name="field"/> has another value.</summary>
    public HostileFile With(HostileField field, ulong value)
    {
        byte[] bytes = (byte[])Bytes.Clone();
        for (int i = 0; i < field.Bytes; i++) bytes[field.At + i] = (byte)(value >> (8 * i));
        return this with { Bytes = bytes };
    }

    /// <summary>
    /// Values that provoke arithmetic errors: the limits of the number's range, the end of the file, alignments, and neighbours of the
    /// present value.
    /// </summary>
    public static IEnumerable<ulong> Extremes(int bytes, ulong old, long length)
    {
        ulong max = bytes == 8 ? ulong.MaxValue : (1UL << (8 * bytes)) - 1, sign = 1UL << ((8 * bytes) - 1);
        ulong file = (ulong)length;
        ulong[] values =
        [
            0, 1, 2, max, max - 1, sign, sign - 1, sign + 1, old + 1, old - 1, old ^ sign, old * 2, 4095, 4096, 4097, 511, 512, file,
            file + 1, file - 1, file - 20, file / 4096,
            0x574f436661736e75, int.MaxValue, 1UL << 31, uint.MaxValue, 1UL << 32, (1UL << 48) - 1, 1UL << 48, long.MaxValue,
            ulong.MaxValue - 19, ulong.MaxValue - 15, 262144, 262145, max / 16, (max / 16) + 1, max / 20, max / 4096,
        ];
        return values.Select(value => value & max).Distinct();
    }
}

/// <summary>Nearly valid files, and the mutations of them; everything depends on the seed only.</summary>
public static class HostileFiles
{
    /// <summary>Length of the base in blocks.</summary>
    public const int Blocks = 16;

    private static readonly byte[][] s_bases = [.. Enumerable.Range(0, 4).Select(seed => SmallCases.Random(seed, Blocks))];

    /// <summary>One of a few bases.</summary>
    public static byte[] Base(ulong seed) => s_bases[seed % (ulong)s_bases.Length];

    /// <summary>The file of a builder, with the positions of its parts.</summary>
    public static HostileFile Of(CowBuilder builder)
    {
        byte[] bytes = builder.Build();
        int header = builder.Version switch { 1 => 34, 2 => 38, _ => 78 };
        return new HostileFile(
            bytes, builder.Version, [.. builder.OpOffsets.Select(at => (int)at)],
            [.. builder.DataOffsets.Where(at => at >= 0).Select(at => (int)at)], header, builder.Version == 1 ? 0 : builder.ScratchBytes);
    }

    /// <summary>
    /// A small file of version 2 or 3 with a few ops of every kind, labels, clusters, a sequence list and compressed units.
    /// </summary>
    public static HostileFile Small(int version, CowCompression compression, bool window = false, bool scratch = true)
    {
        CowBuilder builder = new()
        {
            Version = version,
            Compression = compression,
            ClusterOps = version == 2 && compression != CowCompression.None ? 5 : 0,
            ScratchBytes = scratch ? SmallCases.ScratchFor(2) : 0,
            MaxUnitBytes = 16384,
            OpCountMaxSlack = 2,
        };
        if (version == 3 || builder.ClusterOps > 0) builder.Sequence(0, 1, 2, 3);
        // An Xor in place, which needs scratch; without scratch the Xor reads another block.
        builder.Label(1).Copy(0, 1).Copy(1, 2).Xor(2, (scratch ? 2ul : 6) * 4096, Payload(1, 1));
        if (compression != CowCompression.None) builder.Xor(3, (4 * 4096) + 9, Payload(2, 1));
        else builder.Copy(3, 4);
        builder.Label(2).Replace(5, Payload(3, version == 3 ? 2 : 1)).Zero(4).Replace(12, Payload(5, 1)).Zero(9).Zero(9);
        if (version == 3) builder.Replace(8, Payload(4, 1));
        HostileFile file = Of(builder);
        return window ? WithWindow(file, 0, 2, new Chance(1)) : file;
    }

    /// <summary>A file of a Copy, a Zero and one Replace that is stored as <paramref name="payload"/>.</summary>
    public static HostileFile WithPayload(int version, HostilePayload payload)
    {
        // Built with a raw payload, so that the bytes are stored unchanged; algorithm and length are set afterwards.
        HostileFile file = Of(new CowBuilder
        {
            Version = version,
            ClusterOps = version == 2 ? 6 : 0,
            ScratchBytes = SmallCases.ScratchFor(1),
        }.Copy(1, 2).Zero(3).Replace(4, new byte[4096]));
        int op = file.Ops[2], data = file.Data[0];
        byte[] bytes = [.. file.Bytes[..data], .. payload.Stored, .. file.Bytes[(data + 4096)..]];
        if (version == 3)
        {
            BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(70), (int)payload.Algorithm);
            BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(74), 4096);
            BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(op), payload.Stored.Length);
        }
        else
        {
            bytes[op + 1] = (byte)payload.Algorithm;
            BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(op + 2), checked((ushort)payload.Stored.Length));
            // The Cluster op after the payload skips the stored bytes.
            BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(op + 20 + 12), data + payload.Stored.Length - (op + 40));
        }
        return file with { Bytes = bytes };
    }

    /// <summary>A random file, well-formed most of the time. Its ops may conflict with one another.</summary>
    public static HostileFile Generate(Chance chance)
    {
        int version = chance.Below(40) switch { 0 => 1, < 18 => 2, _ => 3 };
        var compression = (CowCompression)chance.Below(5);
        CowBuilder builder = new()
        {
            Version = version,
            Compression = compression,
            Level = compression switch { CowCompression.Gz => 1 + chance.Below(9), CowCompression.Brotli => chance.Below(6), _ => null },
            ClusterOps = version == 3 || chance.Percent(40) ? 0 : 2 + chance.Below(6),
            ScratchBytes = chance.Below(4) switch { 0 => 0, 1 => chance.Below(9000), _ => SmallCases.ScratchFor(1 + chance.Below(3)) },
            MaxUnitBytes = 4096 << chance.Below(5),
            OpCountMaxSlack = chance.Percent(30) ? chance.Below(4) : 0,
            ResumeMax = chance.Percent(80) ? 4 : chance.Below(6),
            NumMergeOps = chance.Percent(25) ? (ulong)chance.Below(6) : 0,
        };
        List<BuiltOp> ops = Program(chance, version, builder.MaxUnitBytes);
        if ((version == 3 || builder.ClusterOps > 0) && chance.Percent(35))
        {
            List<uint> list =
            [
                .. ops.Where(op => op.Type is CowOpType.Copy or CowOpType.Xor || chance.Percent(10)).Select(op => op.NewBlock),
            ];
            if (chance.Percent(10)) list.Reverse();
            builder.Sequence([.. list]);
        }
        foreach (BuiltOp op in ops) builder.Add(op);
        HostileFile file = Of(builder);
        return chance.Percent(20) ? WithWindow(file, (int)builder.NumMergeOps, 1 + chance.Below(3), chance) : file;
    }

    private static List<BuiltOp> Program(Chance chance, int version, int maxUnit)
    {
        List<BuiltOp> ops = [];
        HashSet<long> taken = [], written = [];
        bool Free(long block, int blocks)
        {
            for (long i = block; i < block + blocks; i++)
                if (i >= Blocks || taken.Contains(i)) return false;
            return true;
        }
        int count = chance.Below(11);
        for (int i = 0; i < count; i++)
        {
            int kind = chance.Below(10), blocks = kind < 3 && version == 3 ? Math.Min(1 << chance.Below(4), maxUnit / 4096) : 1;
            uint block = (uint)chance.Below(Blocks);
            for (int tries = 0; tries < 8 && !Free(block, blocks); tries++) block = (uint)chance.Below(Blocks);
            long source = chance.Below(Blocks), offset = chance.Percent(40) ? chance.Below(4096) : 0;
            for (int tries = 0; tries < 8
                && (written.Contains(source) || (offset > 0 && (source + 1 == Blocks || written.Contains(source + 1)))); tries++)
                source = chance.Below(Blocks);
            if (!Free(block, blocks) && chance.Percent(80)) continue;
            for (long taking = block; taking < block + blocks; taking++)
            {
                taken.Add(taking);
                // Before version 3, Replace and Zero ops are merged after every op that reads.
                if (version == 3 || kind is >= 3 and < 8) written.Add(taking);
            }
            ops.Add(kind switch
            {
                < 3 => new BuiltOp(CowOpType.Replace, block, 0, Payload(chance.Below(6), blocks)),
                < 6 => new BuiltOp(CowOpType.Copy, block, (ulong)source),
                < 8 => new BuiltOp(CowOpType.Xor, block, (ulong)((source * 4096) + offset), Payload(chance.Below(6), 1)),
                _ => new BuiltOp(CowOpType.Zero, block),
            });
            if (chance.Percent(15)) ops.Add(new BuiltOp(CowOpType.Label, 0, (ulong)chance.Below(5)));
        }
        return ops;
    }

    /// <summary>Contents of six kinds, from easy to impossible to compress.</summary>
    private static byte[] Payload(int kind, int blocks)
    {
        byte[] bytes = kind == 5 ? SmallCases.Random(kind, blocks) : new byte[blocks * 4096];
        for (int i = 0; i < bytes.Length && kind is > 0 and < 5; i++) bytes[i] = (byte)(i % 50 == 0 ? i * kind : i / (700 * kind));
        if (kind == 4) SmallCases.Random(4, 1).AsSpan(0, 2000).CopyTo(bytes);
        return bytes;
    }

    /// <summary>
    /// The file with scratch that holds the next ops, as a killed merge leaves it, if the scratch is large enough for any.
    /// </summary>
    public static HostileFile WithWindow(HostileFile file, int count, int entries, Chance chance)
    {
        NaiveVerdict verdict = NaiveReader.Judge(file.Bytes, Base(0));
        int metadata = file.ScratchBytes / 256;
        byte[] bytes = (byte[])file.Bytes.Clone();
        int written = 0;
        for (; written < entries && verdict.Read == null && count + written < verdict.MergeOrder.Count; written++)
        {
            int entry = file.ScratchAt + 1 + (16 * written), slot = file.ScratchAt + metadata + (4096 * written);
            NaiveOp op = verdict.Ops[verdict.MergeOrder[count + written]];
            if (!op.Ordered || slot + 4096 > bytes.Length || entry + 32 > file.ScratchAt + metadata
                || slot + 4096 > file.ScratchAt + file.ScratchBytes)
                break;
            BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(entry), op.Block);
            BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(entry + 8), slot);
            Payload(chance.Below(6), 1).CopyTo(bytes, slot);
        }
        if (written > 0) bytes[file.ScratchAt] = 2;
        return file with { Bytes = bytes };
    }

    /// <summary>Applies one to four mutations at once; parts may be copied from <paramref name="others"/>.</summary>
    public static HostileFile Mutate(HostileFile file, Chance chance, IReadOnlyList<HostileFile> others)
    {
        int times = 1 + chance.Below(chance.Percent(50) ? 1 : 4);
        for (int i = 0; i < times && file.Bytes.Length > 14; i++) file = Spoil(file, chance, others);
        return file;
    }

    private static HostileFile Spoil(HostileFile file, Chance chance, IReadOnlyList<HostileFile> others)
    {
        int length = file.Bytes.Length;
        List<HostileField> fields = file.Fields();
        HostileField Field(string name)
        {
            List<HostileField> named = fields.FindAll(field => field.Name == name);
            return named.Count > 0 ? named[chance.Below(named.Count)] : fields[chance.Below(fields.Count)];
        }
        byte[] bytes = (byte[])file.Bytes.Clone();
        int Op() => file.Ops.Length == 0 ? 0 : file.Ops[chance.Below(file.Ops.Length)];
        bool Inside(int at) => at + file.OpBytes <= length;
        switch (chance.Below(22))
        {
            case 0 or 1 or 2:
                HostileField any = fields[chance.Below(fields.Count)];
                // Most header fields have one valid value, and the product refuses any other value early. So another field is chosen most
                // of the time.
                if (any.At < file.ScratchAt && chance.Percent(70)) any = fields[chance.Below(fields.Count)];
                ulong[] extremes = [.. HostileFile.Extremes(any.Bytes, file.Get(any), length)];
                return file.With(any, extremes[chance.Below(extremes.Length)]);
            case 3:
                HostileField to = Field("new_block");
                return file.With(to, (ulong)chance.Below(Blocks + 1));
            case 4:
                HostileField source = Field("source");
                return file.With(source, chance.Below(3) switch
                {
                    0 => (ulong)chance.Below(Blocks + 1),
                    1 => (ulong)chance.Below((Blocks + 1) * 4096),
                    _ => (ulong)chance.Below(length + 8),
                });
            case 5:
                HostileField data = Field("data_length");
                return file.With(data, (ulong)((long)file.Get(data) + chance.Below(9) - 4));
            case 6:
                HostileField one = fields[chance.Below(fields.Count)], two = fields[chance.Below(fields.Count)];
                return file.With(one, file.Get(two));
            case 7:
                bytes[chance.Below(length)] ^= (byte)(1 << chance.Below(8));
                break;
            case 8 or 9 when file.Data.Length > 0:
                int at = file.Data[chance.Below(file.Data.Length)] + chance.Below(chance.Percent(50) ? 8 : 60);
                if (at < length) bytes[at] = chance.Percent(50) ? (byte)chance.Next() : (byte)(bytes[at] ^ (1 << chance.Below(8)));
                break;
            case 10 or 11:
                // Two ops are swapped, or one is duplicated.
                int a = Op(), b = Op();
                if (!Inside(a) || !Inside(b)) break;
                file.Bytes.AsSpan(a, file.OpBytes).CopyTo(bytes.AsSpan(b));
                if (chance.Percent(50)) file.Bytes.AsSpan(b, file.OpBytes).CopyTo(bytes.AsSpan(a));
                break;
            case 12:
                // An op is removed and the following ops move up, or an op is inserted.
                int gap = Op();
                if (!Inside(gap)) break;
                return chance.Percent(50)
                    ? file with { Bytes = [.. bytes[..gap], .. bytes[(gap + file.OpBytes)..]] }
                    : file with { Bytes = [.. bytes[..gap], .. bytes.AsSpan(gap, file.OpBytes), .. bytes[gap..]] };
            case 13 when others.Count > 0:
                HostileFile other = others[chance.Below(others.Count)];
                int cut = chance.Percent(50) ? chance.Below(length) : Op(), from = other.Ops.Length > 0
                    && chance.Percent(50) ? other.Ops[chance.Below(other.Ops.Length)] : Math.Min(cut, other.Bytes.Length);
                return file with { Bytes = [.. bytes[..Math.Min(cut, length)], .. other.Bytes[Math.Min(from, other.Bytes.Length)..]] };
            case 14:
                return file with { Bytes = bytes[..chance.Below(length)] };
            case 15:
                return file with { Bytes = [.. bytes, .. SmallCases.Random(chance.Below(9), 1).AsSpan(0, chance.Below(100))] };
            case 16:
                // The counts that must agree: footer, op_count, op_count_max, list.
                string[] names = file.Version == 3 ? ["op_count", "op_count_max", "sequence_data_count", "resume_point_max",
                    "num_merge_ops", "buffer_size"] : ["num_merge_ops", "cluster_ops", "buffer_size"];
                HostileField count = Field(names[chance.Below(names.Length)]);
                return file.With(count, (ulong)((long)file.Get(count) + chance.Below(7) - 3));
            case 17 when file.Version < 3:
                // A cluster's end moves: by a little or by a cluster, forwards or backwards.
                int jump = Array.FindIndex(file.Ops, op => op < length && bytes[op] == 5);
                if (jump < 0) goto case 4;
                long[] ways = [1, -1, 20, -20, 100, -100, 4096, -4096, -length, length];
                HostileField where = new(file.Ops[jump] + 12, 8, "source");
                if (where.At + 8 > length) break;
                return file.With(where, (ulong)((long)file.Get(where) + ways[chance.Below(ways.Length)]));
            case 18:
                int type = Op();
                if (!Inside(type)) break;
                byte[] types = [1, 2, 3, 4, 5, 6, 7, 255, 0, 8];
                if (file.Version == 3) bytes[type + 15] = (byte)((bytes[type + 15] & 15) | (types[chance.Below(types.Length)] << 4));
                else bytes[type] = types[chance.Below(types.Length)];
                break;
            case 19:
                return WithWindow(file, chance.Below(3), 1 + chance.Below(3), chance);
            case 20 when file.Data.Length > 0:
                return Bomb(file, chance, chance.Below(file.Data.Length));
            default:
                HostileField state = Field("state"), entry = Field("entry");
                return file.With(state, (ulong)chance.Below(4)).With(entry, (ulong)chance.Below(Blocks));
        }
        return file with { Bytes = bytes };
    }

    /// <summary>Replaces the payload with a hostile one, which overwrites whatever it covers.</summary>
    private static HostileFile Bomb(HostileFile file, Chance chance, int which)
    {
        IReadOnlyList<HostilePayload> payloads = HostilePayloads.All;
        byte[] payload = payloads[chance.Below(payloads.Count)].Stored;
        byte[] bytes = (byte[])file.Bytes.Clone();
        int at = file.Data[which], room = Math.Min(payload.Length, bytes.Length - at);
        if (room <= 0) return file;
        payload.AsSpan(0, room).CopyTo(bytes.AsSpan(at));
        HostileFile with = file with { Bytes = bytes };
        HostileField[] lengths = [.. with.Fields().Where(field => field.Name == "data_length")];
        return lengths.Length > 0 && chance.Percent(70) ? with.With(lengths[chance.Below(lengths.Length)], (ulong)payload.Length) : with;
    }
}
