using System;
using Snapuserd.Interop;
using static Snapuserd.Interop.DeviceMapperUdevAbi;

namespace Snapuserd.Serve;

/// <summary>
/// Waits until udev has processed one event of the device mapper, as libdevmapper does. The cookie names a semaphore of value 1. It travels with the ioctl and the
/// kernel's event to udev, whose last rule (95-dm-notify.rules: dmsetup udevcomplete) subtracts 1. By then the links are made, and the database says that the device
/// was activated, which udev's rules ask for when events are replayed.
/// <para>
/// Where no udev answers, the event has the flags and the cookie 0, which the rules know too, and nothing is waited for. A udev that stops answering
/// delays by <see cref="IdleMilliseconds"/>, or by <see cref="MostMilliseconds"/> while it says that it is busy.
/// </para>
/// </summary>
internal sealed class UdevCookie : IDisposable
{
    /// <summary>Longest wait, and longest wait for a udev that has nothing to do.</summary>
    internal const int MostMilliseconds = 30_000, IdleMilliseconds = 5_000;

    private const int SliceMilliseconds = 100;

    /// <summary>Keys that are tried: other programs have cookies too.</summary>
    private const int MostTries = 64;

    /// <summary>
    /// A set of ours has a second semaphore with this value, which no other program touches: it tells which process made the set. dmsetup asks for sets of at least one.
    /// </summary>
    private const int Semaphores = 2, OwnerMark = 0x5355;

    private readonly IUdev _udev;
    private int _id = -1;

    private UdevCookie(IUdev udev) => _udev = udev;

    /// <summary>What the ioctl gets as event number.</summary>
    internal uint EventNumber { get; private set; } = DM_UDEV_PRIMARY_SOURCE_FLAG << DM_UDEV_FLAGS_SHIFT;

    /// <summary>A cookie for one event.</summary>
    internal static UdevCookie Take(IUdev udev)
    {
        UdevCookie cookie = new(udev);
        if (!udev.Answers) return cookie;
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
        while (true)
        {
            int result = _udev.AwaitZero(_id, SliceMilliseconds);
            if (result == 0) return true;
            // `dmsetup udevcomplete_all` removes all sets, to release those that wait.
            if (result is not (-Errno.EAGAIN or -Errno.EINTR)) return false;
            now = _udev.Milliseconds;
            if (_udev.IsBusy) idleEnd = now + IdleMilliseconds;
            if (now >= end || now >= idleEnd || !_udev.Answers) return false;
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
