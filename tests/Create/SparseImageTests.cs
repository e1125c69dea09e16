using System;
using System.IO;
using Snapuserd.Block;
using Snapuserd.Create;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Create;

/// <summary>Android sparse images, expanded during reading.</summary>
public sealed class SparseImageTests : IDisposable
{
    private const int Block = 4096;

    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Checksum_has_the_check_value_of_the_standard()
    {
        Assert.Equal(0xcbf43926, SparseImages.Crc32("123456789"u8));
        Assert.Equal(0xcbf43926, Interop.Zlib.Crc32(Interop.Zlib.Crc32(0, "1234"u8), "56789"u8));
        Assert.Equal(7u, Interop.Zlib.Crc32(7, []));
    }

    [Fact]
    public void Raw_image_is_returned_unchanged()
    {
        File.WriteAllBytes(_folder["image"], Noise(1, Block));
        using FileImageReader file = FileImageReader.Open(_folder["image"]);
        Assert.Same(file, SparseImageReader.Of(file, new StopFlag()));
    }

    [Theory]
    [InlineData(4096, 28, 12)]
    [InlineData(1024, 28, 12)]
    [InlineData(65536, 32, 16)]
    [InlineData(4, 28, 12)]
    public void Every_range_of_a_sparse_image_reads_like_the_raw_image(int block, int headerBytes, int chunkHeaderBytes)
    {
        SparseImages made = new SparseImages(block, headerBytes, chunkHeaderBytes)
            .Fill(2, 0x04030201).Data(Noise(1, 3 * block)).Skip(2).Skip(1).Fill(1, 0).Checksum().Data(Noise(2, block)).Data(Noise(3, block))
            .Fill(1, 0xffffffff).Fill(0, 9).Skip(0).Skip(4)
            .Checksum(counted: false);
        byte[] raw = made.Raw;
        Read(made.Build(), image =>
        {
            Assert.Equal(raw.Length, image.Length);
            Random random = new(block);
            for (int i = 0; i < 2000; i++)
            {
                int start = random.Next(raw.Length), length = random.Next(Math.Min(raw.Length - start, i % 2 == 0 ? 20 : raw.Length) + 1);
                byte[] read = Noise(i, length);
                image.Read(start, read);
                Assert.Equal(raw.AsSpan(start, length).ToArray(), read);
                bool isHole = image.TrySkipHole(start, out long next);
                Assert.Equal(InHole(start / block), isHole);
                Assert.True(raw.AsSpan(start, (int)next - start).IndexOfAnyExcept((byte)0) < 0);
            }
            Assert.False(image.TrySkipHole(raw.Length, out _));
            Assert.Throws<ArgumentOutOfRangeException>(() => image.Read(raw.Length - 1, new byte[2]));
        });

        // The holes are three skipped blocks and one filled with zeros, and the four blocks at the end.
        static bool InHole(int number) => number is (>= 5 and < 9) or >= 12;
    }

    [Fact]
    public void Holes_are_reported_to_their_end()
    {
        Read(new SparseImages().Data(Noise(1, Block)).Skip(2).Fill(1, 0).Data(Noise(2, Block)).Skip(1).Build(), image =>
        {
            Assert.False(image.TrySkipHole(10, out long none));
            Assert.Equal(10, none);
            Assert.True(image.TrySkipHole(Block + 5, out long end));
            Assert.Equal(4 * Block, end);
            Assert.True(image.TrySkipHole(5 * Block, out end));
            Assert.Equal(6 * Block, end);
        });
    }

    [Fact]
    public void Hole_of_a_terabyte_is_skipped_at_once()
    {
        SparseImages made = new();
        made.Chunk(0xcac3, 1u << 28, 0, []);
        made.Wrong.Add((16, 4, 1u << 28));
        Read(made.Build(), image =>
        {
            Assert.Equal(1L << 40, image.Length);
            Assert.True(image.TrySkipHole(3, out long end));
            Assert.Equal(1L << 40, end);
        });
    }

    [Fact]
    public void Every_truncation_is_refused()
    {
        byte[] file = new SparseImages().Data(Noise(1, Block)).Skip(2).Fill(1, 7).Checksum().Build();
        for (int length = 4; length < file.Length; length += length < 60 || length > file.Length - 60 ? 1 : 100)
            Assert.Contains("cut off", Refusal(file[..length]), StringComparison.Ordinal);
        Read(file, image => Assert.Equal(4 * Block, image.Length));
    }

    [Theory]
    [InlineData(4, 2, 2, "version is 2.0")]
    [InlineData(8, 2, 27, "header's size is 27")]
    [InlineData(10, 2, 11, "chunk header's size is 11")]
    [InlineData(12, 4, 0, "block size is 0")]
    [InlineData(12, 4, 4098, "block size is 4098")]
    [InlineData(16, 4, 2, "ends after the image's 8192 bytes")]
    [InlineData(16, 4, 4, "its chunks have 3 blocks, its header says 4")]
    [InlineData(20, 4, 1, "its chunks have 1 blocks, its header says 3")]
    [InlineData(20, 4, 3, "cut off within chunk 2")]
    [InlineData(20, 4, 0xffffffff, "cut off within chunk 2")]
    public void Invalid_header_is_refused(int offset, int bytes, uint value, string sentence)
    {
        SparseImages made = new SparseImages().Data(Noise(1, Block)).Skip(2);
        made.Wrong.Add((offset, bytes, value));
        Assert.Contains(sentence, Refusal(made.Build()), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0xcac0, 1, 0, "type 0xcac0")]
    [InlineData(0xcac1, 1, 4095, "has 4095 bytes of data, must have 4096")]
    [InlineData(0xcac1, 0xffffffff, 4096, "must have 17592186040320")]
    [InlineData(0xcac2, 1, 0, "has 0 bytes of data, must have 4")]
    [InlineData(0xcac3, 1, 4, "has 4 bytes of data, must have 0")]
    [InlineData(0xcac3, 1, 0xffffffff, "has -1 bytes of data, must have 0")]
    [InlineData(0xcac4, 1, 4, "is a checksum and has blocks")]
    public void Invalid_chunk_is_refused(int type, uint blocks, uint data, string sentence) =>
        Assert.Contains(sentence,
            Refusal(new SparseImages().Data(Noise(1, Block)).Chunk((ushort)type, blocks, data, new byte[Math.Min(data, 8192)]).Build()),
            StringComparison.Ordinal);

    [Theory]
    [InlineData(0xcac2, 4)]
    [InlineData(0xcac3, 0)]
    public void Chunk_of_more_bytes_than_can_be_counted_is_refused(int type, uint data)
    {
        SparseImages made = new SparseImages().Chunk((ushort)type, 0xffffffff, data, new byte[data]);
        made.Wrong.Add((12, 4, 0xfffffffc));
        made.Wrong.Add((16, 4, 1));
        Assert.Contains("ends after the image's 4294967292 bytes", Refusal(made.Build()), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Image_with_a_wrong_checksum_is_refused(bool counted)
    {
        byte[] file = new SparseImages().Data(Noise(1, Block)).Fill(300, 9).Checksum(0x12345678, counted).Build();
        Assert.Contains("the checksum of its first 1232896 bytes is 0x", Refusal(file), StringComparison.Ordinal);
    }

    [Fact]
    public void Stop_ends_the_verification_of_checksums()
    {
        File.WriteAllBytes(_folder["image"], new SparseImages().Fill(300, 9).Checksum().Build());
        using FileImageReader file = FileImageReader.Open(_folder["image"]);
        int asked = 0;
        // The flag is read for the fill chunk, for the checksum chunk, and before the checksum is computed.
        var stop = new StopFlag(() => ++asked == 3);
        Assert.Equal(ExitCode.Interrupted, Assert.Throws<SnapuserdException>(() => SparseImageReader.Of(file, stop)).Code);
        Assert.Equal(3, asked);
    }

    private string Refusal(byte[] file)
    {
        SnapuserdException error = Assert.Throws<SnapuserdException>(() => Read(file, _ => { }));
        Assert.Equal(ExitCode.CowCorrupt, error.Code);
        Assert.StartsWith($"{_folder["image"]} is a damaged Android sparse image: ", error.Message, StringComparison.Ordinal);
        return error.Message;
    }

    private void Read(byte[] file, Action<IImageReader> use)
    {
        File.WriteAllBytes(_folder["image"], file);
        using FileImageReader reader = FileImageReader.Open(_folder["image"]);
        IImageReader image = SparseImageReader.Of(reader, new StopFlag());
        Assert.NotSame(reader, image);
        use(image);
    }

    private static byte[] Noise(int seed, int length)
    {
        byte[] bytes = new byte[length];
        new Random(seed).NextBytes(bytes);
        return bytes;
    }
}
