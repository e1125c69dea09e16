using Snapuserd.Merge;
using Xunit;

namespace Snapuserd.Tests.Merge;

public sealed class ScratchLayoutTests
{
    [Theory]
    [InlineData(38)]
    [InlineData(78)]
    public void Two_mebibytes_give_Android_s_window_of_510(int header)
    {
        ScratchLayout layout = new(header, 2 << 20);
        Assert.Equal(8192, layout.MetadataBytes);
        Assert.Equal(510, layout.Window);
        Assert.Equal(header, layout.StateOffset);
        Assert.Equal(header + 1, layout.EntryOffset(0));
        Assert.Equal(header + 8192, layout.SlotOffset(0));
        Assert.Equal(header + 8192 + (4096 * 509), layout.SlotOffset(509));
        Assert.Equal((2 << 20) + 4096, layout.HeadBytes(510));
    }

    [Theory]
    [InlineData(0u, 0)]
    [InlineData(1u, 0)]
    [InlineData(4096u, 0)]
    [InlineData(4112u, 0)]
    [InlineData(8447u, 0)]
    [InlineData(8448u, 1)]   // M = 33: one entry, its terminator and the state byte; space for the data of two slots.
    [InlineData(12543u, 1)]
    [InlineData(12544u, 2)]  // M = 49.
    [InlineData(uint.MaxValue, 1044480)]
    public void Other_sizes_give_the_window_that_fits_both_areas(uint bytes, int window) =>
        Assert.Equal(window, new ScratchLayout(78, bytes).Window);

    [Fact]
    public void Entries_terminator_and_slots_stay_in_the_region_and_do_not_overlap()
    {
        for (uint bytes = 0; bytes < 300_000; bytes += 7)
        {
            ScratchLayout layout = new(78, bytes);
            if (layout.Window == 0) continue;
            Assert.True(layout.EntryOffset(layout.Window + 1) <= layout.DataOffset, $"{bytes}: the terminator overlaps slot 0");
            Assert.True(layout.SlotOffset(layout.Window) <= 78 + (long)bytes, $"{bytes}: the last slot leaves the region");
        }
    }
}
