using System;
using System.Buffers.Binary;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Cow;

/// <summary>
/// Identifies an update: a SHA-256 over the parts of a COW that no merge changes, neither this program's nor Android's. A copy of a COW
/// has the digest of its original, before the merge, during it, and after it.
/// <code>
///   "snapuserd COW 1\n"
///   header      all but the magic (an unsafe merge changes it temporarily) and num_merge_ops
///   v2          each record, 20 bytes, labels, clusters and the footer included; after a Sequence record its list
///   v3          sequence list, resume points and ops, as they lie in the file
///   samples     64 samples of 16 KiB, evenly spread over a range; the whole range if it is not longer than 1 MiB. In v2 the range is
///               from the end of scratch to the end of the footer, in v3 from the end of the op slots to the end of the last payload
/// </code>
/// The digest leaves out scratch, which a merge overwrites, and everything after that range, because a device may be longer than the COW
/// on it. The samples distinguish updates with equal ops: without compression, two updates of the same blocks have the same ops.
/// </summary>
public static class CowDigest
{
    private const int Samples = 64, SampleBytes = 16 << 10;

    // End of the header's magic, and end of its num_merge_ops.
    private const int MagicEnd = 8, CountEnd = CowHeader.MergeCountOffset + sizeof(ulong);

    /// <summary>
    /// The digest of <paramref name="cow"/>, which was read from <paramref name="source"/>, as 64 lower-case hexadecimal digits. Exit
    /// code 74 when the device fails, 65 when the file has changed.
    /// </summary>
    public static string Of(IByteSource source, CowFile cow)
    {
        Sha256State state = default;
        _ = Sodium.Sha256Init(ref state);
        _ = Sodium.Sha256Update(ref state, "snapuserd COW 1\n"u8);
        byte[] buffer = new byte[SampleBytes];
        CowHeader header = cow.Header;
        Add(ref state, source, MagicEnd, CowHeader.MergeCountOffset, buffer);
        Add(ref state, source, CountEnd, header.HeaderBytes, buffer);
        long begin = header.ScratchEnd, end;
        if (header.Major < 3)
        {
            end = AddRecords(ref state, source, header, buffer);
        }
        else
        {
            Add(ref state, source, begin, header.OpsOffset + (16 * (long)header.OpCount), buffer);
            begin = end = header.DataOffset;
            for (int op = 0; op < cow.OpCount; op++)
                if (cow[op] is { DataLength: > 0 } one) end = Math.Max(end, one.DataOffset + one.DataLength);
        }
        AddSamples(ref state, source, begin, end, buffer);
        Span<byte> hash = stackalloc byte[Sodium.Sha256Bytes];
        _ = Sodium.Sha256Final(ref state, hash);
        return Convert.ToHexStringLower(hash);
    }

    /// <summary>Adds all records. Returns the offset at which the last of them, the footer, ends.</summary>
    private static long AddRecords(ref Sha256State state, IByteSource source, CowHeader header, byte[] buffer)
    {
        Sha256State records = state;
        long end = 0;
        CowFile.WalkRecords(source, header, record =>
        {
            Span<byte> bytes = stackalloc byte[OpReaderV2.RecordBytes];
            (bytes[0], bytes[1]) = ((byte)record.Type, record.Compression);
            BinaryPrimitives.WriteUInt16LittleEndian(bytes[2..], (ushort)record.DataLength);
            BinaryPrimitives.WriteUInt64LittleEndian(bytes[4..], record.NewBlock);
            BinaryPrimitives.WriteUInt64LittleEndian(bytes[12..], record.Source);
            _ = Sodium.Sha256Update(ref records, bytes);
            if (record.Type == CowOpType.Sequence)
                Add(ref records, source, record.DataPosition, record.DataPosition + record.DataLength, buffer);
            end = record.Position + (record.Type == CowOpType.Footer ? OpReaderV2.FooterBytes : 0);
        });
        state = records;
        return end;
    }

    private static void AddSamples(ref Sha256State state, IByteSource source, long begin, long end, byte[] buffer)
    {
        long length = end - begin;
        if (length <= Samples * (long)SampleBytes)
        {
            Add(ref state, source, begin, end, buffer);
            return;
        }
        for (int i = 0; i < Samples; i++)
        {
            long at = begin + ((length - SampleBytes) / (Samples - 1) * i);
            if (i == Samples - 1) at = end - SampleBytes;
            Add(ref state, source, at, at + SampleBytes, buffer);
        }
    }

    private static void Add(ref Sha256State state, IByteSource source, long from, long to, byte[] buffer)
    {
        if (from < 0 || to > source.Length)
            throw new SnapuserdException(ExitCode.CowCorrupt, $"{source.Name}: the file changed while it was read");
        for (long at = from; at < to; at += buffer.Length)
        {
            Span<byte> part = buffer.AsSpan(0, (int)Math.Min(buffer.Length, to - at));
            source.Read(at, part);
            _ = Sodium.Sha256Update(ref state, part);
        }
    }
}
