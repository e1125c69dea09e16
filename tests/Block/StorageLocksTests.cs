using System.IO;
using Snapuserd.Block;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>Locks go by what the storage is: every two names of it meet, and what has no byte in common does not.</summary>
public sealed class StorageLocksTests
{
    private const DeviceAccess Alone = DeviceAccess.Write | DeviceAccess.Exclusive;

    private static void Refused(string path, DeviceAccess access)
    {
        SnapuserdException refusal = Assert.Throws<SnapuserdException>(() => BlockDevice.Open(path, access).Dispose());
        Assert.Equal(ExitCode.InUse, refusal.Code);
        Assert.Contains(path, refusal.Message, System.StringComparison.Ordinal);
    }

    [RootFact]
    public void A_reader_and_a_writer_meet_through_loop_devices_made_before_and_later_and_through_another_node()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["image"], new byte[1 << 20]);
        using LoopDevice before = new(folder["image"]);
        string[] number = LoopDevice.Call("stat", "-c", "%Hr %Lr", before.Path).Trim().Split(' ');
        LoopDevice.Call("mknod", folder["node"], "b", number[0], number[1]);
        foreach ((DeviceAccess first, DeviceAccess second) in new[] { (DeviceAccess.Shared, Alone), (Alone, DeviceAccess.Shared) })
        {
            using BlockDevice holder = BlockDevice.Open(folder["image"], first);
            using LoopDevice later = new(folder["image"]);
            Refused(before.Path, second);
            Refused(later.Path, second);
            Refused(folder["node"], second);
        }
        using BlockDevice reader = BlockDevice.Open(before.Path, DeviceAccess.Shared), another = BlockDevice.Open(folder["image"], DeviceAccess.Shared);
        Refused(folder["node"], Alone);
    }

    [RootFact]
    public void Ranges_of_one_file_that_do_not_meet_are_used_side_by_side()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["image"], new byte[1 << 20]);
        using LoopDevice first = new(folder["image"], "--sizelimit", "524288"), second = new(folder["image"], "--offset", "524288"), across = new(folder["image"], "--offset", "520192", "--sizelimit", "8192");
        using BlockDevice one = BlockDevice.Open(first.Path, Alone);
        using BlockDevice other = BlockDevice.Open(second.Path, Alone);
        Refused(across.Path, Alone);
        Refused(across.Path, DeviceAccess.Shared);
        Refused(folder["image"], DeviceAccess.Shared);
    }

    [RootFact]
    public void A_file_deleted_below_two_loop_devices_is_locked_through_both()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["image"], new byte[1 << 20]);
        using LoopDevice one = new(folder["image"]), other = new(folder["image"]);
        File.Delete(folder["image"]);
        using BlockDevice holder = BlockDevice.Open(one.Path, DeviceAccess.Shared);
        Refused(other.Path, Alone);
        using BlockDevice reader = BlockDevice.Open(other.Path, DeviceAccess.Shared);
    }

    [RootFact]
    public void What_this_process_has_locked_is_no_obstacle_for_a_source_that_shares_it()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["image"], new byte[1 << 20]);
        using LoopDevice first = new(folder["image"], "--sizelimit", "524288"), shifted = new(folder["image"], "--offset", "4096");
        using BlockDevice target = BlockDevice.Open(first.Path, Alone);
        using (BlockDevice source = BlockDevice.Open(shifted.Path, DeviceAccess.Shared, target))
        {
            // The part beyond the base is locked by the source.
            using LoopDevice end = new(folder["image"], "--offset", "1044480");
            Refused(end.Path, Alone);
        }
        Refused(first.Path, DeviceAccess.Shared);
        using BlockDevice whole = BlockDevice.Open(folder["image"], DeviceAccess.Read);
    }

    [RootFact]
    public void Lock_files_go_with_their_last_user()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["image"], new byte[4096]);
        string inode = LoopDevice.Call("stat", "-c", "%i", folder["image"]).Trim();
        int Count() => Directory.GetFiles("/dev/.snapuserd", $"*-{inode}").Length;
        using (BlockDevice one = BlockDevice.Open(folder["image"], DeviceAccess.Shared))
        {
            Assert.Equal(1, Count());
            BlockDevice.Open(folder["image"], DeviceAccess.Shared).Dispose();
            Assert.Equal(1, Count());
        }
        Assert.Equal(0, Count());
    }

    [RootFact]
    public void A_lock_file_that_another_process_has_made_meanwhile_keeps_its_name()
    {
        using TempFolder folder = new();
        File.WriteAllBytes(folder["image"], new byte[4096]);
        string inode = LoopDevice.Call("stat", "-c", "%i", folder["image"]).Trim(), name;
        using (BlockDevice.Open(folder["image"], DeviceAccess.Shared))
        {
            name = Assert.Single(Directory.GetFiles("/dev/.snapuserd", $"*-{inode}"));
            File.Delete(name);
            File.WriteAllText(name, "");
        }
        Assert.True(File.Exists(name), "the next holder's file was removed");
        File.Delete(name);
    }
}
