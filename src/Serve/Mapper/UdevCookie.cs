using System;
using Snapuserd.Interop;
using static Snapuserd.Interop.DeviceMapperUdevAbi;

namespace Snapuserd.Serve;

/// <summary>
/// Waits until udev has processed one event of the device mapper, as libdevmapper does. The cookie is the key of a semaphore with the value
/// 1. The ioctl passes it to the kernel, and the kernel's event passes it to udev. udev's last rule (95-dm-notify.rules: dmsetup
/// udevcomplete) subtracts 1. At that time the links exist, and udev's database records that the device was activated, which the rules
/// check when events are replayed.
/// <para>
/// Without a udev daemon, the cookie is 0, which the rules accept too, and this class does not wait. A udev without that rule never changes
/// the semaphore, so the wait also ends when udev is idle. (A server cannot look for the rule, because it has a root of its own.) If udev
/// hangs, the wait ends after <see cref="IdleMilliseconds"/>, or after <see cref="MostMilliseconds"/> if udev reports that it is busy.
/// </para>
/// </summary>
internal sealed class UdevCookie : IDisposable
{
    /// <summary>The longest wait in all, and the longest wait while udev reports no work.</summary>
    internal const int MostMilliseconds = 30_000, IdleMilliseconds = 5_000;

    private const int SliceMilliseconds = 50;

    /// <summary>
    /// The number of slices in a row without work after which udev counts as idle: a single one may lie between two events.
    /// </summary>
    private const int QuietSlices = 4;

    /// <summary>The maximum number of keys to try, because other programs have cookies too.</summary>
    private const int MostTries = 64;

    /// <summary>
    /// Our sets have a second semaphore with this value, which other programs do not change. So the kernel keeps the process ID of the
    /// set's creator with it. dmsetup accepts sets with more than one semaphore.
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

    /// <summary>Creates a cookie for one event of a block device.</summary>
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

    /// <summary>Waits until udev has processed the event. False if it did not in time, or without a cookie.</summary>
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
            // The set may be gone: `dmsetup udevcomplete_all` removes all sets to release the waiting processes.
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

    /// <summary>Removes the semaphore sets of killed processes of this program.</summary>
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
