using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text.Json;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.Conformance;

/// <summary>`create` of the built program on the pair of images from which Android's writer made the golden COWs.</summary>
public sealed class CreateTests(ITestOutputHelper output) : IDisposable
{
    private readonly TempFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    /// <summary>
    /// Every golden COW except the one without scratch. `create` does not write such a COW, because an Xor in place could not be merged
    /// safely. Android's brotli files have level 5; this program's have the default level, like the other files.
    /// </summary>
    public static IEnumerable<object[]> Rows => Golden.Cows.Where(cow => cow.Scratch).Select(cow => new object[] { cow.Name });

    [Theory]
    [MemberData(nameof(Rows))]
    public void Created_cow_is_no_larger_than_Android_s_and_merges_to_the_target(string name)
    {
        GoldenCow row = Golden.Row(name);
        File.WriteAllBytes(_folder["old"], Golden.Old);
        File.WriteAllBytes(_folder["new"], Golden.New);
        List<string> arguments =
        [
            "create", "--source", _folder["old"], "--target", _folder["new"], "--output", _folder["cow"], "--format", $"{row.Version}",
            "--compression", row.Compression.Split(',')[0], "--json",
        ];
        if (row.Version == 2) arguments.AddRange(["--cluster-ops", $"{row.ClusterOps}"]);
        if (row.Version == 3) arguments.AddRange(["--block-factor", $"{row.Factor}"]);
        if (row.Xor > 0) arguments.Add("--xor");
        BinaryResult created = Binary.Run([.. arguments]);
        Assert.True(created.ExitCode == 0, created.ToString());

        JsonElement done = JsonDocument.Parse(created.Output.TrimEnd('\n').Split('\n')[^1]).RootElement;
        long bytes = new FileInfo(_folder["cow"]).Length;
        output.WriteLine($"{name}: ours {bytes}, Android's {row.CowBytes}; {done}");
        Assert.Equal(bytes, done.GetProperty("bytes").GetInt64());
        Assert.True(bytes <= row.CowBytes, $"{bytes} bytes, Android needs {row.CowBytes}");
        Assert.True(done.GetProperty("checked").GetBoolean());

        BinaryResult inspected = Binary.Run("inspect", _folder["cow"]);
        Assert.True(inspected.ExitCode == 0, inspected.ToString());
        Assert.Contains("Android can merge this", inspected.Output);
        BinaryResult merged = Binary.Run("merge", "--cow", _folder["cow"], "--base", _folder["old"], "--json");
        Assert.True(merged.ExitCode == 0, merged.ToString());
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["old"]));
        JsonElement merge = JsonDocument.Parse(merged.Output.TrimEnd('\n').Split('\n')[^1]).RootElement;
        Assert.Equal(done.GetProperty("journaled").GetInt32(), merge.GetProperty("journaled").GetInt32());
    }

    public static IEnumerable<object[]> Refusals()
    {
        yield return [64, "the same", new[] { "--source", "{old}", "--target", "{old}" }];
        yield return [64, "the same", new[] { "--source", "{old}", "--target", "{link}" }];
        yield return [66, "no such file", new[] { "--source", "{missing}", "--target", "{new}" }];
        yield return [66, "no such file", new[] { "--source", "{old}", "--target", "{missing}" }];
        yield return [64, "multiple of", new[] { "--source", "{odd}", "--target", "{new}" }];
        yield return [64, "multiple of", new[] { "--source", "{old}", "--target", "{odd}" }];
        yield return [64, "read by this very command", new[] { "--source", "{old}", "--target", "{new}", "--output", "{new}" }];
        yield return [64, "read by this very command", new[] { "--source", "{old}", "--target", "{new}", "--output", "{link}" }];
        yield return [73, "", new[] { "--source", "{old}", "--target", "{new}", "--output", "{missing}/cow" }];
        yield return [73, "", new[] { "--source", "{old}", "--target", "{new}", "--output", "{folder}" }];
        yield return [64, "xz", new[] { "--source", "{old}", "--target", "{new}", "--compression", "xz" }];
        yield return [64, "", new[] { "--source", "{old}", "--target", "{new}", "--compression", "gz,4,4" }];
        yield return [64, "", new[] { "--source", "{old}", "--target", "{new}", "--compression", "gz,77" }];
        yield return [64, "", new[] { "--source", "{old}", "--target", "{new}", "--compression", "zstd,x" }];
        yield return [64, "block-factor", new[] { "--source", "{old}", "--target", "{new}", "--block-factor", "5000" }];
        yield return [64, "block-factor", new[] { "--source", "{old}", "--target", "{new}", "--block-factor", "512k" }];
        yield return [64, "format 2", new[] { "--source", "{old}", "--target", "{new}", "--format", "2", "--block-factor", "64k" }];
        yield return [64, "cluster", new[] { "--source", "{old}", "--target", "{new}", "--format", "2", "--cluster-ops", "1" }];
        yield return [64, "more than the 16 TiB", new[] { "--source", "{old}", "--target", "{full}/huge" }];
        yield return [74, "", new[] { "--source", "{old}", "--target", "{new}", "--output", "{full}/cow" }];
    }

    [RootTheory]
    [MemberData(nameof(Refusals))]
    public void Invalid_request_is_refused_with_one_message_and_leaves_no_file(int code, string sentence, string[] arguments)
    {
        File.WriteAllBytes(_folder["old"], Golden.Old);
        File.WriteAllBytes(_folder["new"], Golden.New);
        File.WriteAllBytes(_folder["odd"], new byte[5000]);
        File.CreateSymbolicLink(_folder["link"], _folder["old"]);
        Directory.CreateDirectory(_folder["folder"]);
        Directory.CreateDirectory(_folder["full"]);
        LoopDevice.Call("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", _folder["full"]);
        try
        {
            // A file with one hole. tmpfs, unlike ext4, accepts files beyond 16 TiB.
            using (FileStream huge = File.Create(Path.Combine(_folder["full"], "huge"))) huge.SetLength((16L << 40) + 4096);
            List<string> words =
            [
                "create", .. arguments.Select(word => word.StartsWith('{') ? _folder[word[1..word.IndexOf('}', StringComparison.Ordinal)]]
                    + word[(word.IndexOf('}', StringComparison.Ordinal) + 1)..] : word),
            ];
            if (!arguments.Contains("--output")) words.AddRange(["--output", _folder["cow"]]);
            HashSet<string> before = [.. Directory.GetFiles(_folder.Path, "*", SearchOption.AllDirectories)];
            BinaryResult result = Binary.Run([.. words]);
            Assert.True(result.ExitCode == code, result.ToString());
            Assert.Contains(sentence, result.Error);
            Assert.Equal(1, result.Error.Count(c => c == '\n'));
            Assert.Equal(before, [.. Directory.GetFiles(_folder.Path, "*", SearchOption.AllDirectories)]);
            Assert.Equal(Golden.New, File.ReadAllBytes(_folder["new"]));
            Assert.Equal(Golden.Old, File.ReadAllBytes(_folder["old"]));
        }
        finally
        {
            LoopDevice.Call("umount", _folder["full"]);
        }
    }

    [RootFact]
    public void Cow_is_written_to_a_block_device_and_merges_from_there()
    {
        File.WriteAllBytes(_folder["old"], Golden.Old);
        File.WriteAllBytes(_folder["new"], Golden.New);
        File.WriteAllBytes(_folder["device"], new byte[4 << 20]);
        foreach (string format in new[] { "2", "3" })
        {
            using LoopDevice device = new(_folder["device"]);
            BinaryResult created = Binary.Run("create", "--source", _folder["old"], "--target", _folder["new"], "--output", device.Path,
                "--format", format, "--compression", "zstd", "--xor");
            Assert.True(created.ExitCode == 0, created.ToString());
            File.Copy(_folder["old"], _folder["base"], overwrite: true);
            BinaryResult merged = Binary.Run("merge", "--cow", device.Path, "--base", _folder["base"]);
            Assert.True(merged.ExitCode == 0, merged.ToString());
            Assert.Equal(Golden.New, File.ReadAllBytes(_folder["base"]));
        }
        File.WriteAllBytes(_folder["small"], new byte[2200 << 10]);
        using LoopDevice small = new(_folder["small"]);
        BinaryResult full = Binary.Run("create", "--source", _folder["old"], "--target", _folder["new"], "--output", small.Path);
        Assert.Equal(74, full.ExitCode);
        // The incomplete COW must not be accepted as an update without ops.
        BinaryResult none = Binary.Run("merge", "--cow", small.Path, "--base", _folder["base"]);
        Assert.True(none.ExitCode == 65, none.ToString());
    }

    [Theory]
    [InlineData("--xor", "zstd,19")]
    [InlineData("--no-check", "gz,9")]
    public void Stop_leaves_no_file_under_the_final_name(string option, string compression)
    {
        byte[] old = new byte[8 << 20], fresh = new byte[8 << 20];
        Random random = new(1);
        random.NextBytes(old);
        for (int i = 0; i < fresh.Length; i++) fresh[i] = (byte)(i % 3 == 0 ? old[i] : i * 7);
        File.WriteAllBytes(_folder["old"], old);
        File.WriteAllBytes(_folder["new"], fresh);
        // The signal comes at the first write, that of the header, so all payloads are still unwritten.
        string[] command = KillAt.SignalledAt(15, 1, "pwrite64", "create", "--source", _folder["old"], "--target", _folder["new"],
            "--output", _folder["cow"],
            "--compression", compression, "--block-factor", "256k", option, "--json", "--progress", "plain");
        BinaryResult result = Binary.RunProgram(command[0], command[1..]);
        Assert.True(result.ExitCode == 75, result.ToString());
        Assert.False(File.Exists(_folder["cow"]));
        Assert.False(File.Exists(_folder["cow.part"]));
    }

    /// <summary>
    /// Identical blocks replace blocks that differ from them in about every eighth byte. As an Xor, each block is smaller than as a single
    /// Replace, but not smaller than its share of a Replace of a whole unit.
    /// </summary>
    [Theory]
    [InlineData("lz4")]
    [InlineData("zstd")]
    public void Xor_never_makes_the_file_larger(string compression)
    {
        Random random = new(1);
        byte[] block = new byte[4096], old = new byte[1024 * 4096], fresh = new byte[old.Length];
        for (int i = 0; i < block.Length; i++) block[i] = (byte)random.Next(97, 123);
        for (int at = 0; at < old.Length; at += 4096)
        {
            block.CopyTo(old, at);
            block.CopyTo(fresh, at);
            for (int i = 0; i < 500; i++) old[at + random.Next(4096)] = (byte)random.Next(256);
        }
        File.WriteAllBytes(_folder["old"], old);
        File.WriteAllBytes(_folder["new"], fresh);
        long Size(params string[] more)
        {
            BinaryResult result = Binary.Run(["create", "--source", _folder["old"], "--target", _folder["new"], "--output", _folder["cow"],
                "--compression", compression, "--block-factor", "64k", .. more]);
            Assert.True(result.ExitCode == 0, result.ToString());
            return new FileInfo(_folder["cow"]).Length;
        }
        long without = Size(), with = Size("--xor");
        output.WriteLine($"{with} bytes with --xor, {without} without");
        Assert.True(with <= without, $"{with} bytes with --xor, {without} without");
    }
}
