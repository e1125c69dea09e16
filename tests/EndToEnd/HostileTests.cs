using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Text.RegularExpressions;
using Snapuserd.Cow;
using Snapuserd.Tests.Simulator;
using Snapuserd.Tests.Support;
using Xunit;
using Xunit.Abstractions;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>
/// Hostile files given to the built program: the same verdicts as in the simulator, and limits that only a whole process can show.
/// </summary>
public sealed partial class HostileTests(ITestOutputHelper output)
{
    /// <summary>More seeds for another architecture, where the simulator does not run.</summary>
    public static IEnumerable<object[]> Seeds => Enumerable.Range(1, Binary.IsEmulated ? 50 : 6).Select(seed => new object[] { seed });

    [Theory]
    [MemberData(nameof(Seeds))]
    public void Program_treats_a_mutated_file_as_the_reference_reader_does(int seed)
    {
        const int files = 4;
        using TempFolder folder = new();
        Chance chance = new((ulong)seed);
        byte[] baseImage = HostileFiles.Base(0);
        File.WriteAllBytes(folder["base"], baseImage);
        for (int i = 0; i < files; i++)
        {
            HostileFile file = HostileFiles.Mutate(HostileFiles.Generate(chance), chance, []);
            NaiveVerdict verdict = NaiveReader.Judge(file.Bytes, baseImage);
            if (verdict.Ambiguous) continue;
            File.WriteAllBytes(folder["cow"], file.Bytes);
            File.WriteAllBytes(folder["merged"], baseImage);

            Expect(verdict.Read ?? verdict.Order, "inspect", folder["cow"], "--ops", "--json");
            Expect(verdict.Read ?? verdict.Order ?? verdict.Payload, "verify", "--cow", folder["cow"]);
            Expect(verdict.ForImage, "extract", "--cow", folder["cow"], "--base", folder["base"], "--output", folder["out"]);
            if (verdict.ForImage == null) Assert.Equal(verdict.Image, File.ReadAllBytes(folder["out"]));
            Assert.Equal(file.Bytes, File.ReadAllBytes(folder["cow"]));
            Assert.Equal(baseImage, File.ReadAllBytes(folder["base"]));

            string? refused = verdict.ForImage ?? (verdict.Major == 1 ? "version 1" : verdict.Count == 0 ? verdict.Payload : null);
            BinaryResult merge = Expect(refused, "merge", "--cow", folder["cow"], "--base", folder["merged"], "--memory", "8M",
                "--progress", "never", "--allow-unsafe");
            byte[] merged = File.ReadAllBytes(folder["merged"]);
            // A bad payload after the first count is found after earlier blocks are already written.
            if (refused == null) Assert.Equal(verdict.Image, merged);
            else if (verdict.Read != null || verdict.Count == 0) Assert.Equal(baseImage, merged);
            File.Delete(folder["out"]);
            output.WriteLine($"{refused ?? "merged"}: {merge.Error}");
        }
    }

    [Theory]
    [InlineData("28b52ffd60000f03800041", 0)]
    [InlineData("28b52ffd60ff0efb7f0041" + "27b52ffd2001400001" + "41" + "c00000", 65)]
    [InlineData("28b52ffd60ff0efb7f0041" + "26b52ffd0001400001" + "41" + "c00000", 65)]
    [InlineData("28b52ffd60ff0efb7f0041" + "25b52ffd0001400001" + "41" + "c00000", 65)]
    [InlineData("27b52ffd2001400001" + "41" + "c00000", 65)]
    public void Zstd_frame_of_a_version_before_0_8_is_refused_at_any_position(string frames, int exitCode)
    {
        // The program has no decoders for these frames (src/NativeAot.props). The payload is 4095 bytes of current zstd, and a skippable
        // frame fills up the length.
        byte[] payload = Convert.FromHexString(frames);
        using TempFolder folder = new();
        CowBuilder builder = new() { Compression = CowCompression.Zstd };
        byte[] plain = new byte[4096];
        new Random(1).NextBytes(plain.AsSpan(0, 2048));
        byte[] cow = builder.Replace(0, plain).Build();
        int offset = (int)builder.DataOffsets[0], stored = cow.Length - offset, skipped = stored - payload.Length - 8;
        Assert.InRange(skipped, 0, 4096);
        cow.AsSpan(offset).Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(cow.AsSpan(offset), 0x184d2a50);
        BinaryPrimitives.WriteInt32LittleEndian(cow.AsSpan(offset + 4), skipped);
        payload.CopyTo(cow.AsSpan(offset + 8 + skipped));
        File.WriteAllBytes(folder["cow"], cow);
        BinaryResult result = Binary.Run("verify", "--cow", folder["cow"]);
        Assert.True(result.ExitCode == exitCode, result.ToString());
    }

    private static BinaryResult Expect(string? rule, params string[] arguments)
    {
        BinaryResult result = Binary.Run(arguments);
        Assert.True(result.ExitCode == (rule == null ? 0 : 65), $"{arguments[0]} of a file with '{rule}': {result}");
        return result;
    }

    [Theory]
    [InlineData(1L << 31, 65)]
    [InlineData((1L << 31) - 1, 65)]
    [InlineData(1L << 20, 65)]
    public void Claim_of_two_thousand_million_ops_in_a_file_of_holes_ends_at_the_first_op(long ops, int exitCode)
    {
        // A sparse file can satisfy any size claim. The program may map memory for the claim, but must not touch that memory.
        using TempFolder folder = new();
        byte[] head = new CowBuilder { ScratchBytes = 0 }.Zero(0).Build();
        BinaryPrimitives.WriteInt64LittleEndian(head.AsSpan(54), ops);
        BinaryPrimitives.WriteInt64LittleEndian(head.AsSpan(62), ops);
        using (FileStream file = File.Create(folder["cow"]))
        {
            file.Write(head);
            file.SetLength(head.Length + (ops * 16));
        }
        File.WriteAllBytes(folder["base"], new byte[65536]);
        foreach (string[] arguments in (string[][])[["verify", "--cow", folder["cow"]], ["inspect", folder["cow"]],
            ["merge", "--cow", folder["cow"], "--base", folder["base"], "--memory", "8M"]])
        {
            BinaryResult result = Binary.Run(arguments);
            Assert.True(result.ExitCode == exitCode, result.ToString());
            Assert.Contains(ops > int.MaxValue ? "more than the 2147483647" : "op 1 (block 0): type is 0", result.Error,
                StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Brotli_bomb_gets_no_more_memory_than_a_unit_needs()
    {
        // The stream claims 16 MiB at once; a streaming decoder would allocate a ring of that size and fill it before it reports that the
        // unit is full.
        const long most = 4 << 20, arena = 8 << 20;
        using TempFolder folder = new();
        foreach (HostilePayload payload in HostilePayloads.All)
        {
            if (payload.Algorithm != CowCompression.Brotli || !payload.Name.Contains("bomb", StringComparison.Ordinal)) continue;
            File.WriteAllBytes(folder["cow"], HostileFiles.WithPayload(3, payload).Bytes);
            BinaryResult result = Binary.RunProgram("strace",
                ["-f", "-e", "trace=mmap", "-o", folder["trace"], Binary.Path, "verify", "--cow", folder["cow"], "--memory", "8M"]);
            Assert.True(result.ExitCode == 65, result.ToString());
            int calls = 0;
            foreach (string line in File.ReadAllLines(folder["trace"]))
            {
                // A mapping without access is only reserved, by the collector; the arena's size is that of --memory.
                if (Mapped().Match(line) is not { Success: true } match) continue;
                calls++;
                long bytes = long.Parse(match.Groups[1].Value, CultureInfo.InvariantCulture);
                Assert.True(bytes is < most or arena, $"{payload.Name}: {line}");
            }
            Assert.True(calls > 0, "strace saw no mmap");
        }
    }

    [GeneratedRegex(@"mmap\(NULL, (\d+), PROT_READ\|PROT_WRITE, MAP_PRIVATE\|MAP_ANONYMOUS")]
    private static partial Regex Mapped();
}
