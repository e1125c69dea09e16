using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Merge;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Merge;

/// <summary>Which holes of a file are reserved, and which error is reported when reserving fails.</summary>
public sealed class StorageReserverTests : IDisposable
{
    private const int Page = 4096, Pages = 64;

    private readonly List<string> _reports = [];
    private readonly StopFlag _stop = new();
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    public static TheoryData<string, int> Layouts => new()
    {
        // Pages with data and pages to write, as first page and count. The number is the offset in pages of a loop device over the file; 0
        // for none.
        { "data 0 64; ranges 0 64", 0 },
        { "data; ranges 0 64", 0 },
        { "data; ranges 0 1, 63 1", 0 },
        { "data 0 1; ranges 0 1, 2 1", 0 },
        { "data 4 4, 16 8, 63 1; ranges 0 64", 0 },
        { "data 4 4, 16 8, 63 1; ranges 5 1, 6 3, 15 10, 40 1, 62 2", 0 },
        { "data 0 8, 56 8; ranges 7 50", 0 },
        { "data 0 8, 56 8; ranges 8 48", 0 },
        { "data 8 1; ranges 8 1", 0 },
        { "data 8 1; ranges 7 1, 9 1", 0 },
        { "data 4 4, 16 8; ranges 0 10, 12 20", 3 },
        { "data; ranges 0 1, 60 1", 3 },
    };

    [RootTheory]
    [MemberData(nameof(Layouts))]
    public void Only_holes_that_will_be_written_are_reserved(string layout, int moved)
    {
        using TmpFs system = new(2 << 20);
        string[] parts = layout.Split(';');
        bool[] data = Marks(parts[0]["data".Length..]), ranges = Marks(parts[1].Replace("ranges", "", StringComparison.Ordinal));
        byte[] bytes = new byte[(Pages + moved) * Page];
        for (int page = 0; page < Pages; page++)
            if (data[page]) bytes.AsSpan((page + moved) * Page, Page).Fill(7);
        system.WriteSparse("file", bytes);
        using (LoopDevice? loop = moved == 0 ? null : new LoopDevice(system["file"], "--offset", $"{moved * Page}"))
        using (BlockDevice device = BlockDevice.Open(loop?.Path ?? system["file"], DeviceAccess.Write))
            Reserver(device).Reserve(new MergeDevice(0, "the device", device.Length), Ranges(parts[1]));
        Assert.Equal(bytes, File.ReadAllBytes(system["file"]));
        Assert.Empty(_reports);

        // There is no free space for any other page.
        system.Fill(0);
        for (int page = 0; page < Pages; page++)
        {
            using FileStream file = new(system["file"], FileMode.Open, FileAccess.Write, FileShare.ReadWrite, 0);
            int written = (int)Libc.PWrite((int)file.SafeFileHandle.DangerousGetHandle(), [9], (page + moved) * Page);
            Assert.True(written == (data[page] || ranges[page] ? 1 : -Errno.ENOSPC), $"page {page}: {written}");
        }
    }

    [RootFact]
    public void One_missing_page_of_space_is_an_error_and_space_that_is_reserved_counts()
    {
        using TmpFs system = new(2 << 20);
        system.WriteSparse("file", new byte[Pages * Page]);
        using BlockDevice device = BlockDevice.Open(system["file"], DeviceAccess.Write);
        MergeDevice all = new(0, "the device", device.Length);
        ByteRange[] whole = [new ByteRange(0, Pages * Page)];
        system.Fill((Pages - 1) * Page);
        SnapuserdException full = Assert.Throws<SnapuserdException>(() => Reserver(device).Reserve(all, whole));
        Assert.Equal(ExitCode.InputOutput, full.Code);
        string missing = $"takes at least {Pages * Page} bytes more on its file system ({(Pages - 1) * Page} free)";
        Assert.Contains($"the device: the merge fills holes of this file, which {missing}", full.Message, StringComparison.Ordinal);
        Assert.Contains("ENOSPC", full.Message, StringComparison.Ordinal);
        Assert.Equal(0UL, Blocks(system["file"]));
        system.MakeRoom();
        system.Fill(Pages * Page);
        Reserver(device).Reserve(all, [new ByteRange(0, 10 * Page)]);
        Assert.Equal(10UL * Page / 512, Blocks(system["file"]));
        Reserver(device).Reserve(all, whole);
        Assert.Equal((ulong)Pages * Page / 512, Blocks(system["file"]));
        // Nothing is left to reserve, and no space is free.
        Reserver(device).Reserve(all, whole);
        Assert.Empty(_reports);
    }

    [RootFact]
    public void Single_bytes_below_a_loop_device_are_reserved_where_they_lie_in_the_file()
    {
        using TmpFs system = new(2 << 20);
        system.WriteSparse("file", new byte[Pages * Page]);
        using (LoopDevice loop = new(system["file"], "--offset", $"{4 * Page}", "--sizelimit", $"{8 * Page}"))
        using (BlockDevice device = BlockDevice.Open(loop.Path, DeviceAccess.Write))
        {
            Reserver(device)
                .Reserve(new MergeDevice(0, "the device", device.Length), [new ByteRange(Page, 1), new ByteRange(8 * Page, Page)]);
            // Of a range that extends past the device, only the part on the device is reserved.
            Reserver(device).Reserve(new MergeDevice(0, "the device", device.Length), [new ByteRange((8 * Page) - 1, Page)]);
            system.Fill(0);
            SnapuserdException full = Assert.Throws<SnapuserdException>(
                () => Reserver(device).Reserve(new MergeDevice(0, "the device", device.Length), [new ByteRange(2 * Page, Page)]));
            Assert.StartsWith($"{system["file"]} (below the device): the merge fills holes of this file", full.Message,
                StringComparison.Ordinal);
        }
        for (int page = 0; page < Pages; page++)
        {
            using FileStream file = new(system["file"], FileMode.Open, FileAccess.Write, FileShare.ReadWrite, 0);
            int written = (int)Libc.PWrite((int)file.SafeFileHandle.DangerousGetHandle(), [9], page * Page);
            Assert.True(written == (page is 5 or 11 ? 1 : -Errno.ENOSPC), $"page {page}: {written}");
        }
    }

    [RootFact]
    public void The_end_of_a_file_is_not_moved()
    {
        using TmpFs system = new(2 << 20);
        system.WriteSparse("file", new byte[(3 * Page) + 100]);
        using BlockDevice device = BlockDevice.Open(system["file"], DeviceAccess.Write);
        ByteRange[] ranges = [new(Page, Page), new(3 * Page, 10 * Page), new(40 * Page, Page)];
        Reserver(device).Reserve(new MergeDevice(0, "the device", device.Length), ranges);
        Assert.Equal((3 * Page) + 100, new FileInfo(system["file"]).Length);
        Assert.Equal(2UL * Page / 512, Blocks(system["file"]));
    }

    [RootFact]
    public void A_stop_takes_effect_before_anything_is_reserved()
    {
        using TmpFs system = new(2 << 20);
        system.WriteSparse("file", new byte[Pages * Page]);
        using BlockDevice device = BlockDevice.Open(system["file"], DeviceAccess.Write);
        _stop.Request();
        MergeDevice all = new(0, "the device", device.Length);
        Assert.Equal(ExitCode.Interrupted,
            Assert.Throws<SnapuserdException>(() => Reserver(device).Reserve(all, [new ByteRange(0, Page)])).Code);
        Assert.Equal(0UL, Blocks(system["file"]));
    }

    [RootFact]
    public void If_holes_are_unknown_a_file_without_space_for_them_is_reported()
    {
        using TmpFs system = TmpFs.WithoutHoles();
        foreach ((string name, int pages) in new[] { ("dense", 3), ("sparse", 2) })
        {
            byte[] bytes = new byte[3 * Page];
            bytes.AsSpan(0, pages * Page).Fill(1);
            system.WriteSparse(name, bytes);
            using BlockDevice device = BlockDevice.Open(system[name], DeviceAccess.Write);
            Reserver(device).Reserve(new MergeDevice(0, name, device.Length), [new ByteRange(0, Page), new ByteRange(2 * Page, 10)]);
        }
        string report = Assert.Single(_reports);
        Assert.StartsWith($"sparse: room for up to {Page + 10} bytes cannot be reserved: ", report, StringComparison.Ordinal);
        Assert.Contains("EOPNOTSUPP", report, StringComparison.Ordinal);
    }

    [Fact]
    public void A_limit_on_the_size_of_files_is_reported_with_the_last_byte_to_write()
    {
        const long end = 1L << 40;
        Assert.Equal(0, Libc.GetLimit(Libc.RLIMIT_FSIZE, out ResourceLimit before));
        using (FileStream file = File.Create(_folder["file"])) file.SetLength(end + (1 << 20));
        using BlockDevice device = BlockDevice.Open(_folder["file"], DeviceAccess.Write);
        MergeDevice all = new(0, "the device", device.Length);
        // No other test writes at such an offset.
        Assert.Equal(0, Libc.SetLimit(Libc.RLIMIT_FSIZE, before with { Current = end }));
        try
        {
            Reserver(device).Reserve(all, [new ByteRange(end - Page, Page)]);
            ByteRange[] beyond = [new(0, Page), new(end - 1, 2)];
            SnapuserdException refusal = Assert.Throws<SnapuserdException>(() => Reserver(device).Reserve(all, beyond));
            Assert.Equal(ExitCode.InputOutput, refusal.Code);
            Assert.StartsWith($"the device: the merge writes up to byte {end + 1}, and this process may write up to byte {end}: ",
                refusal.Message, StringComparison.Ordinal);
        }
        finally
        {
            _ = Libc.SetLimit(Libc.RLIMIT_FSIZE, before);
        }
    }

    private StorageReserver Reserver(BlockDevice device) => new([device], _stop, _reports.Add);

    private static ulong Blocks(string path)
    {
        Assert.Equal(0, Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out StatxData status));
        return status.Blocks;
    }

    private static bool[] Marks(string text)
    {
        bool[] marks = new bool[Pages];
        foreach ((int start, int count) in Numbers(text)) marks.AsSpan(start, count).Fill(true);
        return marks;
    }

    private static IEnumerable<ByteRange> Ranges(string text)
    {
        foreach ((int start, int count) in Numbers(text.Replace("ranges", "", StringComparison.Ordinal)))
            yield return new ByteRange(start * Page, count * Page);
    }

    private static IEnumerable<(int Start, int Count)> Numbers(string text)
    {
        foreach (string part in text.Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries))
        {
            string[] two = part.Split(' ');
            yield return (int.Parse(two[0], CultureInfo.InvariantCulture), int.Parse(two[1], CultureInfo.InvariantCulture));
        }
    }
}
