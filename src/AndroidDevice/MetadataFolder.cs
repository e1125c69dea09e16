using System;
using System.Collections.Generic;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.AndroidDevice;

/// <summary>Reads the files of an update below /metadata (android-device §4); changes none of them.</summary>
public static class MetadataFolder
{
    private const int MaxBytes = 64 << 10;
    private const int MostSnapshots = 1024;

    /// <summary>
    /// Adds the files below <paramref name="folder"/>, which is /metadata itself, to <paramref name="facts"/>, whose slot must be set. A
    /// file that is missing is a fact. Exit code 66 if the folder is missing, 65 for a file that cannot be a state file, and those of
    /// <see cref="FailedCall.Open"/> for one that cannot be read.
    /// </summary>
    public static DeviceFacts ReadInto(DeviceFacts facts, string folder)
    {
        if (NamesIn(folder) == null)
            throw new SnapuserdException(ExitCode.InputMissing, $"{folder} does not exist; name the metadata partition with --metadata");
        string ota = folder + "/ota";
        UpdateStatus? status = null;
        string? problem = Read(ota + "/state", MaxBytes) is { } state ? UpdateStatus.Parse(state, out status) : null;
        return facts with
        {
            Status = problem == null ? status ?? new UpdateStatus() : null,
            StatusProblem = problem,
            SourceSlot = Read(ota + "/snapshot-boot", MaxBytes) is { } boot ? Encoding.ASCII.GetString(boot) : null,
            WithoutSlotSwitch = Read(ota + "/snapshot-boot-without-slot-switch", MaxBytes) != null,
            RolledBack = Read(ota + "/rollback-indicator", MaxBytes) != null,
            SnapuserdFromSystem = Read(ota + "/snapuserd-from-system", MaxBytes) != null,
            Snapshots = Snapshots(ota + "/snapshots"),
            OldTable = Table(ota + "/old-partition-metadata", facts.Slot == null ? 0 : Slots.Number(Slots.Other(facts.Slot))),
            Images = Table(folder + "/gsi/ota/lp_metadata", 0),
        };
    }

    private static List<SnapshotFile> Snapshots(string folder)
    {
        List<SnapshotFile> files = [];
        foreach (string name in NamesIn(folder) ?? [])
        {
            // A temporary file of an interrupted write.
            if (name.EndsWith(".tmp", StringComparison.Ordinal)) continue;
            if (Read(folder + "/" + name, MaxBytes) is not { } bytes) continue;
            string? problem = SnapshotRecord.Parse(bytes, out SnapshotRecord record);
            files.Add(new SnapshotFile(name, record, problem));
        }
        return files;
    }

    /// <summary>The names in a folder, sorted; null if there is no such folder.</summary>
    private static List<string>? NamesIn(string folder)
    {
        int fd = Retry.OpenAt(Libc.AT_FDCWD, folder, Libc.O_RDONLY | Libc.O_DIRECTORY | Libc.O_CLOEXEC);
        if (fd is -Errno.ENOENT or -Errno.ENOTDIR) return null;
        List<string> names = [];
        int result = fd < 0 ? fd : Libc.NamesIn(fd, names);
        if (fd >= 0) _ = Libc.Close(fd);
        if (result < 0) throw ErrnoPolicy.Failure(FailedCall.Open, result, $"{folder} cannot be read");
        if (names.Count > MostSnapshots)
            throw new SnapuserdException(ExitCode.CowCorrupt, $"{folder} has {names.Count} files, too many for one update");
        names.Sort(StringComparer.Ordinal);
        return names;
    }

    private static TableFact Table(string path, int slot)
    {
        if (Read(path, LpReader.MostFileBytes) is not { } file) return TableFact.Missing;
        string? problem = LpReader.ReadFile(file, slot, out LpTable? table);
        return new TableFact(table, problem);
    }

    /// <summary>
    /// The bytes of a regular file, null if it does not exist. Anything else of that name, such as a pipe or a link to another file, is not
    /// a state file.
    /// </summary>
    private static byte[]? Read(string path, int most)
    {
        int result = Libc.Statx(Libc.AT_FDCWD, path, Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS, out StatxData status);
        if (result is -Errno.ENOENT or -Errno.ENOTDIR) return null;
        if (result < 0) throw ErrnoPolicy.Failure(FailedCall.Open, result, $"{path} cannot be read");
        if ((status.Mode & (uint)Libc.S_IFMT) != (uint)Libc.S_IFREG)
            throw new SnapuserdException(ExitCode.CowCorrupt, $"{path} is not a regular file");
        byte[]? bytes = SmallFile.Read(path, most);
        return bytes != null && bytes.Length > most
            ? throw new SnapuserdException(ExitCode.CowCorrupt, $"{path} is larger than a state file can be ({most} bytes)") : bytes;
    }
}
