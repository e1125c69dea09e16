using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Text;
using Snapuserd.AndroidDevice;
using Snapuserd.Block;
using Snapuserd.Cow;
using Snapuserd.Interop;
using Snapuserd.Text;

namespace Snapuserd.Recovery;

/// <summary>
/// The archive of `android report`: what someone who helps has to see. It has no content of partitions and nothing of the user's data.
/// <code>
///   device           the slot, and the bytes of each block device: a name, a tab, a value
///   super            the geometry and the partition tables, from the beginning of super
///   misc             the merge status, 64 bytes from byte 32768 of misc
///   misc-control     the bootloader's slots, 32 bytes from byte 2048 of misc
///   metadata/…       the files of /metadata/ota and /metadata/gsi/ota
///   cow/NAME         the first 4096 bytes of each COW, with its count of merged ops
///   partitions       the progress of each merge: name, phase, ops done and in all, bytes done and in all
///   problem          why the COWs could not be read: exit code and sentence
///   status.json      what `android status --json` says
/// </code>
/// </summary>
public static class DeviceReport
{
    private const int MostTables = 4 << 20, MostFiles = 16 << 20, MostArchive = 32 << 20;
    private const int ControlOffset = 2048, ControlBytes = 32;
    private const string Device = "device", Super = "super", Misc = "misc", Partitions = "partitions", Problem = "problem", Slot = "slot";
    private const string InputOutput = "74";

    private static readonly string[] s_folders = ["ota", "ota/snapshots", "gsi/ota"];

    /// <summary>
    /// Writes the archive to a new file. <paramref name="devices"/> are the block devices by their names in tables. Exit code 73 if the
    /// file exists or cannot be created, and 74 if a device cannot be read.
    /// </summary>
    internal static void Write(string path, UpdateReport report, IReadOnlyDictionary<string, BlockDevice> devices, IMetadataFiles metadata)
    {
        byte[] archive = Archive(report, devices, metadata);
        int fd = Retry.OpenAt(Libc.AT_FDCWD, path, Libc.O_WRONLY | Libc.O_CREAT | Libc.O_EXCL | Libc.O_CLOEXEC, Modes.PrivateFile);
        if (fd == -Errno.EEXIST)
            throw new SnapuserdException(ErrnoPolicy.CodeOf(FailedCall.Create, fd), $"{path} exists; name another file, or remove it");
        int result = fd < 0 ? fd : Transfer.WriteAll(fd, archive, 0);
        if (result >= 0) result = FileFlush.Of(fd);
        if (FileFlush.IsLacking(result)) result = 0;
        if (fd >= 0) _ = Libc.Close(fd);
        if (result >= 0) return;
        if (fd >= 0) _ = Libc.Unlink(path);
        throw ErrnoPolicy.Failure(FailedCall.Create, result, $"{path} cannot be written");
    }

    private static byte[] Archive(UpdateReport report, IReadOnlyDictionary<string, BlockDevice> devices, IMetadataFiles metadata)
    {
        (DeviceFacts facts, UpdatePlan plan) = (report.Facts, report.Plan);
        using MemoryStream archive = new();
        StringBuilder about = new($"{Slot}\t{facts.Slot}\n");
        foreach ((string name, BlockDevice device) in devices)
            about.Append(CultureInfo.InvariantCulture, $"{name}\t{device.Length}\n");
        Add(archive, Device, about.ToString());
        BlockDevice super = devices[Super];
        AddPart(archive, Super, super, 0, TablesEnd(super));
        if (devices.TryGetValue(Misc, out BlockDevice? misc) && misc.Length >= MiscPartition.EndOffset)
        {
            AddPart(archive, Misc, misc, MiscPartition.Offset, MiscPartition.Bytes);
            AddPart(archive, "misc-control", misc, ControlOffset, ControlBytes);
        }
        foreach (string folder in s_folders)
            foreach (string name in metadata.NamesIn(folder) ?? [])
                if (archive.Length < MostFiles && TryRead(metadata, $"{folder}/{name}") is { } bytes)
                    TarArchive.Add(archive, $"metadata/{folder}/{name}", bytes);
        foreach (PlannedMerge merge in plan.Merges)
        {
            DevicePiece first = merge.Cow[0];
            // Sectors of userdata without the magic of a COW may hold something of the user's.
            if (devices.TryGetValue(first.Device, out BlockDevice? device) && TryRead(device, first.Start * LpGeometry.SectorBytes,
                (int)Math.Min(Sizes.Block, first.Sectors * LpGeometry.SectorBytes)) is { Length: > sizeof(ulong) } head
                && BinaryPrimitives.ReadUInt64LittleEndian(head) == CowHeader.Magic)
                TarArchive.Add(archive, $"cow/{merge.Name}", head);
        }
        StringBuilder progress = new();
        foreach (PartitionProgress one in report.Partitions)
            progress.Append(CultureInfo.InvariantCulture,
                $"{one.Name}\t{one.Phase}\t{one.OpsDone}\t{one.OpsTotal}\t{one.BytesDone}\t{one.BytesTotal}\n");
        Add(archive, Partitions, progress.ToString());
        if (report.Problem is { } problem)
            Add(archive, Problem, string.Create(CultureInfo.InvariantCulture, $"{(int)problem.Code}\t{problem.Message}"));
        StringBuilder json = new();
        foreach (JsonLine line in report.Json()) json.Append(line.ToString()).Append('\n');
        Add(archive, "status.json", json.ToString());
        TarArchive.End(archive);
        return archive.ToArray();
    }

    /// <summary>
    /// What <see cref="UpdateReport"/> says about the device that an archive is from. Exit code 66 if there is no such file, 65 if it is no
    /// report.
    /// </summary>
    public static UpdateReport Read(string path)
    {
        byte[] archive = SmallFile.Read(path, MostArchive) ?? throw new SnapuserdException(ExitCode.InputMissing, $"{path} does not exist");
        Dictionary<string, byte[]> files = TarArchive.Read(archive) ?? throw Bad(path, "it is not a tar archive, or it is cut off");
        if (!files.TryGetValue(Device, out byte[]? about) || !files.TryGetValue(Super, out byte[]? tables))
            throw Bad(path, "it has no file device or super");
        string? slot = null;
        Dictionary<string, IByteSource> sources = new(StringComparer.Ordinal);
        foreach (string line in Lines(about))
        {
            string[] words = line.Split('\t');
            if (words.Length != 2) throw Bad(path, "its file device is damaged");
            if (words[0] == Slot) slot = Slots.IsSlot(words[1]) ? words[1] : null;
            else if (!long.TryParse(words[1], NumberStyles.None, CultureInfo.InvariantCulture, out long bytes))
                throw Bad(path, "its file device is damaged");
            else sources[words[0]] = words[0] == Super ? new Excerpt(tables, 0, bytes)
                : words[0] == Misc && files.TryGetValue(Misc, out byte[]? misc) && misc.Length >= MiscPartition.Bytes
                ? new Excerpt(misc, MiscPartition.Offset, bytes)
                : new Excerpt([], 0, words[0] == Misc ? 0 : bytes);
        }
        if (!sources.ContainsKey(Super)) throw Bad(path, "its file device does not name super");
        DeviceFacts facts = DeviceReader.Read(slot, new ReportFiles(files), sources);
        UpdatePlan plan = UpdatePlan.Of(facts);
        List<PartitionProgress> partitions = Progress(path, files, plan);
        SnapuserdException? problem = ProblemOf(files);
        if (partitions.Count < plan.Merges.Count && problem == null) throw Others(path);
        return new UpdateReport(facts, plan, partitions, problem);
    }

    private static List<PartitionProgress> Progress(string path, Dictionary<string, byte[]> files, UpdatePlan plan)
    {
        List<PartitionProgress> partitions = [];
        foreach (string line in Lines(files.GetValueOrDefault(Partitions) ?? []))
        {
            string[] words = line.Split('\t');
            long[] numbers = new long[6];
            for (int i = 1; i < numbers.Length; i++)
                if (words.Length != numbers.Length
                    || !long.TryParse(words[i], NumberStyles.None, CultureInfo.InvariantCulture, out numbers[i]))
                    throw Bad(path, "its file partitions is damaged");
            if (partitions.Count >= plan.Merges.Count || plan.Merges[partitions.Count].Name != words[0]) throw Others(path);
            // The phase; ops done and in all; bytes done and in all.
            if (numbers[1] is not (1 or 2) || numbers[3] > int.MaxValue || numbers[2] > numbers[3] || numbers[4] > numbers[5])
                throw Bad(path, "its file partitions is damaged");
            partitions.Add(new PartitionProgress(words[0], (int)numbers[1], (int)numbers[2], (int)numbers[3], numbers[4], numbers[5]));
        }
        return partitions.Count is 0 || partitions.Count == plan.Merges.Count ? partitions : throw Others(path);
    }

    private static SnapuserdException? ProblemOf(Dictionary<string, byte[]> files)
    {
        string[] words = ByteText.Decode(files.GetValueOrDefault(Problem) ?? []).Split('\t', 2);
        ExitCode code = words[0] == InputOutput ? ExitCode.InputOutput : ExitCode.CowCorrupt;
        return words.Length == 2 ? new SnapuserdException(code, words[1]) : null;
    }

    /// <summary>The bytes of super before its first partition; without a geometry only those of the geometry itself.</summary>
    private static int TablesEnd(BlockDevice super)
    {
        int end = LpGeometry.ReservedBytes;
        for (int copy = 0; copy < 2; copy++, end += LpGeometry.PaddedBytes)
            if (TryRead(super, end, LpGeometry.PaddedBytes) is { } bytes && LpGeometry.Parse(bytes, out LpGeometry? geometry) == null)
                return (int)Math.Min(geometry!.EndOffset, MostTables);
        return end;
    }

    /// <summary>Adds a part of a device; one that cannot be read is left out.</summary>
    private static void AddPart(MemoryStream archive, string name, BlockDevice device, long offset, int length)
    {
        if (TryRead(device, offset, (int)Math.Min(length, device.Length - offset)) is { } bytes) TarArchive.Add(archive, name, bytes);
    }

    private static byte[]? TryRead(BlockDevice device, long offset, int length)
    {
        if (length < 0 || offset > device.Length - length) return null;
        byte[] bytes = new byte[length];
        try
        {
            new DescriptorSource(device).Read(offset, bytes);
            return bytes;
        }
        catch (SnapuserdException e) when (e.Code == ExitCode.InputOutput)
        {
            return null;
        }
    }

    /// <summary>A file that can be no state file, or cannot be read, is left out.</summary>
    private static byte[]? TryRead(IMetadataFiles metadata, string path)
    {
        try
        {
            // Only these two have a partition table.
            bool isTable = path is "ota/old-partition-metadata" or "gsi/ota/lp_metadata";
            return metadata.Read(path, isTable ? LpReader.MostFileBytes : MetadataFolder.MaxBytes);
        }
        catch (SnapuserdException e) when (e.Code is ExitCode.CowCorrupt or ExitCode.InputOutput)
        {
            return null;
        }
    }

    private static void Add(MemoryStream archive, string name, string text) =>
        TarArchive.Add(archive, name, ByteText.Encode(text));

    private static string[] Lines(byte[] file) => ByteText.Decode(file).Split('\n', StringSplitOptions.RemoveEmptyEntries);

    private static SnapuserdException Others(string path) =>
        Bad(path, "its file partitions names others than its tables and state files");

    private static SnapuserdException Bad(string path, string why) =>
        new(ExitCode.CowCorrupt, $"{path} is no report of `snapuserd android report`: {why}");

    /// <summary>A part of a device that has <paramref name="length"/> bytes.</summary>
    private sealed class Excerpt(byte[] bytes, long start, long length) : IByteSource
    {
        public string Name => "the report";

        public long Length => length;

        public void Read(long offset, Span<byte> destination)
        {
            if (offset < start || offset - start > bytes.Length - destination.Length)
                throw new SnapuserdException(ExitCode.InputOutput, "the report does not have this part of the device");
            bytes.AsSpan((int)(offset - start), destination.Length).CopyTo(destination);
        }
    }

    private sealed class ReportFiles(Dictionary<string, byte[]> files) : IMetadataFiles
    {
        private const string Root = "metadata/";

        public byte[]? Read(string path, int most) =>
            files.TryGetValue(Root + path, out byte[]? bytes) && bytes.Length <= most ? bytes : null;

        public IReadOnlyList<string>? NamesIn(string path)
        {
            List<string> names = [];
            string folder = $"{Root}{path}/";
            foreach (string name in files.Keys)
                if (name.StartsWith(folder, StringComparison.Ordinal) && !name.AsSpan(folder.Length).Contains('/'))
                    names.Add(name[folder.Length..]);
            names.Sort(StringComparer.Ordinal);
            return names.Count > 0 ? names : null;
        }
    }
}
