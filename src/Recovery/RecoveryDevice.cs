using System;
using System.Collections.Generic;
using Snapuserd.AndroidDevice;
using Snapuserd.Block;
using Snapuserd.Merge;

namespace Snapuserd.Recovery;

/// <summary>
/// An Android device, or its dumps, opened and locked: the facts about its update, and what may be merged. Disposing closes everything.
/// </summary>
public sealed class RecoveryDevice : IDisposable
{
    private readonly DeviceFinder _finder;
    private readonly MetadataMount _metadata;
    private readonly MetadataLock? _lock;
    private readonly Action<string> _warn;
    private readonly Dictionary<string, BlockDevice> _open = new(StringComparer.Ordinal);
    private readonly List<UpdateHolders> _holders = [];
    private readonly Action<string>? _unmap;
    private UpdateDevices? _update;

    /// <summary>
    /// Opens the device. If it <paramref name="writes"/>, whatever the plan writes is opened exclusively, and the state files are locked
    /// exclusively; otherwise nothing is written anywhere. If it <paramref name="concludes"/>, misc is written as well.
    /// <paramref name="unmap"/> removes a device-mapper device over a partition that is merged, by its name; null if they are to stay. Exit
    /// code 66 if super or /metadata cannot be found, 76 if something is locked or held, 65 for a dump in Android's sparse format, and
    /// those of <see cref="DeviceReader.Read"/> and <see cref="BlockDevice.Open"/>.
    /// </summary>
    public RecoveryDevice(DeviceFinder finder, bool writes, Action<string> warn, bool concludes = false, Action<string>? unmap = null)
    {
        (_finder, _warn, _unmap) = (finder, warn, unmap);
        string super = finder.SuperPath;
        _metadata = MetadataMount.Open(finder.MetadataPath, writes, warn);
        try
        {
            _lock = MetadataLock.Take(_metadata.Folder, writes);
            Examine(super, []);
            HashSet<string> written = writes ? Written(concludes) : [];
            if (written.Count > 0)
            {
                Close();
                Examine(super, written);
                if (!written.IsSupersetOf(Written(concludes)))
                    throw new SnapuserdException(ExitCode.InUse, "the partition tables changed while they were read; nothing was written");
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Everything on the device that decides what may be merged.</summary>
    public DeviceFacts Facts { get; private set; } = new();

    /// <summary>What may be merged.</summary>
    public UpdatePlan Plan { get; private set; } = new();

    /// <summary>The merge of the plan. To be called once; <paramref name="options"/> name no devices.</summary>
    public UpdateMerge Merge(DeviceOptions options, StopFlag stop, WakeUp wakeUp, IUpdateObserver? observer = null)
    {
        _update = new UpdateDevices(_open, options, stop, wakeUp);
        return new UpdateMerge(Plan, _update, observer);
    }

    /// <summary>
    /// Ends the update, whose partitions must all be merged (<see cref="UpdateConclusion"/>). Returns false if there is none to end.
    /// <paramref name="isTold"/> is false if misc has no status that could be changed.
    /// </summary>
    public bool Conclude(out bool isTold) =>
        UpdateConclusion.Write(Facts, _metadata.Folder, _open.GetValueOrDefault(DeviceFinder.Misc), _warn, out isTold);

    /// <summary>Writes the archive of <see cref="DeviceReport"/>.</summary>
    public void WriteReport(UpdateReport report, string path) =>
        DeviceReport.Write(path, report, _open, new MetadataFolder(_metadata.Folder));

    /// <summary>The block devices by their names in tables.</summary>
    public IReadOnlyDictionary<string, BlockDevice> Devices => _open;

    /// <summary>"uring" or "sync"; "" if no COW was read.</summary>
    public string Io => _update?.Io ?? "";

    /// <inheritdoc/>
    public void Dispose()
    {
        Close();
        _lock?.Dispose();
        _metadata.Dispose();
    }

    /// <summary>Reads the facts, from all devices that a table names as well.</summary>
    private void Examine(string super, HashSet<string> written)
    {
        Open(DeviceFinder.Super, super, written);
        foreach (string name in (ReadOnlySpan<string>)[DeviceFinder.Misc, DeviceFinder.UserData])
            if (_finder.Find(name) is { } path) Open(name, path, written);
        Facts = Read();
        bool more = false;
        foreach (TableFact fact in (ReadOnlySpan<TableFact>)[Facts.Table, Facts.OldTable, Facts.Images])
        {
            foreach (LpBlockDevice device in fact.Table?.Devices ?? [])
            {
                if (_open.ContainsKey(device.Name) || _finder.Find(device.Name) is not { } path) continue;
                Open(device.Name, path, written);
                more = true;
            }
        }
        if (more) Facts = Read();
        Plan = UpdatePlan.Of(Facts);
    }

    private DeviceFacts Read()
    {
        Dictionary<string, IByteSource> sources = new(StringComparer.Ordinal);
        foreach ((string name, BlockDevice device) in _open) sources.Add(name, new DescriptorSource(device));
        return DeviceReader.Read(_finder.Slot, _metadata.Folder, sources);
    }

    private void Open(string name, string path, HashSet<string> written)
    {
        // Only super and what is written needs a lock: /data may be mounted, and misc is only read.
        DeviceAccess access = written.Contains(name) ? DeviceAccess.Write | DeviceAccess.Exclusive
            : name == DeviceFinder.Super ? DeviceAccess.Shared : DeviceAccess.Read;
        // No recovery maps misc: whatever holds it is an obstacle.
        UpdateHolders? holders = written.Contains(name) && name != DeviceFinder.Misc ? Holders(name, path) : null;
        if (holders != null) access |= DeviceAccess.BesideMapper;
        BlockDevice device = BlockDevice.Open(path, access);
        _open.Add(name, device);
        ForeignFormat.RefuseSparse(device);
        if (holders == null) return;
        holders.DropCaches();
        BlockDevice.DropCache(device.Fd);
    }

    /// <summary>The device-mapper devices over a device that is written; null if there is none.</summary>
    private UpdateHolders? Holders(string name, string path)
    {
        using BlockDevice device = BlockDevice.Open(path, DeviceAccess.Read);
        UpdateHolders holders = UpdateHolders.Of(device, name, Plan, _unmap);
        if (holders.Any) _holders.Add(holders);
        return holders.Any ? holders : null;
    }

    private HashSet<string> Written(bool concludes)
    {
        HashSet<string> names = new(StringComparer.Ordinal);
        if (concludes && Facts.Misc != null && UpdateConclusion.IsPossible(Facts)) names.Add(DeviceFinder.Misc);
        foreach (PlannedMerge merge in Plan.Merges)
            foreach (DevicePiece piece in (IEnumerable<DevicePiece>)[.. merge.Base, .. merge.Cow])
                if (!piece.IsZero) names.Add(piece.Device);
        return names;
    }

    private void Close()
    {
        foreach (BlockDevice device in _open.Values)
        {
            if (_update is { IsInUse: true }) device.CloseInUse();
            else device.Dispose();
        }
        _open.Clear();
        foreach (UpdateHolders holders in _holders)
        {
            try
            {
                holders.DropCaches();
            }
            catch (SnapuserdException)
            {
                // The merge has its result already.
            }
            holders.Dispose();
        }
        _holders.Clear();
    }
}
