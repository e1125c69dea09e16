using System;
using System.Collections.Generic;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.AndroidDevice;

/// <summary>Reads the files of an update below /metadata (android-device §4); changes none of them.</summary>
public static class MetadataFolder
{
    private const int MostBytes = 64 << 10;
    private const int MostSnapshots = 1024;

    /// <summary>
    /// Adds the files below <paramref name="folder"/>, which is /metadata itself, to <paramref name="facts"/>, whose slot must be set. A
    /// file that is missing is a fact; exit codes of <see cref="FailedCall.Open"/> for one that cannot be read.
    /// </summary>
    public static DeviceFacts ReadInto(DeviceFacts facts, string folder)
    {
        string ota = folder + "/ota";
        int source = facts.Slot == "_b" ? 0 : 1;
        UpdateStatus? status = null;
        string? problem = Read(ota + "/state") is { } state ? UpdateStatus.Parse(state, out status) : null;
        return facts with
        {
            Status = problem == null ? status ?? new UpdateStatus() : null,
            StatusProblem = problem,
            SourceSlot = Read(ota + "/snapshot-boot") is { } boot ? Encoding.ASCII.GetString(boot) : null,
            WithoutSlotSwitch = Read(ota + "/snapshot-boot-without-slot-switch") != null,
            RolledBack = Read(ota + "/rollback-indicator") != null,
            SnapuserdFromSystem = Read(ota + "/snapuserd-from-system") != null,
            Snapshots = Snapshots(ota + "/snapshots"),
            OldTable = Table(ota + "/old-partition-metadata", source),
            Images = Table(folder + "/gsi/ota/lp_metadata", 0),
        };
    }

    private static List<SnapshotFile> Snapshots(string folder)
    {
        List<SnapshotFile> files = [];
        foreach (string name in Names(folder))
        {
            // A temporary file of an interrupted write.
            if (name.EndsWith(".tmp", StringComparison.Ordinal)) continue;
            if (Read(folder + "/" + name) is not { } bytes) continue;
            string? problem = SnapshotRecord.Parse(bytes, out SnapshotRecord record);
            files.Add(new SnapshotFile(name, record, problem));
        }
        return files;
    }

    private static List<string> Names(string folder)
    {
        List<string> names = [];
        int fd = Retry.OpenAt(Libc.AT_FDCWD, folder, Libc.O_RDONLY | Libc.O_DIRECTORY | Libc.O_CLOEXEC);
        if (fd is -Errno.ENOENT) return names;
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
        if (SmallFile.Read(path, LpReader.MostFileBytes) is not { } file) return TableFact.Missing;
        if (file.Length > LpReader.MostFileBytes) return new TableFact(null, "it is too long for a partition table");
        string? problem = LpReader.ReadFile(file, slot, out LpTable? table);
        return new TableFact(table, problem);
    }

    private static byte[]? Read(string path)
    {
        byte[]? bytes = SmallFile.Read(path, MostBytes);
        return bytes is { Length: > MostBytes }
            ? throw new SnapuserdException(ExitCode.CowCorrupt, $"{path} has more than {MostBytes} bytes; it is no state file") : bytes;
    }
}
