using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Conformance;

/// <summary>
/// For random pairs of images, `create` and then `merge` of the built program give the new image, with all options and any memory size.
/// </summary>
public sealed class CreateRoundTripTests(ITestOutputHelper output) : IDisposable
{
    private const int Block = 4096;
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    public static IEnumerable<object[]> Options =>
        from compression in new[] { "none", "gz,3", "brotli,2", "lz4", "zstd" }
        from factor in new[] { "2", "4k", "8k", "16k", "32k", "64k", "128k", "256k" }
        select new object[] { compression, factor };

    [Theory]
    [MemberData(nameof(Options))]
    public void Random_pair_is_created_and_merged_with_any_format_codec_and_factor(string compression, string factor)
    {
        int seed = compression.Aggregate(factor.Aggregate(17, (sum, c) => (sum * 31) + c), (sum, c) => (sum * 31) + c) & 0xffff;
        (byte[] old, byte[] fresh) = Pair(seed, 300, 300);
        byte[]? first = null;
        foreach (bool xor in new[] { false, true })
        {
            foreach (int threads in new[] { 1, 3 })
            {
                RoundTrip(seed, old, fresh, compression, factor, xor, threads);
                byte[] cow = File.ReadAllBytes(_folder["cow.kept"]);
                if (threads == 1) first = cow;
                else Assert.True(first.AsSpan().SequenceEqual(cow), $"seed {seed}: the file depends on the number of threads");
            }
        }
    }

    [Theory]
    [InlineData(1, 0, 40)]
    [InlineData(2, 40, 1)]
    [InlineData(3, 1, 1)]
    [InlineData(4, 700, 1500)]
    [InlineData(5, 1500, 700)]
    [InlineData(6, 2600, 2600)]
    public void Images_of_any_two_sizes_are_created_and_merged(int seed, int oldBlocks, int newBlocks)
    {
        (byte[] old, byte[] fresh) = Pair(seed, oldBlocks, newBlocks);
        RoundTrip(seed, old, fresh, "zstd", "64k", true, 2);
        RoundTrip(seed, old, fresh, "lz4", "2", true, 1);
    }

    [Fact]
    public void Empty_difference_is_a_cow_without_ops_that_merges()
    {
        (byte[] old, _) = Pair(9, 50, 50);
        RoundTrip(9, old, old, "gz", "4k", true, 1);
        RoundTrip(9, old, old, "gz", "2", false, 1);
    }

    private void RoundTrip(int seed, byte[] old, byte[] fresh, string compression, string factor, bool xor, int threads)
    {
        string what = $"seed {seed}, {compression}, {factor}, xor {xor}, {threads} threads";
        File.WriteAllBytes(_folder["old"], old);
        File.WriteAllBytes(_folder["new"], fresh);
        List<string> arguments =
        [
            "create", "--source", _folder["old"], "--target", _folder["new"], "--output", _folder["cow"], "--compression", compression,
            "--threads", $"{threads}", "--memory", "8M", "--progress", "never",
        ];
        arguments.AddRange(factor == "2" ? ["--format", "2"] : ["--block-factor", factor]);
        if (xor) arguments.Add("--xor");
        BinaryResult created = Binary.Run([.. arguments]);
        Assert.True(created.ExitCode == 0, $"{what}: {created}");
        output.WriteLine($"{what}: {created.Output.Trim()}");
        File.Copy(_folder["cow"], _folder["cow.kept"], overwrite: true);

        // The base has the size of the larger image, as if its partition had been resized before the merge.
        byte[] image = new byte[Math.Max(old.Length, fresh.Length)];
        Array.Fill(image, (byte)0x5a);
        old.CopyTo(image, 0);
        File.WriteAllBytes(_folder["base"], image);
        BinaryResult merged = Binary.Run("merge", "--cow", _folder["cow"], "--base", _folder["base"], "--memory", "8M",
            "--progress", "never");
        Assert.True(merged.ExitCode == 0, $"{what}: {merged}");
        Assert.True(File.ReadAllBytes(_folder["base"]).AsSpan(0, fresh.Length).SequenceEqual(fresh),
            $"{what}: the base is not the new image");
    }

    /// <summary>
    /// An old image with ranges of text-like, random and zero blocks. The new image consists of pieces of it: kept, moved, shifted by
    /// bytes, edited, zeroed and replaced.
    /// </summary>
    private static (byte[] Old, byte[] Fresh) Pair(int seed, int oldBlocks, int newBlocks)
    {
        Random random = new(seed);
        byte[] old = new byte[oldBlocks * Block];
        for (int at = 0; at < old.Length;)
        {
            int length = Math.Min(old.Length - at, random.Next(1, 40) * Block);
            Fill(random, old.AsSpan(at, length));
            at += length;
        }
        byte[] fresh = new byte[newBlocks * Block];
        for (int at = 0; at < fresh.Length;)
        {
            Span<byte> piece = fresh.AsSpan(at, Math.Min(fresh.Length - at, random.Next(1, 30) * Block));
            int from = old.Length > piece.Length ? random.Next((old.Length - piece.Length) / Block) * Block : 0;
            switch (old.Length > piece.Length + Block ? random.Next(8) : 7)
            {
                case 0 or 1 when at + piece.Length <= old.Length:
                    old.AsSpan(at, piece.Length).CopyTo(piece);
                    break;
                case 2 or 3:
                    old.AsSpan(from, piece.Length).CopyTo(piece);
                    break;
                case 4:
                    old.AsSpan(from + random.Next(1, Block), piece.Length).CopyTo(piece);
                    break;
                case 5:
                    old.AsSpan(Math.Min(at, old.Length - piece.Length) / Block * Block, piece.Length).CopyTo(piece);
                    for (int i = 0; i < piece.Length; i += random.Next(100, 9000)) piece[i]++;
                    break;
                case 6:
                    break;
                default:
                    Fill(random, piece);
                    break;
            }
            at += piece.Length;
        }
        return (old, fresh);
    }

    private static void Fill(Random random, Span<byte> bytes)
    {
        switch (random.Next(4))
        {
            case 0:
                break;
            case 1:
                random.NextBytes(bytes);
                break;
            default:
                for (int i = 0; i < bytes.Length; i++) bytes[i] = (byte)(i % 16 < 9 ? random.Next(32, 100) : i / 64 % 50);
                break;
        }
    }
}
