using System;
using System.Collections.Generic;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.AndroidDevice;

/// <summary>The files below /metadata, by their paths there: "ota/state".</summary>
public interface IMetadataFiles
{
    /// <summary>
    /// The bytes of a file, null if it does not exist. Exit code 65 for one that cannot be a state file: with more than
    /// <paramref name="most"/> bytes, or not a regular one.
    /// </summary>
    byte[]? Read(string path, int most);

    /// <summary>The names in a folder, sorted; null if there is no such folder. "" stands for /metadata itself.</summary>
    IReadOnlyList<string>? NamesIn(string path);
}

/// <summary>Reads the files of an update below /metadata (android-device §4); changes none of them.</summary>
public sealed class MetadataFolder(string folder) : IMetadataFiles
{
    /// <summary>Larger than any state file, but the tables of partitions.</summary>
    public const int MaxBytes = 64 << 10;

    private const int MostSnapshots = 1024;

    /// <summary>
    /// Adds the <paramref name="files"/> to <paramref name="facts"/>, whose slot must be set. A file that is missing is a fact. Exit code
    /// 65 for a file that cannot be a state file, and those of <see cref="FailedCall.Open"/> for one that cannot be read.
    /// </summary>
    public static DeviceFacts ReadInto(DeviceFacts facts, IMetadataFiles files)
    {
        const string ota = "ota";
        UpdateStatus? status = null;
        string? problem = files.Read(ota + "/state", MaxBytes) is { } state ? UpdateStatus.Parse(state, out status) : null;
        return facts with
        {
            Status = problem == null ? status ?? new UpdateStatus() : null,
            StatusProblem = problem,
            SourceSlot = files.Read(ota + "/snapshot-boot", MaxBytes) is { } boot ? Encoding.ASCII.GetString(boot) : null,
            WithoutSlotSwitch = files.Read(ota + "/snapshot-boot-without-slot-switch", MaxBytes) != null,
            RolledBack = files.Read(ota + "/rollback-indicator", MaxBytes) != null,
            SnapuserdFromSystem = files.Read(ota + "/snapuserd-from-system", MaxBytes) != null,
            Snapshots = Snapshots(files, ota + "/snapshots"),
            OldTable = Table(files, ota + "/old-partition-metadata", facts.Slot == null ? 0 : Slots.Number(Slots.Other(facts.Slot))),
            Images = Table(files, "gsi/ota/lp_metadata", 0),
        };
    }

    private static List<SnapshotFile> Snapshots(IMetadataFiles files, string folder)
    {
        List<SnapshotFile> snapshots = [];
        foreach (string name in files.NamesIn(folder) ?? [])
        {
            // A temporary file of an interrupted write.
            if (name.EndsWith(".tmp", StringComparison.Ordinal)) continue;
            if (files.Read(folder + "/" + name, MaxBytes) is not { } bytes) continue;
            string? problem = SnapshotRecord.Parse(bytes, out SnapshotRecord record);
            snapshots.Add(new SnapshotFile(name, record, problem));
        }
        return snapshots;
    }

    /// <inheritdoc/>
    public IReadOnlyList<string>? NamesIn(string path)
    {
        string place = path.Length == 0 ? folder : $"{folder}/{path}";
        int fd = SmallFile.OpenKeepingAccessTime(place, Libc.O_RDONLY | Libc.O_DIRECTORY | Libc.O_CLOEXEC);
        if (fd is -Errno.ENOENT or -Errno.ENOTDIR) return null;
        List<string> names = [];
        int result = fd < 0 ? fd : Libc.NamesIn(fd, names);
        if (fd >= 0) _ = Libc.Close(fd);
        if (result < 0) throw ErrnoPolicy.Failure(FailedCall.Open, result, $"{place} cannot be read");
        if (names.Count > MostSnapshots)
            throw new SnapuserdException(ExitCode.CowCorrupt, $"{place} has {names.Count} files, too many for one update");
        names.Sort(StringComparer.Ordinal);
        return names;
    }

    private static TableFact Table(IMetadataFiles files, string path, int slot)
    {
        if (files.Read(path, LpReader.MostFileBytes) is not { } file) return TableFact.Missing;
        string? problem = LpReader.ReadFile(file, slot, out LpTable? table);
        return new TableFact(table, problem);
    }

    /// <summary>Anything but a regular file, such as a pipe or a link to another file, is not a state file.</summary>
    public byte[]? Read(string path, int most)
    {
        string place = $"{folder}/{path}";
        int result = Libc.Statx(Libc.AT_FDCWD, place, Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS, out StatxData status);
        if (result is -Errno.ENOENT or -Errno.ENOTDIR) return null;
        if (result < 0) throw ErrnoPolicy.Failure(FailedCall.Open, result, $"{place} cannot be read");
        if ((status.Mode & (uint)Libc.S_IFMT) != (uint)Libc.S_IFREG)
            throw new SnapuserdException(ExitCode.CowCorrupt, $"{place} is not a regular file");
        byte[]? bytes = SmallFile.Read(place, most, keepsAccessTime: true);
        return bytes != null && bytes.Length > most
            ? throw new SnapuserdException(ExitCode.CowCorrupt, $"{place} is larger than a state file can be ({most} bytes)") : bytes;
    }
}
