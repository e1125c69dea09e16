using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.AndroidDevice;
using Snapuserd.Block;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.AndroidDevice;

/// <summary>Flipped bits and truncated files: a refusal, or the same plan as without the damage, and never an exception.</summary>
public sealed class DamageTests : IDisposable
{
    private const int Primary = 12288 + 65536, HeaderBytes = 256, Geometry = 4096, GeometryBytes = 52;

    private readonly TempFolder _folder = new();
    private readonly GoldenDevice _device = GoldenDevice.Named("first-phase-half");
    private readonly MemorySource _misc;

    public DamageTests()
    {
        _misc = new MemorySource(_device.Device("misc"), "misc");
        Directory.CreateDirectory(_folder["ota/snapshots"]);
        foreach (string file in Directory.EnumerateFiles(_device.Metadata, "*", SearchOption.AllDirectories))
            File.Copy(file, _folder[Path.GetRelativePath(_device.Metadata, file)]);
    }

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void A_flipped_bit_of_geometry_header_or_tables_is_repaired_from_the_backup()
    {
        byte[] super = _device.Device("super");
        string expected = Text(Plan(super));
        foreach (int offset in Damageable(super))
        {
            super[offset] ^= 0x10;
            DeviceFacts facts = Facts(super);
            Assert.Equal(expected, Text(UpdatePlan.Of(facts)));
            Assert.Equal(offset < Primary ? "geometry" : "table", facts.RepairedTable);
            super[offset] ^= 0x10;
        }
    }

    [Fact]
    public void A_flipped_bit_in_both_copies_is_refused()
    {
        byte[] super = _device.Device("super");
        foreach (int offset in Damageable(super))
        {
            int backup = offset < Primary ? offset + 4096 : offset + (3 * 65536);
            super[offset] ^= 1;
            super[backup] ^= 1;
            Assert.Equal(ExitCode.CowCorrupt, Plan(super).Refusal?.Code);
            super[offset] ^= 1;
            super[backup] ^= 1;
        }
    }

    [Fact]
    public void A_super_partition_of_any_length_is_read_without_an_exception()
    {
        byte[] super = _device.Device("super");
        foreach (int length in (int[])[0, 1, 4095, 4096, 8191, 8192, 12287, 12288, Primary, Primary + 65535, 300_000, 400_000, 1 << 20])
            Assert.Equal(ExitCode.CowCorrupt, Plan(super[..length]).Refusal?.Code);
    }

    /// <summary>These files have no checksum, so a flipped bit may also give another valid content.</summary>
    [Theory]
    [InlineData("ota/state")]
    [InlineData("ota/snapshots/vendor_b")]
    [InlineData("ota/snapshots/product_b")]
    [InlineData("ota/snapshots/system_dlkm_b")]
    [InlineData("ota/old-partition-metadata")]
    [InlineData("ota/snapshot-boot")]
    public void A_flipped_bit_of_a_state_file_never_changes_the_pieces_of_a_merge(string path)
    {
        byte[] super = _device.Device("super"), good = File.ReadAllBytes(_folder[path]);
        Dictionary<string, string> expected = Plan(super).Merges.ToDictionary(merge => merge.Name, Text);
        int refused = 0;
        for (int bit = 0; bit < good.Length * 8; bit++)
        {
            byte[] bad = (byte[])good.Clone();
            bad[bit / 8] ^= (byte)(1 << (bit % 8));
            File.WriteAllBytes(_folder[path], bad);
            UpdatePlan plan = Plan(super);
            if (plan.Refusal != null) refused++;
            CheckSame(expected, plan);
        }
        Assert.True(refused > 0);
    }

    [Theory]
    [InlineData("ota/state")]
    [InlineData("ota/snapshots/vendor_b")]
    [InlineData("ota/old-partition-metadata")]
    [InlineData("ota/snapshot-boot")]
    public void A_truncated_state_file_is_refused_or_gives_the_same_pieces(string path)
    {
        byte[] super = _device.Device("super"), good = File.ReadAllBytes(_folder[path]);
        Dictionary<string, string> expected = Plan(super).Merges.ToDictionary(merge => merge.Name, Text);
        for (int length = 0; length < good.Length; length += path.EndsWith("metadata", StringComparison.Ordinal) ? 61 : 1)
        {
            File.WriteAllBytes(_folder[path], good[..length]);
            CheckSame(expected, Plan(super));
        }
    }

    /// <summary>
    /// The plan refuses; or it has the same merges, of which those that are missing are COWs that must turn out to be complete.
    /// </summary>
    private static void CheckSame(Dictionary<string, string> expected, UpdatePlan plan)
    {
        if (plan.Refusal != null) return;
        Assert.Null(plan.Nothing);
        Assert.All(plan.Merges, merge => Assert.Equal(expected[merge.Name], Text(merge)));
        string[] names = [.. plan.Merges.Select(merge => merge.Name), .. plan.MustBeComplete.Select(cow => cow.Name)];
        string found = $"only {string.Join(", ", names)}; {string.Join(", ", plan.LeftOut)}";
        Assert.True(expected.Keys.Order().SequenceEqual(names.Order()), found);
        foreach (CompleteCow one in plan.MustBeComplete)
            Assert.EndsWith(" " + string.Join(';', one.Cow), expected[one.Name], StringComparison.Ordinal);
    }

    /// <summary>Bytes with a checksum: the first geometry, and the first copy of header and tables of slot 1.</summary>
    private static IEnumerable<int> Damageable(byte[] super)
    {
        int tables = BitConverter.ToInt32(super, Primary + 44);
        return [.. Enumerable.Range(Geometry, GeometryBytes), .. Enumerable.Range(Primary, HeaderBytes + tables)];
    }

    private UpdatePlan Plan(byte[] super) => UpdatePlan.Of(Facts(super));

    private DeviceFacts Facts(byte[] super) => DeviceReader.Read("_b", _folder.Path, new Dictionary<string, IByteSource>
    {
        ["super"] = new MemorySource(super, "super"),
        ["misc"] = _misc,
    });

    private static string Text(UpdatePlan plan) => $"{plan.Nothing} {plan.Refusal} {string.Join('\n', plan.Merges.Select(Text))}";

    private static string Text(PlannedMerge merge) =>
        $"{merge.Name} {merge.Phase}: {string.Join(';', merge.Base)} {string.Join(';', merge.Source)} {string.Join(';', merge.Cow)}";
}
