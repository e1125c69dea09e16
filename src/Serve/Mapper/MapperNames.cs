using System;
using Snapuserd.Block;
using Snapuserd.Interop;
using static Snapuserd.Interop.DeviceMapperAbi;

namespace Snapuserd.Serve;

/// <summary>Finds mapped devices by name, including those of other programs.</summary>
public static class MapperNames
{
    /// <summary>
    /// Buffer sizes: the first is enough for a hundred devices or more, the last for several thousand, because a name has at most 127
    /// bytes.
    /// </summary>
    private const int FirstBytes = 16 << 10, MostBytes = 1 << 20;

    /// <summary>
    /// Path of the first of <paramref name="names"/> that is a mapped device, or null. Returns the path with the kernel's own device name
    /// (dm-N), because there may be no node in /dev/mapper. Throws with exit code 69 without a device mapper, 77 without permission, and 71
    /// if no descriptors are left.
    /// </summary>
    public static string? Find(params ReadOnlySpan<string> names)
    {
        using MapperDriver driver = new();
        return Find(driver, names) is { } minor ? PathOf(minor) : null;
    }

    /// <summary>
    /// Removes a mapped device that another program has created. Throws with exit code 76 while it is open or mounted, and with 69, 71, 74
    /// and 77; a device that is gone is removed.
    /// </summary>
    public static void Remove(string name)
    {
        using MapperDriver driver = new();
        Remove(driver, name);
    }

    internal static void Remove(IMapperDriver driver, string name)
    {
        if (Find(driver, [name]) is not { } minor) return;
        Span<byte> message = stackalloc byte[MapperMessage.Bytes];
        MapperMessage.Write(message, name, 0);
        uint major = 0;
        if (driver.Control(DM_DEV_STATUS, message) == 0) major = Libc.DecodeDevice(MapperMessage.Head(message).Dev).Major;
        MapperMessage.Write(message, name, 0);
        int result = driver.Control(DM_DEV_REMOVE, message);
        if (result < 0 && result != -Errno.ENXIO)
            throw ErrnoPolicy.Failure(FailedCall.Command, result, $"the mapped device {name} cannot be removed");
        driver.RemoveNode(name, major, minor);
    }

    /// <summary>Minor number of the first of <paramref name="names"/> that is a mapped device, or null.</summary>
    internal static uint? Find(IMapperDriver driver, ReadOnlySpan<string> names)
    {
        for (int bytes = FirstBytes; ; bytes *= 4)
        {
            byte[] message = new byte[bytes];
            MapperMessage.Write(message, "", 0);
            int result = driver.Control(DM_LIST_DEVICES, message);
            if (result < 0) throw ErrnoPolicy.Failure(FailedCall.Command, result, "cannot list the mapped devices");
            if ((MapperMessage.Head(message).Flags & DM_BUFFER_FULL_FLAG) != 0 && bytes < MostBytes) continue;
            foreach (string name in names)
                if (MapperMessage.FindDevice(message, name) is { } device) return Libc.DecodeDevice(device).Minor;
            return null;
        }
    }

    /// <summary>Android's ueventd makes the nodes in /dev/block.</summary>
    private static string PathOf(uint minor)
    {
        string android = $"/dev/block/dm-{minor}";
        return Libc.Statx(Libc.AT_FDCWD, android, 0, Libc.STATX_BASIC_STATS, out _) == 0 ? android : $"/dev/dm-{minor}";
    }
}
