using System;
using System.Linq;
using System.Runtime.InteropServices;
using System.Text;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Serve;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Interop.DeviceMapperAbi;

namespace Snapuserd.Tests.Serve;

/// <summary>Tests messages to the device mapper, and the states of a mapped device during its life.</summary>
public sealed class MapperTests
{
    private static readonly MapperTarget s_served = new("/dev/ublkb0", 259, 7, 2048, true);
    private static readonly MapperTarget s_base = new("/dev/vda3", 254, 3, 2048, false);
    private const string Served = "259:7 0", Base = "254:3 0";

    private static ExitCode Refused(Action action) => Assert.Throws<SnapuserdException>(action).Code;

    private static FakeMapper.Device Ours(FakeMapper kernel, string name = "root") => kernel.Devices[name];

    private static void StandOn(FakeMapper kernel, in MapperTarget target)
    {
        using MappedDevice device = MappedDevice.Open("root", kernel);
        device.StandOn(target);
    }

    [Fact]
    public void Table_of_several_pieces_has_a_line_for_each()
    {
        byte[] message = new byte[MapperMessage.BytesFor(3)];
        MapperPiece[] pieces = [new(259, 3, 9_000_000_000_000, 16), new(0, 0, 0, 8), new(254, 1048575, 0, 24)];
        MapperMessage.WriteTable(message, "root", pieces, readOnly: true);
        Assert.Equal(3u, MemoryMarshal.Read<uint>(message.AsSpan(20)));
        Assert.Equal(DM_READONLY_FLAG, MemoryMarshal.Read<uint>(message.AsSpan(28)));
        ulong start = 0;
        int at = 312;
        string[] parameters = ["259:3 9000000000000", "", "254:1048575 0"];
        for (int i = 0; i < pieces.Length; i++)
        {
            Assert.Equal((start, (ulong)pieces[i].Sectors),
                (MemoryMarshal.Read<ulong>(message.AsSpan(at)), MemoryMarshal.Read<ulong>(message.AsSpan(at + 8))));
            Assert.Equal(i == 1 ? "zero" : "linear", MapperMessage.Text(message.AsSpan(at + 24, 16)));
            Assert.Equal(parameters[i], MapperMessage.Text(message.AsSpan(at + 40)));
            start += (ulong)pieces[i].Sectors;
            at += MemoryMarshal.Read<int>(message.AsSpan(at + 20));
            Assert.Equal(0, at % 8);
        }
        Assert.True(at <= message.Length);
    }

    [Fact]
    public void Partition_is_mapped_read_only_and_never_over_a_name_that_is_taken()
    {
        FakeMapper kernel = new();
        using (MappedDevice device = MappedDevice.Open("root", kernel)) device.CreateFrom([new MapperPiece(254, 3, 0, 2048)]);
        Assert.Equal((Base, 2048, true), (Ours(kernel).Active, Ours(kernel).ActiveSectors, Ours(kernel).ActiveReadOnly));
        Assert.True(kernel.Nodes.ContainsKey("root"));
        using (MappedDevice again = MappedDevice.Open("root", kernel))
            Assert.Equal(ExitCode.InUse, Refused(() => again.CreateFrom([new MapperPiece(254, 4, 0, 8)])));
        Assert.Equal(Base, Ours(kernel).Active);
    }

    [Theory]
    [InlineData(DM_TABLE_LOAD)]
    [InlineData(DM_DEV_SUSPEND)]
    public void Partition_that_cannot_be_mapped_leaves_no_device(uint command)
    {
        FakeMapper kernel = new() { Refuse = called => called == command ? -Errno.EBUSY : 0 };
        using MappedDevice device = MappedDevice.Open("root", kernel);
        Assert.Equal(ExitCode.InUse, Refused(() => device.CreateFrom([new MapperPiece(254, 3, 0, 2048)])));
        Assert.Empty(kernel.Devices);
        Assert.Empty(kernel.Nodes);
    }

    [Fact]
    public void Messages_have_the_layout_of_the_kernel_header()
    {
        byte[] message = new byte[512];
        message.AsSpan().Fill(0xaa);
        byte[] expected = new byte[512];
        expected[0] = 4;
        (expected[12], expected[13]) = (0, 2);
        (expected[16], expected[17]) = (0x38, 1);
        Encoding.ASCII.GetBytes("root").CopyTo(expected, 48);
        byte[] creation = [.. expected];
        Encoding.ASCII.GetBytes("SNAPUSERD-root").CopyTo(creation, 176);
        MapperMessage.WriteCreation(message, "root");
        Assert.Equal(creation, message);

        byte[] table = [.. expected];
        table[20] = 1;
        table[28] = 1;
        (table[320], table[321]) = (0x00, 0x08);
        table[332] = 40 + 16;
        Encoding.ASCII.GetBytes("linear").CopyTo(table, 336);
        Encoding.ASCII.GetBytes("259:1234 0").CopyTo(table, 352);
        message.AsSpan().Fill(0xaa);
        MapperMessage.WriteTable(message, "root", s_served with { Minor = 1234 });
        Assert.Equal(table, message);

        table[28] = 0;
        MapperMessage.WriteTable(message, "root", s_served with { Minor = 1234, ReadOnly = false });
        Assert.Equal(table, message);
    }

    [Theory]
    [InlineData(1, 0u, "linear", "259:7 0", "linear", 259u, 7u, 0L)]
    [InlineData(1, 0u, "linear", "259:7 4096", "linear", 259u, 7u, 4096L)]
    [InlineData(1, 0u, "verity", "1 259:7 259:8 4096", "verity", 0u, 0u, 0L)]
    [InlineData(1, 0u, "linear", "/dev/sda 0", "linear", 0u, 0u, 0L)]
    [InlineData(1, 0u, "linear", "", "linear", 0u, 0u, 0L)]
    [InlineData(1, DM_BUFFER_FULL_FLAG, "linear", "259:7 0", "several", 0u, 0u, 0L)]
    [InlineData(2, 0u, "linear", "259:7 0", "several", 0u, 0u, 0L)]
    public void Only_a_table_of_one_linear_line_is_parsed_completely(int lines, uint flags, string type, string parameters,
        string readType, uint major, uint minor, long start)
    {
        byte[] message = new byte[1024];
        MapperMessage.Write(message, "x", flags);
        MemoryMarshal.Write(message.AsSpan(20), lines);
        MemoryMarshal.Write(message.AsSpan(320), 99L);
        Encoding.ASCII.GetBytes(type).CopyTo(message, 336);
        Encoding.ASCII.GetBytes(parameters).CopyTo(message, 352);
        MapperTable table = MapperMessage.ReadTable(message)!.Value;
        Assert.Equal((readType, major, minor, start), (table.Type, table.Major, table.Minor, table.StartSectors));
        Assert.Equal(readType == "several" ? 0 : 99, table.Sectors);
    }

    [Fact]
    public void Replies_with_offsets_beyond_their_end_are_not_followed()
    {
        byte[] message = new byte[1024];
        MapperMessage.Write(message, "x", 0);
        MemoryMarshal.Write(message.AsSpan(20), 1);
        foreach (uint start in (uint[])[1000, 1024, uint.MaxValue])
        {
            MemoryMarshal.Write(message.AsSpan(16), start);
            Assert.Equal("several", MapperMessage.ReadTable(message)!.Value.Type);
            Assert.Null(MapperMessage.FindDevice(message, "x") is 0 ? 0UL : null);
        }
    }

    [Theory]
    [InlineData("root", true)]
    [InlineData("system_a-cow", true)]
    [InlineData("A.b:c@d#e+f=g", true)]
    [InlineData("", false)]
    [InlineData(".", false)]
    [InlineData("..", false)]
    [InlineData("control", false)]
    [InlineData("a/b", false)]
    [InlineData("a b", false)]
    [InlineData("a\\x2fb", false)]
    [InlineData("a\0", false)]
    [InlineData("wurzelgerät", false)]
    public void Names_that_a_tool_would_escape_are_refused(string name, bool good)
    {
        FakeMapper kernel = new();
        if (good) MappedDevice.Open(name, kernel).Dispose();
        else Assert.Equal(ExitCode.Usage, Refused(() => MappedDevice.Open(name, kernel)));
        Assert.Equal(good, kernel.Commands.Count > 0);
    }

    [Fact]
    public void Longest_name_has_118_characters_and_its_identifier_fits()
    {
        FakeMapper kernel = new();
        string name = new('n', 118);
        using (MappedDevice device = MappedDevice.Open(name, kernel)) device.StandOn(s_served);
        Assert.Equal("SNAPUSERD-" + name, Ours(kernel, name).Uuid);
        Assert.Equal(ExitCode.Usage, Refused(() => MappedDevice.CheckName(name + "n")));
    }

    [Fact]
    public void Device_is_read_only_over_the_served_device_and_writable_over_the_base()
    {
        FakeMapper kernel = new();
        using MappedDevice device = MappedDevice.Open("root", kernel);
        Assert.False(device.Exists);
        device.StandOn(s_served);
        Assert.Equal((Served, 2048L, true, "SNAPUSERD-root"),
            (Ours(kernel).Active, Ours(kernel).ActiveSectors, Ours(kernel).ActiveReadOnly, Ours(kernel).Uuid));
        Assert.Equal((FakeMapper.Major, 0u), kernel.Nodes["root"]);
        Assert.True(s_served.IsUnder(device.Table));
        Ours(kernel).Open = 1;
        device.StandOn(s_base);
        Assert.Equal((Base, 2048L, false), (Ours(kernel).Active, Ours(kernel).ActiveSectors, Ours(kernel).ActiveReadOnly));
        Assert.True(s_base.IsUnder(device.Table));
        Assert.Equal(ExitCode.InUse, Refused(device.Remove));
        Ours(kernel).Open = 0;
        device.Remove();
        Assert.Empty(kernel.Devices);
        Assert.Empty(kernel.Nodes);
    }

    [Fact]
    public void Device_that_already_has_the_target_is_not_changed()
    {
        FakeMapper kernel = new();
        StandOn(kernel, s_served);
        kernel.Commands.Clear();
        StandOn(kernel, s_served);
        Assert.All(kernel.Commands, command => Assert.Equal(DM_TABLE_STATUS, command));
        // A different length or write permission makes a different table.
        StandOn(kernel, s_served with { Sectors = 4096 });
        Assert.Equal(4096, Ours(kernel).ActiveSectors);
        StandOn(kernel, s_served with { Sectors = 4096, ReadOnly = false });
        Assert.False(Ours(kernel).ActiveReadOnly);
    }

    [Fact]
    public void Device_that_another_program_suspended_is_resumed()
    {
        FakeMapper kernel = new();
        StandOn(kernel, s_served);
        Ours(kernel).Suspended = true;
        StandOn(kernel, s_served);
        Assert.False(Ours(kernel).Suspended);
    }

    [Fact]
    public void Device_of_another_program_is_refused_and_not_touched()
    {
        FakeMapper kernel = new();
        kernel.Devices["root"] = new FakeMapper.Device { Uuid = "LVM-root", Active = Base };
        Assert.Equal(ExitCode.InUse, Refused(() => MappedDevice.Open("root", kernel)));
        Assert.Equal([DM_TABLE_STATUS], kernel.Commands);
    }

    [Fact]
    public void Base_that_is_held_briefly_is_waited_for_and_one_that_stays_held_is_refused()
    {
        FakeMapper kernel = new();
        StandOn(kernel, s_served);
        kernel.BusyLoads = 3;
        StandOn(kernel, s_base);
        Assert.Equal((Base, 3), (Ours(kernel).Active, kernel.Pauses));
        StandOn(kernel, s_served);
        kernel.Claimed.Add("254:3");
        Assert.Equal(ExitCode.InUse, Refused(() => StandOn(kernel, s_base)));
        Assert.Equal((Served, null), (Ours(kernel).Active, Ours(kernel).Inactive));
    }

    [Fact]
    public void Swap_that_a_signal_interrupts_is_repeated_a_limited_number_of_times()
    {
        FakeMapper kernel = new();
        StandOn(kernel, s_served);
        kernel.Interruptions = 5;
        StandOn(kernel, s_base);
        Assert.Equal(Base, Ours(kernel).Active);
        kernel.Interruptions = 1000;
        Assert.Equal(ExitCode.Unavailable, Refused(() => StandOn(kernel, s_served)));
        Assert.Equal((Base, null), (Ours(kernel).Active, Ours(kernel).Inactive));
    }

    [Theory]
    [InlineData(Errno.EPERM, ExitCode.Permission)]
    [InlineData(Errno.ENOMEM, ExitCode.OutOfResources)]
    [InlineData(Errno.ENXIO, ExitCode.InputMissing)]
    [InlineData(Errno.EINVAL, ExitCode.Unavailable)]
    [InlineData(Errno.ENOTTY, ExitCode.Unavailable)]
    public void New_device_whose_table_is_refused_is_removed(int errno, ExitCode code)
    {
        FakeMapper kernel = new() { Refuse = command => command == DM_TABLE_LOAD ? -errno : 0 };
        Assert.Equal(code, Refused(() => StandOn(kernel, s_served)));
        Assert.Empty(kernel.Devices);
    }

    private static string Says(Action action)
    {
        SnapuserdException e = Assert.Throws<SnapuserdException>(action);
        return $"{(int)e.Code} {e.Message}";
    }

    [Theory]
    [InlineData("", "it is empty")]
    [InlineData(".", "the name is reserved")]
    [InlineData("control", "the name is reserved")]
    [InlineData("a/b", "only letters, digits and #+-.:=@_ are allowed")]
    public void Invalid_names_are_refused_with_the_reason_before_anything_is_opened(string name, string reason)
    {
        Assert.Equal($"64 \"{name}\" cannot be the name of a mapped device: {reason}", Says(() => MappedDevice.CheckName(name)));
        Assert.Equal($"64 \"{name}\" cannot be the name of a mapped device: {reason}", Says(() => MappedDevice.Open(name)));
        FakeMapper kernel = new();
        Says(() => MappedDevice.Open(name, kernel));
        Assert.Equal(1, kernel.Disposals);
    }

    /// <summary>Checks every command: create the device over the served device, query, swap, leave unchanged, and remove.</summary>
    [Fact]
    public void Each_step_of_a_device_sends_the_expected_commands_and_updates_its_state()
    {
        FakeMapper kernel = new();
        kernel.Devices["another"] = new FakeMapper.Device { Uuid = "LVM-another" };
        using (MappedDevice device = MappedDevice.Open("root", kernel))
        {
            Assert.Equal(("root", "/dev/mapper/root"), (device.Name, device.Path));
            AssertCommands(kernel, DM_TABLE_STATUS);
            device.Discard();
            device.Remove();
            AssertCommands(kernel);
            device.StandOn(s_served);
            AssertCommands(kernel, DM_TABLE_STATUS, DM_DEV_CREATE, DM_TABLE_LOAD, DM_DEV_SUSPEND, DM_TABLE_STATUS);
            Assert.Equal((true, false, 0), (device.Exists, device.HasPending, device.OpenCount));
            Assert.Equal((FakeMapper.Major, 1u), kernel.Nodes["root"]);
            Ours(kernel).Open = 3;
            device.Look();
            Assert.Equal(3, device.OpenCount);
            kernel.Commands.Clear();
            device.StandOn(s_base);
            AssertCommands(kernel, DM_TABLE_STATUS, DM_TABLE_LOAD, DM_DEV_SUSPEND, DM_TABLE_STATUS);
            device.StandOn(s_base);
            AssertCommands(kernel, DM_TABLE_STATUS);
            // A table that was loaded but never activated is cleared; the active one stays.
            Ours(kernel).Inactive = Served;
            device.StandOn(s_base);
            AssertCommands(kernel, DM_TABLE_STATUS, DM_TABLE_CLEAR);
            Assert.Equal((Base, null, false), (Ours(kernel).Active, Ours(kernel).Inactive, device.HasPending));
            Ours(kernel).Open = 0;
            device.Remove();
            AssertCommands(kernel, DM_DEV_REMOVE);
            Assert.Equal((false, null, false), (device.Exists, device.Table, device.HasPending));
            device.Remove();
            AssertCommands(kernel);
            Assert.Equal(0, kernel.Disposals);
        }
        Assert.Equal(1, kernel.Disposals);
        Assert.Equal(["another"], kernel.Devices.Keys);
        Assert.Equal([(FakeMapper.Major, 1u)], kernel.Udev.Asked);
        Assert.Equal(4, kernel.Udev.RulesPlaced);
        Assert.Empty(kernel.Nodes);
        Assert.Equal(0, kernel.Pauses);
    }

    private static void AssertCommands(FakeMapper kernel, params uint[] commands)
    {
        Assert.Equal(commands, kernel.Commands);
        kernel.Commands.Clear();
    }

    [Fact]
    public void Device_without_an_active_table_is_removed_with_its_inactive_table()
    {
        FakeMapper kernel = new();
        kernel.Devices["root"] = new FakeMapper.Device { Uuid = "SNAPUSERD-root", Minor = 5, Inactive = Base };
        using MappedDevice device = MappedDevice.Open("root", kernel);
        Assert.Equal((true, true, null), (device.Exists, device.HasPending, device.Table));
        kernel.Commands.Clear();
        device.Discard();
        AssertCommands(kernel, DM_TABLE_CLEAR, DM_DEV_REMOVE);
        Assert.Empty(kernel.Devices);
        Assert.False(device.Exists);
    }

    [Fact]
    public void Attempts_are_limited_and_the_error_names_the_device_in_use()
    {
        FakeMapper kernel = new();
        using MappedDevice device = MappedDevice.Open("root", kernel);
        device.StandOn(s_served);
        kernel.Claimed.Add("254:3");
        kernel.Commands.Clear();
        Assert.Equal("76 /dev/mapper/root cannot be put on /dev/vda3: that is in use: mounted, mapped, or held by another program (EBUSY)",
            Says(() => device.StandOn(s_base)));
        Assert.Equal((500, 501), (kernel.Pauses, kernel.Commands.Count(command => command == DM_TABLE_LOAD)));
        Ours(kernel).Open = 1;
        kernel.Commands.Clear();
        Assert.StartsWith("76 /dev/mapper/root cannot be removed: ", Says(device.Remove), StringComparison.Ordinal);
        Assert.Equal((600, 101), (kernel.Pauses, kernel.Commands.Count));
        Assert.True(device.Exists);
        // A device that disappears meanwhile counts as removed.
        kernel.Devices.Clear();
        device.Remove();
        Assert.False(device.Exists);
        Assert.Empty(kernel.Nodes);
        // After another process has removed the device, the state that was read before is reset.
        device.StandOn(s_served);
        (Ours(kernel).Open, Ours(kernel).Inactive) = (2, Base);
        device.Look();
        Assert.Equal((true, true, 2, true), (device.Exists, device.HasPending, device.OpenCount, device.Table != null));
        kernel.Devices.Clear();
        device.Look();
        Assert.Equal((false, false, 0, false), (device.Exists, device.HasPending, device.OpenCount, device.Table != null));
    }

    [Fact]
    public void Load_that_a_signal_interrupts_is_repeated()
    {
        int interrupted = 0;
        FakeMapper kernel = new();
        kernel.Refuse = command => command == DM_TABLE_LOAD && interrupted++ < 2 ? -Errno.EINTR : 0;
        StandOn(kernel, s_served);
        Assert.Equal((Served, 2), (Ours(kernel).Active, kernel.Pauses));
    }

    [Fact]
    public void Swap_is_attempted_21_times_and_then_the_new_table_is_dropped()
    {
        FakeMapper kernel = new();
        StandOn(kernel, s_served);
        kernel.Interruptions = 20;
        kernel.Commands.Clear();
        StandOn(kernel, s_base);
        Assert.Equal((Base, 21), (Ours(kernel).Active, kernel.Commands.Count(command => command == DM_TABLE_LOAD)));
        kernel.Interruptions = 21;
        Assert.StartsWith("69 /dev/mapper/root cannot be put on /dev/ublkb0: ", Says(() => StandOn(kernel, s_served)),
            StringComparison.Ordinal);
        kernel.Interruptions = 0;
        // A resume that fails with another error is not retried, and its table is cleared.
        kernel.Refuse = command => command == DM_DEV_SUSPEND ? -Errno.ENOMEM : 0;
        kernel.Commands.Clear();
        Assert.StartsWith("71 /dev/mapper/root cannot be put on /dev/ublkb0: ", Says(() => StandOn(kernel, s_served)),
            StringComparison.Ordinal);
        Assert.Equal(1, kernel.Commands.Count(command => command == DM_TABLE_LOAD));
        Assert.Equal((Base, null), (Ours(kernel).Active, Ours(kernel).Inactive));
        // A resume that succeeds without a table, because another process cleared it, is not retried forever.
        kernel.Refuse = command =>
        {
            if (command == DM_DEV_SUSPEND) Ours(kernel).Inactive = null;
            return 0;
        };
        kernel.Commands.Clear();
        Assert.StartsWith("74 /dev/mapper/root cannot be put on /dev/ublkb0: ", Says(() => StandOn(kernel, s_served)),
            StringComparison.Ordinal);
        Assert.Equal(21, kernel.Commands.Count(command => command == DM_TABLE_LOAD));
    }

    [Theory]
    [InlineData(DM_TABLE_STATUS, "cannot be looked at")]
    [InlineData(DM_DEV_CREATE, "cannot be created")]
    [InlineData(DM_TABLE_LOAD, "cannot be put on /dev/ublkb0")]
    [InlineData(DM_DEV_SUSPEND, "cannot be put on /dev/ublkb0")]
    public void Error_for_a_new_device_names_the_failed_step_and_the_device_is_removed(uint refused, string what)
    {
        foreach ((int errno, int code) in new[]
        {
            (Errno.EPERM, 77), (Errno.EACCES, 77), (Errno.EROFS, 77), (Errno.ENOMEM, 71), (Errno.EMFILE, 71), (Errno.ENFILE, 71),
            (Errno.ENOSPC, 71), (Errno.EEXIST, 76), (Errno.ENODEV, 66), (Errno.ENOENT, 66), (Errno.ENOTTY, 69), (Errno.EIO, 74),
        })
        {
            FakeMapper kernel = new() { Refuse = command => command == refused ? -errno : 0 };
            Assert.Equal($"{code} /dev/mapper/root {what}: {ErrnoText.Of(-errno)}", Says(() => StandOn(kernel, s_served)));
            Assert.Empty(kernel.Devices);
            Assert.Empty(kernel.Nodes);
            Assert.Equal(1, kernel.Disposals);
        }
        FakeMapper invalid = new() { Refuse = command => command == refused ? -Errno.EINVAL : 0 };
        Assert.Equal($"69 /dev/mapper/root {what}: {ErrnoText.Of(-Errno.EINVAL)}; the kernel's log says more",
            Says(() => StandOn(invalid, s_served)));
        Assert.Empty(invalid.Devices);
    }

    [Fact]
    public void Device_without_a_node_is_removed_if_it_is_new()
    {
        FakeMapper kernel = new() { NodeResult = -Errno.EACCES };
        Assert.StartsWith("77 /dev/mapper/root has no node: ", Says(() => StandOn(kernel, s_served)), StringComparison.Ordinal);
        Assert.Empty(kernel.Devices);
        kernel.NodeResult = 0;
        StandOn(kernel, s_served);
        kernel.NodeResult = -Errno.EACCES;
        Assert.StartsWith("77 /dev/mapper/root has no node: ", Says(() => StandOn(kernel, s_base)), StringComparison.Ordinal);
        Assert.Equal(Base, Ours(kernel).Active);
    }

    [Fact]
    public void Inactive_table_that_cannot_be_dropped_is_reported()
    {
        FakeMapper kernel = new();
        StandOn(kernel, s_served);
        Ours(kernel).Inactive = Base;
        kernel.Refuse = command => command == DM_TABLE_CLEAR ? -Errno.EIO : 0;
        using MappedDevice device = MappedDevice.Open("root", kernel);
        Assert.StartsWith("74 /dev/mapper/root cannot drop its inactive table: ", Says(device.Discard), StringComparison.Ordinal);
        Assert.True(device.HasPending);
    }

    /// <summary>
    /// Kills the process before and after every call while it creates a device, maps it to the served device, and then to the base. The
    /// next process must be able to repeat all steps, and must not find a base that a dead process still claims.
    /// </summary>
    [Fact]
    public void After_a_kill_at_any_call_the_next_process_completes_the_hand_over()
    {
        int point = 1, swapped = 0, pending = 0;
        for (bool killed = true; killed; point++)
        {
            FakeMapper kernel = new() { KillAt = point };
            killed = false;
            try
            {
                HandOver(kernel);
            }
            catch (FakeMapper.Killed)
            {
                killed = true;
            }
            string? left = kernel.Devices.TryGetValue("root", out FakeMapper.Device? device) ? device.Active : null;
            Assert.Contains(left, (string?[])[null, Served, Base]);
            // A node exists only when its device can be read.
            Assert.Equal(kernel.Nodes.ContainsKey("root"), kernel.Nodes.ContainsKey("root") && left != null);
            if (left == Base) swapped++;
            if (device?.Inactive != null) pending++;
            kernel.Revive();
            HandOver(kernel);
            Assert.Equal((Base, null), (Ours(kernel).Active, Ours(kernel).Inactive));
        }
        Assert.InRange(point, 20, 40);
        Assert.True(swapped > 2 && pending >= 4, $"{swapped} kills after the swap, {pending} with an inactive table");

        static void HandOver(FakeMapper kernel)
        {
            using MappedDevice device = MappedDevice.Open("root", kernel);
            device.Discard();
            Assert.DoesNotContain(kernel.Devices.Values, known => known.Inactive != null);
            if (!s_base.IsUnder(device.Table)) device.StandOn(s_served);
            device.StandOn(s_base);
        }
    }

    [Fact]
    public void Devices_are_found_by_the_first_name_that_exists()
    {
        FakeMapper kernel = new();
        Assert.Null(MapperNames.Find(kernel, ["system"]));
        foreach (string name in (string[])["vendor", "system-verity", "system"])
            kernel.Devices[name] = new FakeMapper.Device { Minor = (uint)kernel.Devices.Count };
        Assert.Equal(1u, MapperNames.Find(kernel, ["vroot", "system-verity", "system"]));
        Assert.Equal(0u, MapperNames.Find(kernel, ["vendor"]));
        Assert.Null(MapperNames.Find(kernel, ["syste", "system-"]));
        // More names than fit into the first message.
        foreach (int number in Enumerable.Range(3, 500))
            kernel.Devices[$"a-rather-long-name-of-a-logical-volume-{number}"] = new FakeMapper.Device { Minor = (uint)number };
        Assert.Equal(502u, MapperNames.Find(kernel, ["a-rather-long-name-of-a-logical-volume-502"]) is { } minor ? minor : 0);
    }
}
