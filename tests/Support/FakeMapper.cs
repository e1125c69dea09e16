using System;
using System.Collections.Generic;
using System.Linq;
using System.Runtime.InteropServices;
using System.Text;
using Snapuserd.Interop;
using Snapuserd.Serve;
using Xunit;
using static Snapuserd.Interop.DeviceMapperAbi;

namespace Snapuserd.Tests.Support;

/// <summary>
/// A fake device mapper: parses messages by offset, as linux/dm-ioctl.h defines them, and tracks claims on the devices that tables map to.
/// </summary>
internal sealed class FakeMapper : IMapperDriver
{
    internal const uint Major = 253;

    internal sealed class Device
    {
        internal string Uuid = "";
        internal uint Minor;
        internal string? Active, Inactive;
        internal long ActiveSectors, InactiveSectors;
        internal bool ActiveReadOnly, InactiveReadOnly, Suspended;
        internal int Open { get; set; }
    }

    /// <summary>Thrown to end the process that makes a call, as SIGKILL does.</summary>
    internal sealed class Killed : Exception;

    internal Dictionary<string, Device> Devices { get; } = [];

    /// <summary>The device numbers of the nodes.</summary>
    internal Dictionary<string, (uint Major, uint Minor)> Nodes { get; } = [];

    /// <summary>The "major:minor" of devices that another process has claimed.</summary>
    internal HashSet<string> Claimed { get; } = [];

    /// <summary>Every command, by number.</summary>
    internal List<uint> Commands { get; } = [];

    /// <summary>The number of further resumes that a signal interrupts.</summary>
    internal int Interruptions { get; set; }

    /// <summary>The number of further loads that find the device temporarily claimed.</summary>
    internal int BusyLoads { get; set; }

    /// <summary>The error that a command fails with; 0 for success.</summary>
    internal Func<uint, int> Refuse { get; set; } = _ => 0;

    /// <summary>
    /// The point at which the process is killed: 2n − 1 for before its n-th call, 2n for after that call, 0 for never. Creating or removing
    /// a node also counts as a call.
    /// </summary>
    internal int KillAt { get; set; }

    internal int Pauses { get; private set; }

    /// <summary>The result of creating a node.</summary>
    internal int NodeResult { get; set; }

    /// <summary>The number of times that the control device was closed.</summary>
    internal int Disposals { get; private set; }

    /// <summary>The udev that receives the events.</summary>
    internal FakeUdev Udev { get; } = new();

    /// <summary>True if the kernel reports that it sent no event.</summary>
    internal bool WithoutEvents { get; set; }

    IUdev IMapperDriver.Udev => Udev;

    private int _calls;
    private bool _dead;

    public int Control(uint command, Span<byte> message)
    {
        Die(before: true);
        Commands.Add(command);
        Assert.Equal(4u, MemoryMarshal.Read<uint>(message));
        Assert.Equal((uint)message.Length, MemoryMarshal.Read<uint>(message[12..]));
        Assert.Equal(312u, MemoryMarshal.Read<uint>(message[16..]));
        uint cookie = MemoryMarshal.Read<uint>(message[32..]);
        Assert.Equal(command is DM_DEV_SUSPEND or DM_DEV_REMOVE, cookie != 0);
        int result = Refuse(command);
        if (result == 0) result = Answer(command, message);
        if (result == 0 && cookie != 0 && !WithoutEvents)
        {
            MemoryMarshal.Write(message[28..], MemoryMarshal.Read<uint>(message[28..]) | DM_UEVENT_GENERATED_FLAG);
            Udev.Event(cookie);
        }
        Die(before: false);
        return result;
    }

    public string PathOf(string name) => "/dev/mapper/" + name;

    public int MakeNode(string name, uint major, uint minor)
    {
        Die(before: true);
        if (NodeResult < 0) return NodeResult;
        Nodes[name] = (major, minor);
        Die(before: false);
        return 0;
    }

    public void RemoveNode(string name, uint major, uint minor)
    {
        Die(before: true);
        if (Nodes.TryGetValue(name, out (uint Major, uint Minor) node)) Assert.Equal(node, (major, minor));
        Nodes.Remove(name);
        Die(before: false);
    }

    public void Pause(int milliseconds)
    {
        Assert.InRange(milliseconds, 1, 100);
        Pauses++;
    }

    public void Dispose() => Disposals++;

    /// <summary>Simulates the start of the next process.</summary>
    internal void Revive() => (_calls, KillAt, _dead) = (0, 0, false);

    private void Die(bool before)
    {
        if (before && !_dead) _calls++;
        // After the kill, cleanup code of the dead process must not make calls either.
        _dead |= KillAt == (2 * _calls) - (before ? 1 : 0);
        if (_dead) throw new Killed();
    }

    private int Answer(uint command, Span<byte> message)
    {
        string name = Text(message.Slice(48, 128));
        uint flags = MemoryMarshal.Read<uint>(message[28..]);
        if (command == DM_LIST_DEVICES) return List(message);
        if (command == DM_DEV_CREATE)
        {
            string uuid = Text(message.Slice(176, 129));
            if (Devices.ContainsKey(name)) return -Errno.EBUSY;
            Devices[name] = new Device { Uuid = uuid, Minor = (uint)Devices.Count };
            return Status(Devices[name], message);
        }
        if (!Devices.TryGetValue(name, out Device? device)) return -Errno.ENXIO;
        switch (command)
        {
            case DM_TABLE_LOAD:
                Assert.Equal(1u, MemoryMarshal.Read<uint>(message[20..]));
                Assert.Equal(0UL, MemoryMarshal.Read<ulong>(message[312..]));
                Assert.Equal("linear", Text(message.Slice(336, 16)));
                string parameters = Text(message[352..]);
                if (BusyLoads > 0 && BusyLoads-- > 0) return -Errno.EBUSY;
                if (Claimed.Contains(parameters.Split(' ')[0])) return -Errno.EBUSY;
                (device.Inactive, device.InactiveSectors, device.InactiveReadOnly) =
                    (parameters, (long)MemoryMarshal.Read<ulong>(message[320..]), (flags & DM_READONLY_FLAG) != 0);
                return 0;
            case DM_TABLE_CLEAR:
                device.Inactive = null;
                return 0;
            case DM_DEV_SUSPEND:
                Assert.Equal(0u, flags & DM_SUSPEND_FLAG);
                if (device.Inactive != null && Interruptions > 0)
                {
                    Interruptions--;
                    device.Inactive = null;
                    return -Errno.EINVAL;
                }
                if (device.Inactive != null)
                    (device.Active, device.ActiveSectors, device.ActiveReadOnly, device.Inactive) =
                        (device.Inactive, device.InactiveSectors, device.InactiveReadOnly, null);
                device.Suspended = false;
                return 0;
            case DM_DEV_REMOVE:
                if (device.Open > 0) return -Errno.EBUSY;
                Devices.Remove(name);
                return 0;
            case DM_TABLE_STATUS:
                Assert.NotEqual(0u, flags & DM_STATUS_TABLE_FLAG);
                return Status(device, message);
            default:
                return -Errno.ENOTTY;
        }
    }

    private static int Status(Device device, Span<byte> message)
    {
        uint flags = (device.Active != null ? DM_ACTIVE_PRESENT_FLAG : 0) | (device.Inactive != null ? DM_INACTIVE_PRESENT_FLAG : 0)
            | (device.ActiveReadOnly ? DM_READONLY_FLAG : 0) | (device.Suspended ? DM_SUSPEND_FLAG : 0);
        MemoryMarshal.Write(message[20..], device.Active != null ? 1u : 0u);
        MemoryMarshal.Write(message[24..], device.Open);
        MemoryMarshal.Write(message[28..], flags);
        MemoryMarshal.Write(message[40..], Encode(device.Minor));
        _ = Encoding.ASCII.GetBytes(device.Uuid, message.Slice(176, 129));
        if (device.Active == null) return 0;
        Span<byte> line = message[312..];
        line[..40].Clear();
        MemoryMarshal.Write(line[8..], device.ActiveSectors);
        _ = Encoding.ASCII.GetBytes("linear", line[24..]);
        _ = Encoding.ASCII.GetBytes(device.Active + "\0", line[40..]);
        return 0;
    }

    private int List(Span<byte> message)
    {
        int at = 312;
        message[at..].Clear();
        string[] names = [.. Devices.Keys];
        if (names.Sum(name => 24 + name.Length) > message.Length - 312)
        {
            MemoryMarshal.Write(message[28..], DM_BUFFER_FULL_FLAG);
            return 0;
        }
        for (int i = 0; i < names.Length; i++)
        {
            int size = (12 + names[i].Length + 1 + 7) & ~7;
            MemoryMarshal.Write(message[at..], Encode(Devices[names[i]].Minor));
            MemoryMarshal.Write(message[(at + 8)..], i == names.Length - 1 ? 0 : size);
            _ = Encoding.ASCII.GetBytes(names[i], message[(at + 12)..]);
            at += size;
        }
        return 0;
    }

    /// <summary>huge_encode_dev of the kernel.</summary>
    private static ulong Encode(uint minor) => (minor & 0xff) | (Major << 8) | ((minor & ~0xffu) << 12);

    private static string Text(ReadOnlySpan<byte> bytes) => Encoding.ASCII.GetString(bytes[..bytes.IndexOf((byte)0)]);
}
