using System;
using System.Collections.Generic;
using System.Linq;

namespace Snapuserd.Tests.Simulator;

/// <summary>A data op as the reference reader reads it; the types are the format's numbers (cow-format §3).</summary>
public sealed record NaiveOp(int Type, long Block, int Blocks, long Source, long DataAt, int DataLength)
{
    public bool Ordered => Type is 1 or 6;
    public bool HasData => Type is 2 or 6;
    public long SourceByte => Type == 1 ? Source * 4096 : Source;
    public bool OntoItself => Type == 1 && Source == Block;

    /// <summary>The source blocks that the op reads.</summary>
    public IEnumerable<long> Reads
    {
        get
        {
            if (!Ordered || OntoItself) yield break;
            yield return SourceByte / 4096;
            if (SourceByte % 4096 != 0) yield return (SourceByte / 4096) + 1;
        }
    }
}

/// <summary>
/// The reference reader's verdict on a file and a base: for each step of a merge the name of the rule that the file breaks, or null; and
/// the image.
/// </summary>
public sealed class NaiveVerdict
{
    /// <summary>Header, ops, offsets, counts, sequence list.</summary>
    public string? Read { get; set; }
    /// <summary>The base is too small.</summary>
    public string? Devices { get; set; }
    /// <summary>Conflicts between ops.</summary>
    public string? Order { get; set; }
    /// <summary>The merge needs the user's consent (exit code 64).</summary>
    public string? InPlace { get; set; }
    /// <summary>Scratch claims an invalid window.</summary>
    public string? Scratch { get; set; }
    /// <summary>At least one payload does not decode.</summary>
    public string? Payload { get; set; }
    /// <summary>At least one payload that the rest of the merge needs does not decode.</summary>
    public string? NeededPayload { get; set; }

    public int Major { get; set; }
    /// <summary>num_merge_ops.</summary>
    public long Count { get; set; }
    public List<NaiveOp> Ops { get; } = [];
    /// <summary>Indices into <see cref="Ops"/>.</summary>
    public List<int> MergeOrder { get; set; } = [];
    /// <summary>The merged image without the ops whose payload does not decode.</summary>
    public byte[] Image { get; set; } = [];

    /// <summary>
    /// For a block that is copied onto itself, scratch and the base hold different contents. Slots have no checksum. After the window, a
    /// read of the block may return either contents, and one interpretation of the state calls each of them wrong.
    /// </summary>
    public bool Ambiguous { get; set; }

    /// <summary>The first broken rule that prevents an image, or null.</summary>
    public string? ForImage => Read ?? Devices ?? Order ?? Scratch ?? NeededPayload;
}

/// <summary>
/// The reference reader for hostile files: reads the bytes of a COW, decides whether they are valid, and merges. Written from
/// the description of the format alone, without code from src/, and as simple as possible: wide integers, no optimisation for time or
/// memory.
/// </summary>
public sealed class NaiveReader
{
    /// <summary>The rules that Android's reader enforces too (cow-format §10), by name.</summary>
    public static IReadOnlySet<string> AndroidRules { get; } = new HashSet<string>
    {
        "header: too short", "header: magic", "header: version", "header: footer_size", "header: op_size", "header: cluster_ops",
        "footer: missing", "footer: counts", "op: new_block beyond 32 bits", "op: source beyond 48 bits", "op: two algorithms",
        "op: unknown algorithm", "op: source is not the running position", "op: data outside the file", "ops: not in the file",
        "sequence: a block without an op", "sequence: in a file without clusters", "payload",
    };

    /// <summary>The rules that only this product enforces, each with its reason.</summary>
    public static IReadOnlyDictionary<string, string> OurRules { get; } = new Dictionary<string, string>
    {
        ["header: unsafe magic"] = "ours: the base is lost",
        ["header: header_size"] = "with a length that no writer uses, every later part would be misplaced",
        ["header: block_size"] = "no writer uses a value other than 4096",
        ["header: buffer_size"] = "scratch would reach beyond the file",
        ["header: op_count"] = "more ops than slots",
        ["header: op_count_max"] = "Android silently truncates it to 32 bits",
        ["header: sequence_data_count"] = "a list longer than the file or than the ops",
        ["header: compression_algorithm"] = "Android notices only at the first payload, after it has written",
        ["header: max_compression_size"] = "buffers are sized by it",
        ["header: num_merge_ops"] = "the merge would begin past its end",
        ["op: type"] = "the op cannot be merged, and skipping it would be a guess",
        ["op: factor"] = "only a Replace has units",
        ["op: unit"] = "larger than the buffers",
        ["op: new_block"] = "the unit would reach beyond 2^32 blocks",
        ["op: data_length"] = "the payload is empty, longer than the unit, or raw with another length than the unit",
        ["op: data in the head"] = "a payload in header or scratch would change during the merge",
        ["cluster: in a file without clusters"] = "the running position of Xor data would be a guess",
        ["cluster: beyond the file"] = "the next cluster would lie outside the file",
        ["cluster: not closed"] = "Android continues, and reads data as ops",
        ["sequence: after a data op"] = "Android decides for each op whether it is listed; the order would depend on that",
        ["sequence: length"] = "the length is not a multiple of an entry's",
        ["sequence: outside the file"] = "Android drops the error and fails later",
        ["sequence: a block twice"] = "the op would be merged and counted twice",
        ["devices"] = "the base is too small",
        ["order: a block written twice"] = "the result would depend on chance",
        ["order: a block read after its writer"] = "the result would depend on chance",
        ["in place without scratch"] = "a crash there loses the block",
        ["scratch"] = "state 2 with entries of neither the next ops nor the ops just counted",
    };

    private sealed class Refused(string rule) : Exception(rule);

    private readonly byte[] _file;
    private readonly NaiveVerdict _verdict = new();
    private int _headerBytes;
    private long _scratchBytes;
    private int _algorithm;
    private bool _listed;
    private readonly List<long> _list = [];

    private NaiveReader(byte[] file) => _file = file;

    /// <summary>Judges <paramref name="file"/>, whose ops read and write <paramref name="baseImage"/>.</summary>
    public static NaiveVerdict Judge(byte[] file, byte[] baseImage)
    {
        NaiveReader reader = new(file);
        NaiveVerdict verdict = reader._verdict;
        verdict.Image = baseImage;
        verdict.Read = Try(reader.ReadFile);
        if (verdict.Read != null) return verdict;
        verdict.Devices = Try(() => Require(verdict.Ops.All(op =>
            (op.Block + op.Blocks) * 4096 <= baseImage.Length && (!op.Ordered || op.SourceByte + 4096 <= baseImage.Length)), "devices"));
        verdict.Order = Try(reader.CheckOrder);
        if (verdict.Devices == null && verdict.Order == null) reader.Merge(baseImage);
        else verdict.Payload = Try(() => Require(verdict.Ops.All(op => !op.HasData || reader.Payload(op) != null), "payload"));
        return verdict;
    }

    private static string? Try(Action check)
    {
        try
        {
            check();
            return null;
        }
        catch (Refused refused)
        {
            return refused.Message;
        }
    }

    private static void Require(bool right, string rule)
    {
        if (!AndroidRules.Contains(rule) && !OurRules.ContainsKey(rule)) throw new ArgumentException($"unknown rule: {rule}");
        if (!right) throw new Refused(rule);
    }

    private ulong Number(Int128 at, int bytes)
    {
        ulong value = 0;
        for (int i = bytes - 1; i >= 0; i--) value = (value << 8) | _file[(int)at + i];
        return value;
    }

    private void ReadFile()
    {
        Require(_file.Length >= 14, "header: too short");
        Require(Number(0, 8) != 0x574f436661736e75, "header: unsafe magic");
        Require(Number(0, 8) == 0x436f77634f572121, "header: magic");
        int major = (int)Number(8, 2);
        Require(major is >= 1 and <= 3 && Number(10, 2) == 0, "header: version");
        _verdict.Major = major;
        _headerBytes = (int)Number(12, 2);
        Require(major switch { 1 => _headerBytes == 34, 2 => _headerBytes == 38, _ => _headerBytes is 74 or 78 }, "header: header_size");
        Require(_file.Length >= _headerBytes, "header: too short");
        Require(Number(14, 2) == (major == 3 ? 0u : 84u), "header: footer_size");
        Require(Number(16, 2) == (major == 3 ? 16u : 20u), "header: op_size");
        Require(Number(18, 4) == 4096, "header: block_size");
        Require(major == 3 ? Number(22, 4) == 0 : Number(22, 4) != 1, "header: cluster_ops");
        _scratchBytes = major == 1 ? 0 : (long)Number(34, 4);
        Require(_headerBytes + _scratchBytes <= _file.Length, "header: buffer_size");
        if (major == 3) ReadV3();
        else ReadV2();
        MakeOrder();
        Require(Number(26, 8) <= (ulong)_verdict.MergeOrder.Count, "header: num_merge_ops");
        _verdict.Count = (long)Number(26, 8);
    }

    private void ReadV3()
    {
        Int128 listed = Number(38, 8), resumeMax = Number(50, 4), count = Number(54, 8), slots = Number(62, 8);
        ulong algorithm = Number(70, 4), unit = _headerBytes >= 78 ? Number(74, 4) : 0;
        if (unit == 0) unit = 4096;
        Require(algorithm <= 4, "header: compression_algorithm");
        _algorithm = (int)algorithm;
        Require(unit is >= 4096 and <= 262144, "header: max_compression_size");
        Require(slots <= uint.MaxValue, "header: op_count_max");
        Require(count <= slots, "header: op_count");
        Int128 listAt = _headerBytes + _scratchBytes, opsAt = listAt + (4 * listed) + (16 * resumeMax), dataAt = opsAt + (16 * slots);
        Require(listAt + (4 * listed) <= _file.Length && listed <= count, "header: sequence_data_count");
        Require(count == 0 || opsAt + (16 * count) <= _file.Length, "ops: not in the file");
        for (Int128 i = 0; i < listed; i++) _list.Add((long)Number(listAt + (4 * i), 4));
        _listed = listed > 0;
        for (Int128 i = 0; i < count; i++)
        {
            Int128 at = opsAt + (16 * i);
            ulong info = Number(at + 8, 8), length = Number(at, 4);
            long block = (long)Number(at + 4, 4), source = (long)(info & 0xffff_ffff_ffff);
            int type = (int)(info >> 60), blocks = 1 << (int)((info >> 57) & 7);
            Require(type is 1 or 2 or 3 or 6, "op: type");
            Require(type == 2 || blocks == 1, "op: factor");
            if (type is 2 or 6)
            {
                Require((uint)blocks * 4096 <= unit, "op: unit");
                Require(block + blocks <= 1L << 32, "op: new_block");
                Require(length > 0 && length <= (ulong)blocks * 4096 && (algorithm != 0 || length == (ulong)blocks * 4096),
                    "op: data_length");
                Require(type == 6 || source == dataAt, "op: source is not the running position");
                Require(dataAt + length <= _file.Length, "op: data outside the file");
                _verdict.Ops.Add(new NaiveOp(type, block, blocks, type == 6 ? source : 0, (long)dataAt, (int)length));
            }
            else
            {
                _verdict.Ops.Add(new NaiveOp(type, block, 1, type == 1 ? source : 0, 0, 0));
            }
            dataAt += length;
        }
    }

    private void ReadV2()
    {
        long cluster = (long)Number(22, 4), at = _headerBytes + _scratchBytes, slot = 0;
        Int128 dataAt = at + (cluster == 0 ? 20 : cluster * 20);
        long records = 0;
        int seen = 0;
        bool raw = false;
        while (true)
        {
            Require(at + 20 <= _file.Length, "footer: missing");
            int type = _file[at], algorithm = _file[at + 1], length = (int)Number(at + 2, 2);
            ulong block = Number(at + 4, 8), source = Number(at + 12, 8);
            if (type == 255)
            {
                Require(at + 84 <= _file.Length, "footer: missing");
                Require(source == (ulong)records && block == (ulong)records * 20, "footer: counts");
                _algorithm = seen;
                return;
            }
            Require(cluster == 0 || slot < cluster, "cluster: not closed");
            Require(type is >= 1 and <= 7, "op: type");
            // The file's algorithm is the first one that a record names, even if that record has no data (cow-format §7.1).
            Require(algorithm == 0 || seen == 0 || algorithm == seen, "op: two algorithms");
            Require(algorithm <= 4, "op: unknown algorithm");
            if (algorithm != 0) seen = algorithm;
            Require(seen == 0 || !raw, "op: two algorithms");
            records++;
            slot++;
            long next = at + 20;
            if (type is 1 or 2 or 3 or 6)
            {
                Require(block <= uint.MaxValue, "op: new_block beyond 32 bits");
                Require(type is 2 or 3 || source <= 0xffff_ffff_ffff, "op: source beyond 48 bits");
                Int128 data = 0;
                if (type is 2 or 6)
                {
                    Require(algorithm == seen, "op: two algorithms");
                    raw |= algorithm == 0;
                    Require(algorithm == 0 ? length == 4096 : length > 0, "op: data_length");
                    data = type == 2 ? source : dataAt;
                    Require(data >= _headerBytes + _scratchBytes, "op: data in the head");
                    Require(data + length <= _file.Length, "op: data outside the file");
                    if (cluster == 0) next += length;
                }
                _verdict.Ops.Add(new NaiveOp(type, (long)block, 1, type is 1 or 6 ? (long)source : 0, (long)data, data == 0 ? 0 : length));
            }
            else if (type == 5)
            {
                Require(cluster != 0, "cluster: in a file without clusters");
                Require(next + (Int128)source <= _file.Length, "cluster: beyond the file");
                next += (long)source;
                slot = 0;
            }
            else if (type == 7)
            {
                Require(cluster != 0, "sequence: in a file without clusters");
                Require(_verdict.Ops.Count == 0, "sequence: after a data op");
                Require(length % 4 == 0, "sequence: length");
                Require(source >= (ulong)(_headerBytes + _scratchBytes) && (Int128)source + length <= _file.Length,
                    "sequence: outside the file");
                for (int i = 0; i < length; i += 4) _list.Add((long)Number(source + (ulong)i, 4));
                _listed = true;
            }
            dataAt += length;
            if (type == 5) dataAt += cluster * 20;
            else if (cluster == 0) dataAt += 20;
            at = next;
        }
    }

    /// <summary>Computes the order of cow-format §9. A block stands for its first op.</summary>
    private void MakeOrder()
    {
        List<NaiveOp> ops = _verdict.Ops;
        Dictionary<long, int> first = [];
        for (int i = 0; i < ops.Count; i++) first.TryAdd(ops[i].Block, i);
        List<int> order = _verdict.MergeOrder;
        HashSet<long> listed = [];
        if (!_listed && _verdict.Major == 3)
        {
            foreach (NaiveOp op in ops) order.Add(first[op.Block]);
            return;
        }
        if (_listed)
        {
            foreach (long block in _list)
            {
                Require(first.ContainsKey(block), "sequence: a block without an op");
                Require(listed.Add(block), "sequence: a block twice");
                order.Add(first[block]);
            }
        }
        else
        {
            foreach (NaiveOp op in ops)
                if (op.Ordered) order.Add(first[op.Block]);
        }
        foreach (NaiveOp op in ops.OrderBy(op => op.Block))
            if (_listed ? !listed.Contains(op.Block) : !op.Ordered) order.Add(first[op.Block]);
    }

    private void CheckOrder()
    {
        List<NaiveOp> ops = _verdict.Ops;
        foreach (IGrouping<long, NaiveOp> group in ops.GroupBy(op => op.Block))
            Require(group.Count() == 1 || !group.Any(op => op.Ordered), "order: a block written twice");
        Dictionary<long, int> writer = [];
        foreach (int index in _verdict.MergeOrder)
        {
            for (long block = ops[index].Block; block < ops[index].Block + ops[index].Blocks; block++)
            {
                writer.TryAdd(block, index);
                Require(writer[block] == index, "order: a block written twice");
            }
        }
        HashSet<long> written = [];
        foreach (int index in _verdict.MergeOrder)
        {
            NaiveOp op = ops[index];
            foreach (long block in op.Reads) Require(!written.Contains(block), "order: a block read after its writer");
            if (op.OntoItself) continue;
            for (long block = op.Block; block < op.Block + op.Blocks; block++) written.Add(block);
        }
    }

    /// <summary>
    /// The most ops in a window (merge §4): limited by the slots, and by the entries that fit besides the state byte and the end mark.
    /// </summary>
    private long Window
    {
        get
        {
            long entries = _scratchBytes * 16 / 4096;
            return _scratchBytes == 0 ? 0 : Math.Max(0, Math.Min((_scratchBytes - entries) / 4096, ((entries - 1) / 16) - 1));
        }
    }

    private long SlotAt(long slot) => _headerBytes + (_scratchBytes * 16 / 4096) + (slot * 4096);

    /// <summary>How many ops, starting at the count, scratch holds.</summary>
    private long LeftInScratch()
    {
        List<int> order = _verdict.MergeOrder;
        List<NaiveOp> ops = _verdict.Ops;
        if (Window == 0 || _file[_headerBytes] != 2) return 0;
        // Scratch is never read again once no ordered op is left.
        if (!order.Skip((int)_verdict.Count).Any(index => ops[index].Ordered)) return 0;
        long entries = 0;
        while (entries < Window && (Number(EntryAt(entries), 8) != 0 || Number(EntryAt(entries) + 8, 8) != 0)) entries++;
        bool Fit(long from)
        {
            if (from < 0 || from + entries > order.Count) return false;
            for (long i = 0; i < entries; i++)
            {
                NaiveOp op = ops[order[(int)(from + i)]];
                if (!op.Ordered || Number(EntryAt(i), 8) != (ulong)op.Block || Number(EntryAt(i) + 8, 8) != (ulong)SlotAt(i)) return false;
            }
            return entries > 0;
        }
        if (Fit(_verdict.Count)) return entries;
        Require(Fit(_verdict.Count - entries), "scratch");
        return 0;
    }

    private long EntryAt(long entry) => _headerBytes + 1 + (entry * 16);

    private void Merge(byte[] baseImage)
    {
        List<NaiveOp> ops = _verdict.Ops;
        byte[] image = _verdict.Image = (byte[])baseImage.Clone();
        long left = 0;
        _verdict.Scratch = Try(() => left = LeftInScratch());
        HashSet<int> done = [];
        for (int position = 0; position < _verdict.MergeOrder.Count; position++)
        {
            int index = _verdict.MergeOrder[position];
            NaiveOp op = ops[index];
            if (!done.Add(index)) continue;
            if (position < _verdict.Count) continue;
            if (Window == 0 && op.Type == 6 && op.Reads.Contains(op.Block)) _verdict.InPlace = "in place without scratch";
            if (position < _verdict.Count + left)
            {
                Span<byte> slot = _file.AsSpan((int)SlotAt(position - _verdict.Count), 4096),
                    place = image.AsSpan((int)op.Block * 4096, 4096);
                _verdict.Ambiguous |= op.OntoItself && !slot.SequenceEqual(place);
                slot.CopyTo(place);
                continue;
            }
            byte[]? result = op.Type switch
            {
                1 => baseImage.AsSpan((int)op.SourceByte, 4096).ToArray(),
                3 => new byte[4096],
                _ => Payload(op),
            };
            if (result == null) { _verdict.NeededPayload = "payload"; continue; }
            if (op.Type == 6)
                for (int i = 0; i < 4096; i++) result[i] ^= baseImage[op.SourceByte + i];
            result.CopyTo(image, op.Block * 4096);
        }
        _verdict.Payload = _verdict.NeededPayload;
        for (int i = 0; i < ops.Count && _verdict.Payload == null; i++)
            if (ops[i].HasData && Payload(ops[i]) == null) _verdict.Payload = "payload";
    }

    private readonly Dictionary<NaiveOp, byte[]?> _payloads = [];

    /// <summary>The decoded unit of a payload; null if it does not decode. cow-format §7.1 defines which payloads are raw.</summary>
    private byte[]? Payload(NaiveOp op)
    {
        if (_payloads.TryGetValue(op, out byte[]? known)) return (byte[]?)known?.Clone();
        int unit = op.Blocks * 4096;
        bool raw = _algorithm == 0 || (_verdict.Major == 3 ? op.DataLength == unit : _algorithm is 3 or 4 && op.DataLength == 4096);
        byte[]? decoded = NaiveCodecs.Decode(raw ? 0 : _algorithm, _file.AsSpan((int)op.DataAt, op.DataLength), unit);
        _payloads[op] = decoded;
        return (byte[]?)decoded?.Clone();
    }
}
