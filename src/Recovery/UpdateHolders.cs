using System;
using System.Collections.Generic;
using Snapuserd.AndroidDevice;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Recovery;

/// <summary>
/// The device-mapper devices over one block device while it is merged (android-device §10). A recovery maps the partitions of super, and
/// then super cannot be opened exclusively. Those that lie where the merge writes must be unused, and are held until disposal; the caches
/// of all are dropped before the merge and after it.
/// </summary>
internal sealed class UpdateHolders : IDisposable
{
    /// <summary>The two seconds that docs/exit-codes.md promises.</summary>
    private const int Tries = 100, TryMilliseconds = 20;

    private readonly List<DeviceHolder> _holders;
    private readonly List<int> _held = [];

    private UpdateHolders(List<DeviceHolder> holders) => _holders = holders;

    /// <summary>A device-mapper device lies on the block device, so that it cannot be opened exclusively.</summary>
    internal bool Any { get; private set; }

    /// <summary>
    /// Examines the devices over <paramref name="device"/>, which tables call <paramref name="name"/>. <paramref name="unmap"/> removes an
    /// unused linear mapping of a partition of the plan; if it is null, the mapping stays. Exit code 76 if one that matters is in use.
    /// </summary>
    internal static UpdateHolders Of(BlockDevice device, string name, UpdatePlan plan, Action<string>? unmap)
    {
        List<DeviceHolder> kept = [];
        UpdateHolders holders = new(kept);
        try
        {
            foreach (DeviceHolder one in DeviceHolders.Of(device))
            {
                holders.Any = true;
                if (name == DeviceFinder.UserData && IsBelowData(one, device)) continue;
                DeviceHolder holder = one;
                if (WrittenBelow(holder, name, plan) is { } written)
                {
                    holder = AwaitUnused(device, holder, written);
                    if (unmap != null)
                    {
                        unmap(holder.Name);
                        continue;
                    }
                    int fd = holder.Hold();
                    if (fd < 0) throw Busy($"{Mapped(holder, written)} and cannot be held: {ErrnoText.Of(fd)}");
                    holders._held.Add(fd);
                }
                kept.Add(holder);
            }
            if (unmap != null) holders.Any = DeviceHolders.Of(device).Count > 0;
            return holders;
        }
        catch
        {
            holders.Dispose();
            throw;
        }
    }

    /// <summary>Makes reads of all mapped devices see what is on the device below.</summary>
    internal void DropCaches()
    {
        foreach (DeviceHolder holder in _holders) holder.DropCache();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (int fd in _held) _ = Libc.Close(fd);
        _held.Clear();
    }

    /// <summary>What of the plan lies below the mapped device and is written; null if nothing does.</summary>
    private static string? WrittenBelow(DeviceHolder holder, string name, UpdatePlan plan)
    {
        foreach (PlannedMerge merge in plan.Merges)
        {
            if (Overlaps(holder, name, merge.Base)) return merge.Name;
            if (Overlaps(holder, name, merge.Cow)) return "the COW of " + merge.Name;
        }
        return null;
    }

    private static bool Overlaps(DeviceHolder holder, string name, IReadOnlyList<DevicePiece> pieces)
    {
        foreach (DevicePiece piece in pieces)
        {
            if (piece.Device != name) continue;
            // Where another target than linear maps to is unknown.
            if (holder.OtherType != null) return true;
            foreach ((long offset, long length) in holder.Ranges)
                if (offset < piece.End * LpGeometry.SectorBytes && piece.Start * LpGeometry.SectorBytes < offset + length) return true;
        }
        return false;
    }

    /// <summary>
    /// A device between userdata and the file system at /data, such as its encryption. Android itself writes COWs past it, also while /data
    /// is mounted (android-device §7): their blocks are pinned, and no other file has them.
    /// </summary>
    private static bool IsBelowData(DeviceHolder holder, BlockDevice device) => holder.OtherType is "default-key" or "crypt" or "bow"
        || (holder is { OtherType: null, Ranges: [(0, var length)] } && length == device.Length);

    /// <summary>Waits until udev, for one, has closed the mapped device. Throws if it stays in use, or has been replaced.</summary>
    private static DeviceHolder AwaitUnused(BlockDevice device, DeviceHolder holder, string written)
    {
        for (int tries = Tries; tries > 0 && holder is { MountPoints.Count: 0, OtherType: null } and ({ IsHeld: true } or { Opens: > 0 });
            tries--)
        {
            Libc.Sleep(TryMilliseconds);
            if (DeviceHolders.Of(device).Find(one => one.Name == holder.Name) is { } now) holder = now;
        }
        CheckUnused(holder, written);
        return holder;
    }

    private static void CheckUnused(DeviceHolder holder, string written)
    {
        string mapped = Mapped(holder, written);
        if (holder.MountPoints.Count > 0)
            throw Busy($"{mapped} and mounted at {string.Join(" and ", holder.MountPoints)}, where old blocks would show up after the "
                + $"merge; type umount {string.Join(" ", holder.MountPoints)}, then run the same again");
        if (holder.OtherType is { } type)
            throw Busy($"{mapped} with the target \"{type}\": a daemon or the kernel serves or merges it; restart the recovery, and run "
                + "this before anything uses the partition");
        if (holder.IsHeld)
            throw Busy($"{mapped} and in use: mounted elsewhere, or under a further device (dmsetup ls --tree); remove that, then run the "
                + "same again");
        if (holder.Opens > 0)
            throw Busy($"{mapped} and open in another program, perhaps the recovery's own snapuserd; end that, then run the same again");
    }

    private static string Mapped(DeviceHolder holder, string written) => $"{written} is mapped as {holder.Name}";

    private static SnapuserdException Busy(string sentence) => new(ExitCode.InUse, sentence);
}
