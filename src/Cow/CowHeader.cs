using System;
using System.Buffers.Binary;
using Snapuserd.Block;

namespace Snapuserd.Cow;

/// <summary>
/// The header of a COW file; it determines the location of everything else. All integers are little-endian, nothing is aligned.
/// <code>
///  v1, v2   header 34/38 | scratch (v2) | ops and data, in clusters or one by one | footer 84
///  v3       header 78 | scratch | sequence list | resume points | op array | data, back to back
///
///  off size field                 v1 v2 v3   guards against
///    0    8 magic                 x  x  x    merging a file that is not a COW, or a base that is already lost (UnsafeMagic)
///    8    2 major_version         x  x  x    reading an unknown layout
///   10    2 minor_version         x  x  x    the same; always 0
///   12    2 header_size           34 38 78   misplacing everything that follows (74: v3 before max_compression_size, its last field)
///   14    2 footer_size           84 84  0   a v3 file labelled v2, or v2 labelled v3
///   16    2 op_size               20 20 16   the same
///   18    4 block_size            x  x  x    a merge in units other than 4096 bytes, never seen on a device
///   22    4 cluster_ops           n  n   0   op slots read as data; 0 is unclustered, 1 leaves no slot for an op
///   26    8 num_merge_ops         x  x  x    merging twice, or skipping: index of the first op of the merge order not durable on the base
///   34    4 buffer_size              x  x    a scratch region that reaches into the ops
///   38    8 sequence_data_count         x    a list that is longer than the ops it orders
///   46    4 resume_point_count          x    Android's writer lets it grow past the slots: readers clamp it
///   50    4 resume_point_max            x    misplacing the op array
///   54    8 op_count                    x    ops that were never written
///   62    8 op_count_max                x    misplacing the data
///   70    4 compression_algorithm       x    a codec that this program lacks
///   74    4 max_compression_size        x    units larger than any that a writer makes
/// </code>
/// <see cref="Parse"/> and the op readers check that header, scratch, op array and every payload lie inside the file,
/// and that op_count ≤ op_count_max &lt; 2^32. They reject a unit larger than max_compression_size, which is at most 256 KiB.
/// <see cref="CowFile.Read"/> checks that num_merge_ops ≤ length of the merge order (cow-format §2, §6, §10).
/// </summary>
public sealed record CowHeader
{
    /// <summary>The first eight bytes of every COW (cow-format §1).</summary>
    public const ulong Magic = 0x436f77634f572121;

    /// <summary>
    /// Defined by this program, not Android: replaces <see cref="Magic"/> while a merge without scratch overwrites a block that its own
    /// op reads (--allow-unsafe). Its presence means that the base is lost; Android's reader rejects it too. Bytes "unsafCOW" in the
    /// file.
    /// </summary>
    public const ulong UnsafeMagic = 0x574f436661736e75;

    /// <summary>Bytes to read before the size of the header is known: magic, versions, header_size.</summary>
    public const int PrefixBytes = 14;

    /// <summary>Bytes of the longest header, v3.</summary>
    public const int MaxHeaderBytes = 78;

    /// <summary>Byte offset of num_merge_ops in the file, 8 bytes.</summary>
    public const int MergeCountOffset = 26;

    /// <summary>
    /// Largest unit in bytes that any writer makes: 64 blocks, factor 6 (cow-format §5). Factor 7, 512 KiB, is rejected, because no
    /// writer uses it.
    /// </summary>
    public const int MaxUnitBytesLimit = 256 * 1024;

    private const int V1Bytes = 34;
    private const int V2Bytes = 38;
    private const int V3BytesBeforeUnits = 74;

    internal CowHeader() { }

    /// <summary>Major version: 1, 2 or 3. Android's daemon cannot merge version 1.</summary>
    public int Major { get; internal init; }
    /// <summary>Minor version; always 0.</summary>
    public int Minor { get; internal init; }
    /// <summary>Bytes of the header on disk: 34, 38, 74 or 78.</summary>
    public int HeaderBytes { get; internal init; }
    /// <summary>Bytes of the footer: 84, or 0 in v3.</summary>
    public int FooterBytes { get; internal init; }
    /// <summary>Bytes per op record: 20, or 16 in v3.</summary>
    public int OpBytes { get; internal init; }
    /// <summary>Bytes per block; always <see cref="CowOp.BlockSize"/>.</summary>
    public uint BlockSize { get; internal init; }
    /// <summary>v1 and v2: op slots per cluster, 0 for none. v3: 0.</summary>
    public uint ClusterOps { get; internal init; }
    /// <summary>
    /// Index into the merge order of the first op that is not durably merged. <see cref="CowFile.Read"/> checks that it is at most the
    /// length of the order.
    /// </summary>
    public ulong NumMergeOps { get; internal init; }
    /// <summary>Bytes of scratch after the header; 0 for none and in v1.</summary>
    public uint ScratchBytes { get; internal init; }
    /// <summary>v3: entries of the sequence list.</summary>
    public ulong SequenceCount { get; internal init; }
    /// <summary>v3: resume_point_count as stored; may be more than there are slots.</summary>
    public uint ResumeCount { get; internal init; }
    /// <summary>v3: resume point slots.</summary>
    public uint ResumeMax { get; internal init; }
    /// <summary>v3: ops in the array.</summary>
    public ulong OpCount { get; internal init; }
    /// <summary>v3: slots of the op array.</summary>
    public ulong OpCountMax { get; internal init; }
    /// <summary>v3: the algorithm of all payloads. v1 and v2 have no such field: see <see cref="CowFile.Compression"/>.</summary>
    public CowCompression Compression { get; internal init; }
    /// <summary>Maximum bytes of a unit according to the header; one block in v1 and v2.</summary>
    public uint MaxUnitBytes { get; internal init; }

    /// <summary>Start of the scratch region, in bytes.</summary>
    public long ScratchOffset => HeaderBytes;
    /// <summary>End of the scratch region: the first op in v1 and v2, the sequence list in v3.</summary>
    public long ScratchEnd => ScratchOffset + ScratchBytes;
    /// <summary>v3: start of the sequence list (cow-format §6.6).</summary>
    public long SequenceOffset => ScratchEnd;
    /// <summary>v3: start of the resume points.</summary>
    public long ResumeOffset => SequenceOffset + (4 * (long)SequenceCount);
    /// <summary>v3: start of the op array.</summary>
    public long OpsOffset => ResumeOffset + (16 * (long)ResumeMax);
    /// <summary>v3: start of the data.</summary>
    public long DataOffset => OpsOffset + (16 * (long)OpCountMax);

    /// <summary>
    /// Reads and checks the header of <paramref name="source"/>. Exit code 65, with the field and its value, for an invalid header.
    /// </summary>
    public static CowHeader Parse(IByteSource source) => Parse(source, unfinished: false);

    /// <summary>
    /// As <see cref="Parse(IByteSource)"/>, but an <paramref name="unfinished"/> file may have fewer ops than its sequence list has
    /// entries.
    /// </summary>
    internal static CowHeader Parse(IByteSource source, bool unfinished)
    {
        Span<byte> h = stackalloc byte[MaxHeaderBytes];
        ReadPrefix(source, h);
        CheckMagic(source, U64(h, 0));
        int headerBytes = U16(h, 12);
        CheckVersion(source, major: U16(h, 8), minor: U16(h, 10), headerBytes);
        source.Read(0, h[..headerBytes]);

        CowHeader header = Decode(h);
        FieldChecks checks = new(source.Name);
        header.CheckLayout(checks, source.Length);
        if (header.Major == 3) header.CheckVersion3(checks, source.Length, algorithm: U32(h, 70), unfinished);
        return header;
    }

    /// <summary>
    /// Reads the first <see cref="PrefixBytes"/> bytes. If the file has fewer, the exception says that it is empty, cut off, or a
    /// file of another kind.
    /// </summary>
    private static void ReadPrefix(IByteSource source, Span<byte> h)
    {
        (string name, long length) = (source.Name, source.Length);
        if (length == 0) throw Bad($"{name} is empty: not a COW file");
        if (length < PrefixBytes)
        {
            throw Foreign(source) is { } cut
                ? Bad($"{name} is not a COW file: it is {cut}")
                : new CowCutOffException($"{name} is {length} bytes long, too short for a COW header of {V1Bytes} or more");
        }
        source.Read(0, h[..PrefixBytes]);
    }

    private static void CheckMagic(IByteSource source, ulong magic)
    {
        if (magic == Magic) return;
        if (magic == UnsafeMagic)
        {
            throw Bad($"{source.Name}: an earlier merge with --allow-unsafe was cut off in the middle of a block, so the base is lost; " +
                "restore the base and the COW from elsewhere");
        }
        string zeros = magic == 0 ? " (it begins with zeros: was its copy interrupted?)" : "";
        string why = Foreign(source) is { } what ? $"it is {what}" : $"magic is 0x{magic:x16}, must be 0x{Magic:x16}{zeros}";
        throw Bad($"{source.Name} is not a COW file: {why}");
    }

    /// <summary>Requires a known version, the header size of that version, and a file that is at least as long as the header.</summary>
    private static void CheckVersion(IByteSource source, int major, int minor, int headerBytes)
    {
        string name = source.Name;
        if (major is < 1 or > 3 || minor != 0) throw Bad($"{name}: header: version is {major}.{minor}, must be 1.0, 2.0 or 3.0");
        int expected = major switch { 1 => V1Bytes, 2 => V2Bytes, _ => MaxHeaderBytes };
        if (!IsKnown(major, headerBytes))
            throw Bad($"{name}: header: header_size is {headerBytes}, must be {expected} in version {major}");
        if (source.Length < headerBytes)
            throw new CowCutOffException($"{name} is {source.Length} bytes long, shorter than its header of {headerBytes}");
    }

    /// <summary>
    /// The fields as stored, and 0 for those after the header's end, as in Android's reader. Two fields of v3 differ: an unknown algorithm
    /// becomes None, and a max_compression_size of 0 becomes one block.
    /// </summary>
    private static CowHeader Decode(ReadOnlySpan<byte> h)
    {
        int major = U16(h, 8);
        uint algorithm = major == 3 ? U32(h, 70) : 0, unit = major == 3 ? U32(h, 74) : 0;
        return new CowHeader
        {
            Major = major,
            Minor = U16(h, 10),
            HeaderBytes = U16(h, 12),
            FooterBytes = U16(h, 14),
            OpBytes = U16(h, 16),
            BlockSize = U32(h, 18),
            ClusterOps = U32(h, 22),
            NumMergeOps = U64(h, 26),
            ScratchBytes = major >= 2 ? U32(h, 34) : 0,
            SequenceCount = U64(h, 38),
            ResumeCount = U32(h, 46),
            ResumeMax = U32(h, 50),
            OpCount = U64(h, 54),
            OpCountMax = U64(h, 62),
            Compression = algorithm <= (uint)CowCompression.Zstd ? (CowCompression)algorithm : CowCompression.None,
            MaxUnitBytes = unit == 0 ? CowOp.BlockSize : unit,
        };
    }

    /// <summary>Checks the fields that all versions have.</summary>
    private void CheckLayout(FieldChecks checks, long length)
    {
        int footer = Major == 3 ? 0 : 84, op = Major == 3 ? 16 : 20;
        checks.Require(FooterBytes == footer, "footer_size", (ulong)FooterBytes, $"must be {footer} in version {Major}");
        checks.Require(OpBytes == op, "op_size", (ulong)OpBytes, $"must be {op} in version {Major}");
        checks.Require(BlockSize == CowOp.BlockSize, "block_size", BlockSize, $"must be {CowOp.BlockSize}");
        if (Major == 3) checks.Require(ClusterOps == 0, "cluster_ops", ClusterOps, "must be 0 in version 3");
        else checks.Require(ClusterOps != 1, "cluster_ops", ClusterOps, "must be 0 or at least 2");
        long left = length - HeaderBytes;
        checks.RequireRoom(ScratchBytes <= left, "buffer_size", ScratchBytes,
            $"but only {left} bytes follow the header: the file is cut off; copy it again");
    }

    /// <summary>
    /// Checks the fields that only version 3 has. The checks are ordered so that no sum can overflow if the file is shorter than
    /// 2^63 - 2^37 bytes. The sequence list is known to lie inside the file before sizes are added to its end, and these are below 2^37 in
    /// total.
    /// </summary>
    /// <param name="checks">Throws if a check fails.</param>
    /// <param name="length">Bytes of the file.</param>
    /// <param name="algorithm">compression_algorithm as stored.</param>
    /// <param name="unfinished">The file may have fewer ops than entries in its sequence list.</param>
    private void CheckVersion3(FieldChecks checks, long length, uint algorithm, bool unfinished)
    {
        checks.Require(algorithm <= (uint)CowCompression.Zstd, "compression_algorithm", algorithm,
            "must be 0 (none), 1 (gz), 2 (brotli), 3 (lz4) or 4 (zstd)");
        checks.Require(MaxUnitBytes is >= CowOp.BlockSize and <= MaxUnitBytesLimit, "max_compression_size", MaxUnitBytes,
            $"must be {CowOp.BlockSize} to {MaxUnitBytesLimit}");
        checks.Require(OpCountMax <= uint.MaxValue, "op_count_max", OpCountMax, $"must be at most {uint.MaxValue}");
        checks.Require(OpCount <= OpCountMax, "op_count", OpCount, $"but op_count_max is {OpCountMax}");
        ulong listRoom = (ulong)(length - SequenceOffset) / 4;
        checks.RequireRoom(SequenceCount <= listRoom, "sequence_data_count", SequenceCount,
            $"but the file has room for {listRoom} entries");
        ulong opRoom = (ulong)Math.Max(0, length - OpsOffset) / 16;
        checks.RequireRoom(OpCount <= opRoom, "op_count", OpCount, $"but the file has room for {opRoom} ops after byte {OpsOffset}");
        checks.Require(unfinished || SequenceCount <= OpCount, "sequence_data_count", SequenceCount, $"but there are only {OpCount} ops");
    }

    /// <summary>Throws for an invalid field, with a message that names the file, the field, the value and the rule.</summary>
    private readonly struct FieldChecks(string name)
    {
        public void Require(bool right, string field, ulong value, string rule)
        {
            if (!right) throw Bad($"{name}: header: {field} is {value}, {rule}");
        }

        /// <summary>As <see cref="Require"/>, for a rule that a valid file breaks when it is cut off.</summary>
        public void RequireRoom(bool there, string field, ulong value, string rule)
        {
            if (!there) throw new CowCutOffException($"{name}: header: {field} is {value}, {rule}");
        }
    }

    /// <summary>True if this major version exists and its header can have this size.</summary>
    public static bool IsKnown(int major, int headerBytes) => major switch
    {
        1 => headerBytes == V1Bytes,
        2 => headerBytes == V2Bytes,
        3 => headerBytes is MaxHeaderBytes or V3BytesBeforeUnits,
        _ => false,
    };

    /// <summary>Writes the header's <see cref="HeaderBytes"/> bytes, 38 or 78, to the beginning of <paramref name="header"/>.</summary>
    internal void Write(Span<byte> header)
    {
        Span<byte> h = stackalloc byte[MaxHeaderBytes];
        h.Clear();
        BinaryPrimitives.WriteUInt64LittleEndian(h, Magic);
        BinaryPrimitives.WriteUInt16LittleEndian(h[8..], (ushort)Major);
        BinaryPrimitives.WriteUInt16LittleEndian(h[10..], (ushort)Minor);
        BinaryPrimitives.WriteUInt16LittleEndian(h[12..], (ushort)HeaderBytes);
        BinaryPrimitives.WriteUInt16LittleEndian(h[14..], (ushort)FooterBytes);
        BinaryPrimitives.WriteUInt16LittleEndian(h[16..], (ushort)OpBytes);
        BinaryPrimitives.WriteUInt32LittleEndian(h[18..], BlockSize);
        BinaryPrimitives.WriteUInt32LittleEndian(h[22..], ClusterOps);
        BinaryPrimitives.WriteUInt64LittleEndian(h[26..], NumMergeOps);
        BinaryPrimitives.WriteUInt32LittleEndian(h[34..], ScratchBytes);
        BinaryPrimitives.WriteUInt64LittleEndian(h[38..], SequenceCount);
        BinaryPrimitives.WriteUInt32LittleEndian(h[46..], ResumeCount);
        BinaryPrimitives.WriteUInt32LittleEndian(h[50..], ResumeMax);
        BinaryPrimitives.WriteUInt64LittleEndian(h[54..], OpCount);
        BinaryPrimitives.WriteUInt64LittleEndian(h[62..], OpCountMax);
        BinaryPrimitives.WriteUInt32LittleEndian(h[70..], (uint)Compression);
        BinaryPrimitives.WriteUInt32LittleEndian(h[74..], MaxUnitBytes);
        h[..HeaderBytes].CopyTo(header);
    }

    /// <summary>
    /// The kind of a file without a COW's magic. Null if it is not recognized, or if it is a COW that was cut off within its magic, which
    /// would pass for text.
    /// </summary>
    private static string? Foreign(IByteSource source)
    {
        Span<byte> start = stackalloc byte[(int)Math.Min(source.Length, ForeignFormat.PrefixBytes)];
        source.Read(0, start);
        Span<byte> magics = stackalloc byte[2 * sizeof(ulong)];
        BinaryPrimitives.WriteUInt64LittleEndian(magics, Magic);
        BinaryPrimitives.WriteUInt64LittleEndian(magics[sizeof(ulong)..], UnsafeMagic);
        int length = Math.Min(start.Length, sizeof(ulong));
        ReadOnlySpan<byte> first = start[..length];
        if (first.SequenceEqual(magics[..length]) || first.SequenceEqual(magics.Slice(sizeof(ulong), length))) return null;
        return ForeignFormat.Describe(start);
    }

    private static SnapuserdException Bad(string sentence) => new(ExitCode.CowCorrupt, sentence);

    private static int U16(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt16LittleEndian(bytes[at..]);

    private static uint U32(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt32LittleEndian(bytes[at..]);

    private static ulong U64(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt64LittleEndian(bytes[at..]);
}
