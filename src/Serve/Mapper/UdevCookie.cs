using System;
using Snapuserd.Interop;
using static Snapuserd.Interop.DeviceMapperUdevAbi;

namespace Snapuserd.Serve;

/// <summary>
/// Waits until udev has processed one event of the device mapper, as libdevmapper does. The cookie names a semaphore of value 1. It travels with the ioctl and the
/// kernel's event to udev, whose last rule (95-dm-notify.rules: dmsetup udevcomplete) subtracts 1. By then the links are made, and the database says that the device
/// was activated, which udev's rules ask for when events are replayed.
/// <para>
/// Where no udev runs, the event has the flags and the cookie 0, which the rules know too, and nothing is waited for. Nor is a udev that processed its events and did not answer, because it lacks
/// that rule: whether it has the rule cannot be seen, because a server has a root of its own. One that stops working delays by <see cref="IdleMilliseconds"/>, or by
/// <see cref="MostMilliseconds"/> while it says that it is busy.
/// </para>
/// </summary>
internal sealed class UdevCookie : IDisposable
{
    /// <summary>Longest wait, and longest wait for a udev that has nothing to do.</summary>
    internal const int MostMilliseconds = 30_000, IdleMilliseconds = 5_000;

    private const int SliceMilliseconds = 50;

    /// <summary>Slices in which udev says that it is idle, until that is believed: it may be between two events.</summary>
    private const int QuietSlices = 4;

    /// <summary>Keys that are tried: other programs have cookies too.</summary>
    private const int MostTries = 64;

    /// <summary>
    /// A set of ours has a second semaphore with this value, which no other program touches: it tells which process made the set. dmsetup asks for sets of at least one.
    /// </summary>
    private const int Semaphores = 2, OwnerMark = 0x5355;

    private readonly IUdev _udev;
    private readonly uint _major, _minor;
    private readonly ulong _entry;
    private int _id = -1;

    private UdevCookie(IUdev udev, uint major, uint minor) => (_udev, _major, _minor, _entry) = (udev, major, minor, udev.EntryOf(major, minor));

    /// <summary>What the ioctl gets as event number.</summary>
    internal uint EventNumber { get; private set; } = DM_UDEV_PRIMARY_SOURCE_FLAG << DM_UDEV_FLAGS_SHIFT;

    /// <summary>A cookie for one event of a block device.</summary>
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
            // No semaphores in this kernel, or none left.
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

    /// <summary>Waits until udev has processed the event. False if it did not, or nothing is waited for.</summary>
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
            // `dmsetup udevcomplete_all` removes all sets, to release those that wait.
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

    /// <summary>Removes the sets of processes of ours that were killed.</summary>
    private static void RemoveOrphans(IUdev udev)
    {
        int highest = udev.HighestIndex();
        for (int index = 0; index <= highest; index++)
        {
            int id = udev.SetAtIndex(index, out int key);
            if (id < 0 || key >> DM_UDEV_FLAGS_SHIFT != DM_COOKIE_MAGIC || udev.ValueOf(id, 1) != OwnerMark || !udev.IsOrphan(id, 1)) continue;
            _ = udev.RemoveSemaphores(id);
        }
    }
}
