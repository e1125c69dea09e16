using System;
using System.Linq;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cow;

/// <summary>The test builder writes the same bytes as Android's writers. All tests that build files rely on this.</summary>
public sealed class CowBuilderTests
{
    private static readonly byte[] s_t = AndroidFiles.T;
    private static readonly byte[] s_m = AndroidFiles.M;

    [Fact]
    public void Version_2_file_equals_androids_byte_for_byte()
    {
        var cow = new CowBuilder { Version = 2, Compression = CowCompression.Gz, ClusterOps = 3, ScratchBytes = 0 }
            .Copy(10, 20).Replace(50, s_t).Xor(51, (24 * 4096) + 10, s_m).Zero(7).Label(9);
        Assert.Equal(Convert.ToHexString(AndroidFiles.V2), Convert.ToHexString(cow.Build()));
    }

    [Fact]
    public void Version_3_file_equals_androids_byte_for_byte()
    {
        var cow = new CowBuilder { Compression = CowCompression.Gz, MaxUnitBytes = 8192, ScratchBytes = 0, OpCountMaxSlack = 1 }
            .Sequence(51, 10).Copy(10, 20).Replace(48, s_t.Concat(s_t).ToArray()).Xor(51, (24 * 4096) + 10, s_m).Label(9).Zero(7);
        Assert.Equal(Convert.ToHexString(AndroidFiles.V3), Convert.ToHexString(cow.Build()));
    }

    [Fact]
    public void Clusters_lie_where_androids_test_file_has_them()
    {
        var cow = new CowBuilder { Version = 2, ClusterOps = 5 }
            .Copy(0, 5).Replace(2, new byte[4096]).Label(1).Xor(50, (24 * 4096) + 10, new byte[4096])
            .Zero(5).Zero(6).Zero(7).Zero(8).Zero(9).Zero(10).Zero(11).Zero(12).Zero(13).Zero(14).Label(2);
        byte[] file = cow.Build();
        Assert.Equal(2105826, file.Length);
        Assert.Equal(
            new long[] { 2097190, 2097210, 2097230, 2097250, 2097270, 2105482, 2105502, 2105522, 2105542, 2105562, 2105582, 2105602,
                2105622, 2105642, 2105662, 2105682, 2105702, 2105722, 2105742 },
            cow.OpOffsets);
        Assert.Equal(2101386, cow.DataOffsets[3]);
        Assert.Equal(8192, BitConverter.ToInt64(file, 2097270 + 12));
        Assert.Equal(360, BitConverter.ToInt64(file, 2105742 + 4));
    }

    [Theory]
    [InlineData(CowCompression.Lz4, 4096,
        "ff0f5468697320697320736f6d6520646174612c2062656c69657665206974000100ffffffffffffffffffffffffffffffd9500000000000")]
    [InlineData(CowCompression.Zstd, 4096,
        "28b52ffd60000f2d0100f05468697320697320736f6d6520646174612c2062656c696576652069740001007edf074e")]
    [InlineData(CowCompression.Zstd, 65536,
        "28b52ffd6000ff350100f05468697320697320736f6d6520646174612c2062656c696576652069740001007eff75e004")]
    [InlineData(CowCompression.Brotli, 4096, "1bff0fe817a1d213208d2e0529e4b31a514a04abae728b3f7424cd7900d000")]
    public void Compressed_text_block_equals_androids(CowCompression algorithm, int unit, string hex)
    {
        byte[] plain = new byte[unit];
        s_t.CopyTo(plain, 0);
        Assert.Equal(hex, Convert.ToHexString(Compressors.Compress(algorithm, plain, unit)).ToLowerInvariant());
    }

    [Fact]
    public void Golden_files_unpack_to_their_listed_sizes()
    {
        Assert.Equal(1152 * 4096, Golden.Old.Length);
        Assert.Equal(1152 * 4096, Golden.New.Length);
        Assert.All(Golden.Cows, row => Assert.Equal(row.CowBytes, Golden.Cow(row.Name).Length));
        Assert.All(Golden.Halves, half => Assert.Equal(Golden.Row(half.Cow).CowBytes, Golden.HalfCow(half.Name).Length));
    }
}
