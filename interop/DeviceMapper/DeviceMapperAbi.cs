using System;
using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

// Linux's device mapper (linux/dm-ioctl.h, Documentation/admin-guide/device-mapper), all of it through ioctls of /dev/mapper/control:
//
//   0     DmIoctl          the request, by name; DataSize bytes in all, overwritten by the reply
//   312   at DataStart     TABLE_LOAD    a DmTargetSpec, its parameters as text with a closing zero, and so on at multiples of 8
//                          TABLE_STATUS  the same from the kernel
//                          LIST_DEVICES  DmNameList: device, distance to the next (0: the last), name with a closing zero
//
// A device has two slots for tables. TABLE_LOAD fills the inactive one and opens the devices it names (a claim, like O_EXCL). DEV_SUSPEND
// without DM_SUSPEND_FLAG ("resume") waits until nothing is in flight, activates that table, and releases the devices of the old one.

/// <summary>The header of every message.</summary>
[CType("struct dm_ioctl")]
[KernelHeader("linux/dm-ioctl.h")]
[StructLayout(LayoutKind.Sequential)]
public unsafe struct DmIoctl
{
    /// <summary>
    /// Version of the interface: major, minor, patch. The kernel rejects another major version, and a minor version newer than its own.
    /// </summary>
    public fixed uint Version[3];
    /// <summary>Bytes of the whole message, including this header.</summary>
    public uint DataSize;
    /// <summary>Offset of the data from the start of this header.</summary>
    public uint DataStart;
    public uint TargetCount;
    public int OpenCount;
    /// <summary>DM_…_FLAG</summary>
    public uint Flags;
    /// <summary>
    /// Input of resume and remove: libdevmapper's flags in the upper 16 bits and a cookie in the lower 16. The kernel passes the number to
    /// udev as DM_COOKIE unless it is 0.
    /// </summary>
    public uint EventNr;
    public uint Padding;
    /// <summary>Major and minor as <see cref="Libc.DecodeDevice"/> takes them.</summary>
    public ulong Dev;
    public fixed byte Name[DeviceMapperAbi.DM_NAME_LEN];
    public fixed byte Uuid[DeviceMapperAbi.DM_UUID_LEN];
    public fixed byte Data[7];

    /// <summary>The name with its closing zero.</summary>
    [UnscopedRef]
    public Span<byte> NameBytes => MemoryMarshal.CreateSpan(ref Name[0], DeviceMapperAbi.DM_NAME_LEN);

    /// <summary>The identifier with its closing zero. It is set only if no name is given, or to give a new device both.</summary>
    [UnscopedRef]
    public Span<byte> UuidBytes => MemoryMarshal.CreateSpan(ref Uuid[0], DeviceMapperAbi.DM_UUID_LEN);

    /// <summary>
    /// Sets the interface version that this program requires. The lowest minor version, 0, suffices for all requests here.
    /// </summary>
    public void SetVersion() => Version[0] = DeviceMapperAbi.DM_VERSION_MAJOR;
}

/// <summary>A line of a table; its parameters follow directly.</summary>
[CType("struct dm_target_spec")]
[KernelHeader("linux/dm-ioctl.h")]
[StructLayout(LayoutKind.Sequential)]
public unsafe struct DmTargetSpec
{
    /// <summary>The first sector. This and the length are in units of 512 bytes.</summary>
    public ulong SectorStart;
    public ulong Length;
    public int Status;
    /// <summary>Distance to the next line: from this one in a table to be loaded, from the first in a table that is read.</summary>
    public uint Next;
    public fixed byte TargetType[DeviceMapperAbi.DM_MAX_TYPE_NAME];

    /// <summary>"linear" with its closing zero.</summary>
    [UnscopedRef]
    public Span<byte> TypeBytes => MemoryMarshal.CreateSpan(ref TargetType[0], DeviceMapperAbi.DM_MAX_TYPE_NAME);
}

/// <summary>The constants of linux/dm-ioctl.h used here, under their own names.</summary>
[KernelHeader("linux/dm-ioctl.h")]
public static class DeviceMapperAbi
{
    public const uint DM_VERSION = 0xc138fd00;
    public const uint DM_LIST_DEVICES = 0xc138fd02;
    public const uint DM_DEV_CREATE = 0xc138fd03;
    public const uint DM_DEV_REMOVE = 0xc138fd04;
    public const uint DM_DEV_SUSPEND = 0xc138fd06;
    public const uint DM_DEV_STATUS = 0xc138fd07;
    public const uint DM_TABLE_LOAD = 0xc138fd09;
    public const uint DM_TABLE_CLEAR = 0xc138fd0a;
    public const uint DM_TABLE_STATUS = 0xc138fd0c;

    /// <summary>Bytes of a name, of an identifier, and of a target's type, with their closing zeros.</summary>
    public const int DM_NAME_LEN = 128;
    public const int DM_UUID_LEN = 129;
    public const int DM_MAX_TYPE_NAME = 16;

    /// <summary>The only major version since Linux 2.6.</summary>
    public const uint DM_VERSION_MAJOR = 4;

    public const uint DM_READONLY_FLAG = 1 << 0;
    public const uint DM_SUSPEND_FLAG = 1 << 1;
    public const uint DM_STATUS_TABLE_FLAG = 1 << 4;
    public const uint DM_ACTIVE_PRESENT_FLAG = 1 << 5;
    public const uint DM_INACTIVE_PRESENT_FLAG = 1 << 6;
    public const uint DM_BUFFER_FULL_FLAG = 1 << 8;
    public const uint DM_SKIP_LOCKFS_FLAG = 1 << 10;
    public const uint DM_QUERY_INACTIVE_TABLE_FLAG = 1 << 12;
    /// <summary>Output: the kernel raised an event for udev.</summary>
    public const uint DM_UEVENT_GENERATED_FLAG = 1 << 13;
}

/// <summary>
/// The protocol between libdevmapper and udev's rules for the device mapper, as far as it is used here. A cookie names a System V
/// semaphore: DM_COOKIE_MAGIC in the upper 16 bits of its key, the cookie in the lower. The event's number has the cookie in the lower 16
/// bits and flags for the rules in the upper 16. With a cookie of 0, no process waits for the rules.
/// </summary>
[LibraryHeader("libdevmapper.h")]
public static class DeviceMapperUdevAbi
{
    public const int DM_COOKIE_MAGIC = 0x0d4d;
    public const int DM_UDEV_FLAGS_SHIFT = 16;
    /// <summary>
    /// Marks an event that a program raised by making or changing a mapped device. udev's rules ignore other events of a device until they
    /// have recorded one with this flag.
    /// </summary>
    public const uint DM_UDEV_PRIMARY_SOURCE_FLAG = 0x0040;
}
