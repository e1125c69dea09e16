using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Security.Cryptography;
using Snapuserd.Cow;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Conformance;

/// <summary>The built program on files made by Android's own writer and engine.</summary>
public sealed class GoldenTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    public static IEnumerable<object[]> CowsAndQueues =>
        from cow in Golden.Cows from io in new[] { "uring", "sync" } select new object[] { cow.Name, io };

    public static IEnumerable<object[]> HalvesAndQueues =>
        from half in Golden.Halves from io in new[] { "uring", "sync" } select new object[] { half.Name, io };

    private static string TargetHash { get; } = Convert.ToHexStringLower(SHA256.HashData(Golden.New));

    private string Put(string name, byte[] bytes)
    {
        File.WriteAllBytes(_folder[name], bytes);
        return _folder[name];
    }

    // Only an Xor in place without scratch needs the permission, and the golden file without scratch has such Xors.
    private static string[] Unsafe(string name) => name.EndsWith("noscratch", StringComparison.Ordinal) ? ["--allow-unsafe"] : [];

    private static void Succeeds(params string[] arguments)
    {
        BinaryResult result = Binary.Run(arguments);
        Assert.True(result.ExitCode == 0, result.ToString());
    }

    [Fact]
    public void Hash_of_the_golden_target_is_the_committed_one() =>
        Assert.Equal(File.ReadLines(Path.Combine(Golden.Folder, "SHA256SUMS"))
            .Single(line => line.EndsWith("new.img", StringComparison.Ordinal))[..64], TargetHash);

    [Theory]
    [MemberData(nameof(CowsAndQueues))]
    public void Golden_cow_merges_to_the_target_in_files(string name, string io)
    {
        string cow = Put("cow", Golden.Cow(name)), image = Put("base", Golden.Old);
        Succeeds(["merge", "--cow", cow, "--base", image, "--io", io, "--progress", "never", .. Unsafe(name)]);
        Assert.Equal(Golden.New, File.ReadAllBytes(image));
        BinaryResult again = Binary.Run("merge", "--cow", cow, "--base", image, "--io", io);
        Assert.Equal(0, again.ExitCode);
        Assert.Contains("already merged", again.Output);
    }

    [RootTheory]
    [MemberData(nameof(CowsAndQueues))]
    public void Golden_cow_merges_to_the_target_on_loop_devices(string name, string io)
    {
        byte[] cowBytes = Golden.Cow(name);
        // A device may be longer than the file on it: a v2 file ends at its footer, not at the end of the device.
        Array.Resize(ref cowBytes, (cowBytes.Length + 65536 + 4095) & -4096);
        string cow = Put("cow", cowBytes), image = Put("base", Golden.Old);
        using (LoopDevice cowDevice = new(cow), baseDevice = new(image))
        {
            Succeeds(["merge", "--cow", cowDevice.Path, "--base", baseDevice.Path, "--io", io, "--progress", "never", .. Unsafe(name)]);
        }
        Assert.Equal(Golden.New, File.ReadAllBytes(image));
    }

    [Theory]
    [MemberData(nameof(CowsAndQueues))]
    public void Golden_cow_extracts_to_the_target_and_cow_and_base_stay_unchanged(string name, string io)
    {
        string cow = Put("cow", Golden.Cow(name)), image = Put("base", Golden.Old);
        Succeeds("extract", "--cow", cow, "--base", image, "--output", _folder["out"], "--io", io, "--progress", "never");
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["out"]));
        Assert.Equal(Golden.Old, File.ReadAllBytes(image));
        Assert.Equal(Golden.Cow(name), File.ReadAllBytes(cow));
    }

    [Theory]
    [MemberData(nameof(Golden.CowNames), MemberType = typeof(Golden))]
    public void Golden_cow_verifies_against_its_base(string name)
    {
        string cow = Put("cow", Golden.Cow(name)), image = Put("base", Golden.Old);
        Succeeds("verify", "--cow", cow);
        Succeeds("verify", "--cow", cow, "--base", image, "--sha256", TargetHash);
        BinaryResult wrong = Binary.Run("verify", "--cow", cow, "--base", image, "--sha256", new string('0', 64));
        Assert.Equal(65, wrong.ExitCode);
        Assert.Contains(TargetHash, wrong.Error);
    }

    [Theory]
    [MemberData(nameof(HalvesAndQueues))]
    public void Half_merged_pair_of_Android_s_engine_shows_the_target_and_resumes_to_it(string name, string io)
    {
        string cow = Put("cow", Golden.HalfCow(name)), image = Put("base", Golden.HalfBase(name));
        Succeeds("verify", "--cow", cow, "--base", image, "--sha256", TargetHash, "--io", io);
        Succeeds("extract", "--cow", cow, "--base", image, "--output", _folder["out"], "--io", io);
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["out"]));
        Succeeds("merge", "--cow", cow, "--base", image, "--io", io);
        Assert.Equal(Golden.New, File.ReadAllBytes(image));
    }

    [RootTheory]
    [MemberData(nameof(Golden.HalfNames), MemberType = typeof(Golden))]
    public void Half_merged_pair_of_Android_s_engine_resumes_on_loop_devices(string name)
    {
        byte[] cowBytes = Golden.HalfCow(name);
        Array.Resize(ref cowBytes, (cowBytes.Length + 4095) & -4096);
        string cow = Put("cow", cowBytes), image = Put("base", Golden.HalfBase(name));
        using (LoopDevice cowDevice = new(cow), baseDevice = new(image))
        {
            Succeeds("merge", "--cow", cowDevice.Path, "--base", baseDevice.Path);
        }
        Assert.Equal(Golden.New, File.ReadAllBytes(image));
    }

    [Theory]
    [InlineData("8M")]
    [InlineData("9M")]
    [InlineData("1G")]
    public void Golden_cows_merge_with_any_memory(string memory)
    {
        foreach (string name in new[] { "v3-zstd-256k-xor", "v2-gz-xor", "v3-brotli-16k" })
        {
            string cow = Put("cow", Golden.Cow(name)), image = Put("base", Golden.Old);
            Succeeds("merge", "--cow", cow, "--base", image, "--memory", memory);
            Assert.Equal(Golden.New, File.ReadAllBytes(image));
        }
    }

    [Theory]
    [InlineData(1, "uring")]
    [InlineData(2, "uring")]
    [InlineData(1024, "uring")]
    [InlineData(1, "sync")]
    [InlineData(2, "sync")]
    [InlineData(1024, "sync")]
    public void Golden_cows_merge_at_any_queue_depth(int depth, string io)
    {
        string cow = Put("cow", Golden.Cow("v3-lz4-64k-xor")), image = Put("base", Golden.Old);
        Succeeds("merge", "--cow", cow, "--base", image, "--queue-depth", $"{depth}", "--io", io);
        Assert.Equal(Golden.New, File.ReadAllBytes(image));
    }

    [Fact]
    public void Golden_cow_merges_from_a_separate_source()
    {
        string cow = Put("cow", Golden.Cow("v3-lz4-64k-xor")), source = Put("source", Golden.Old), image = Put("base", Golden.Old);
        Succeeds("merge", "--cow", cow, "--base", image, "--source", source, "--source-separate");
        Assert.Equal(Golden.New, File.ReadAllBytes(image));
        Assert.Equal(Golden.Old, File.ReadAllBytes(source));
    }

    [Fact]
    public void Version_1_is_inspected_verified_and_extracted_but_not_merged()
    {
        byte[] old = Golden.Old;
        CowBuilder builder =
            new CowBuilder { Version = 1, Compression = CowCompression.Gz, ClusterOps = 4, ScratchBytes = 0, MaxUnitBytes = 4096 }
                .Copy(0, 1).Copy(1, 2).Replace(5, old.AsSpan(0, 4096)).Zero(7);
        string cow = Put("cow", builder.Build()), image = Put("base", old);
        Succeeds("inspect", cow);
        Succeeds("verify", "--cow", cow, "--base", image);
        Succeeds("extract", "--cow", cow, "--base", image, "--output", _folder["out"]);
        Assert.Equal(NaiveMerger.Merge(builder, old), File.ReadAllBytes(_folder["out"]));
        BinaryResult merge = Binary.Run("merge", "--cow", cow, "--base", image);
        Assert.Equal(65, merge.ExitCode);
        Assert.Contains("version 1", merge.Error);
        Assert.Equal(old, File.ReadAllBytes(image));
    }
}
