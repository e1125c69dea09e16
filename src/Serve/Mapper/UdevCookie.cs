using System;
using Snapuserd.Interop;
using static Snapuserd.Interop.DeviceMapperUdevAbi;

namespace Snapuserd.Serve;

/// <summary>
/// Waits until udev has processed one event of the device mapper, as libdevmapper does. The cookie names a semaphore of value 1. It travels
/// with the ioctl and the kernel's event to udev, whose last rule (95-dm-notify.rules: dmsetup udevcomplete) subtracts 1. By then the links
/// exist, and udev's database records that the device was activated, which udev's rules check when events are replayed.
/// <para>
/// Without a udev daemon, the event has the flags and the cookie 0, which the rules accept too, and nothing waits. A udev without that rule
/// processes its events and does not answer; the wait ends when it is idle. The rule itself cannot be checked, because a server has a root
/// of its own. A udev that hangs delays by <see cref="IdleMilliseconds"/>, or by <see cref="MostMilliseconds"/> while it reports that it is
/// busy.
/// </para>
/// </summary>
internal sealed class UdevCookie : IDisposable
{
    /// <summary>The longest wait, and the longest wait for an idle udev.</summary>
    internal const int MostMilliseconds = 30_000, IdleMilliseconds = 5_000;

    private const int SliceMilliseconds = 50;

    /// <summary>Idle slices in a row after which udev counts as idle: a single one may lie between two events.</summary>
    private const int QuietSlices = 4;

    /// <summary>Keys to try: other programs have cookies too.</summary>
    private const int MostTries = 64;

    /// <summary>
    /// Our sets have a second semaphore with this value, which other programs do not touch: it identifies the process that made the set.
    /// dmsetup accepts sets of one or more.
    /// </summary>
    private const int Semaphores = 2, OwnerMark = 0x5355;

    private readonly IUdev _udev;
    private readonly uint _major, _minor;
    private readonly ulong _entry;
    private int _id = -1;

    private UdevCookie(IUdev udev, uint major, uint minor) =>
        (_udev, _major, _minor, _entry) = (udev, major, minor, udev.EntryOf(major, minor));

    /// <summary>The event number for the ioctl.</summary>
    internal uint EventNumber { get; private set; } = DM_UDEV_PRIMARY_SOURCE_FLAG << DM_UDEV_FLAGS_SHIFT;

    /// <summary>Makes a cookie for one event of a block device.</summary>
    internal static UdevCookie Take(IUdev udev, uint major, uint minor)
    {
        UdevCookie cookie = new(udev, major, minor);
        if (!udev.Runs) return cookie;
        RemoveOrphans(udev);
        for (int tries = 0; tries < MostTries; tries++)
        {
            uint number = udev.Random & 0xffff;
            if (number == 0) continue;
            int id = udev.CreateSemaphores((DM_COOKIE_MAGIC << DM_UDEV_FLAGS_SHIFT) | (int)number, Semaphores);
            if (id == -Errno.EEXIST) continue;
            // This kernel has no semaphores, or none are left.
            if (id < 0) return cookie;
            cookie._id = id;
            if (udev.SetSemaphore(id, 1, OwnerMark) < 0 || udev.SetSemaphore(id, 0, 1) < 0)
            {
                cookie.Dispose();
                return cookie;
            }
            cookie.EventNumber |= number;
            return cookie;
        }
        return cookie;
    }

    /// <summary>Waits until udev has processed the event. False if it did not, or without a cookie.</summary>
    internal bool Await()
    {
        if (_id < 0) return false;
        long now = _udev.Milliseconds, end = now + MostMilliseconds, idleEnd = now + IdleMilliseconds;
        bool worked = false;
        int quiet = 0;
        while (true)
        {
            int result = _udev.AwaitZero(_id, SliceMilliseconds);
            if (result == 0) return true;
            // `dmsetup udevcomplete_all` removes all sets, to release the waiting processes.
            if (result is not (-Errno.EAGAIN or -Errno.EINTR)) return false;
            now = _udev.Milliseconds;
            bool busy = _udev.IsBusy;
            worked |= busy || _udev.EntryOf(_major, _minor) != _entry;
            if (busy) (idleEnd, quiet) = (now + IdleMilliseconds, 0);
            else quiet++;
            if (now >= end || now >= idleEnd || (worked && quiet >= QuietSlices) || !_udev.Runs) return false;
        }
    }

    /// <summary>Removes the semaphore.</summary>
    public void Dispose()
    {
        if (_id >= 0) _ = _udev.RemoveSemaphores(_id);
        _id = -1;
    }

    /// <summary>Removes the sets that killed processes of ours have left.</summary>
    private static void RemoveOrphans(IUdev udev)
    {
        int highest = udev.HighestIndex();
        for (int index = 0; index <= highest; index++)
        {
            int id = udev.SetAtIndex(index, out int key);
            if (id < 0 || key >> DM_UDEV_FLAGS_SHIFT != DM_COOKIE_MAGIC || udev.ValueOf(id, 1) != OwnerMark || !udev.IsOrphan(id, 1))
                continue;
            _ = udev.RemoveSemaphores(id);
        }
    }
}
