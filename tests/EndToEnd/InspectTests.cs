using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text.Json;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>`inspect` on files from Android's own writer.</summary>
public sealed class InspectTests : IDisposable
{
    private readonly TempFolder _folder = new();

    public static IEnumerable<object[]> CowNames => Golden.CowNames;
    public static IEnumerable<object[]> HalfNames => Golden.HalfNames;

    public void Dispose() => _folder.Dispose();

    [Theory]
    [MemberData(nameof(CowNames))]
    public void Inspect_counts_the_ops_that_the_writer_wrote(string name)
    {
        File.WriteAllBytes(_folder["cow"], Golden.Cow(name));
        GoldenCow row = Golden.Row(name);
        BinaryResult result = Binary.Run("inspect", _folder["cow"], "--json", "--ops", "--order", "merge");
        Assert.True(result.ExitCode == 0, result.ToString());
        JsonElement[] lines = result.Output.TrimEnd('\n').Split('\n').Select(line => JsonDocument.Parse(line).RootElement).ToArray();

        JsonElement summary = lines[0];
        Assert.Equal("inspect", Text(summary, "event"));
        Assert.Equal($"{row.Version}.0", Text(summary, "version"));
        Assert.Equal(row.Compression.Split(',')[0], Text(summary, "compression"));
        Assert.Equal(row.Copy, Number(summary, "copy_ops"));
        Assert.Equal(row.Xor, Number(summary, "xor_ops"));
        Assert.Equal(row.Zero, Number(summary, "zero_ops"));
        Assert.Equal(row.ReplaceBlocks, Number(summary, "replace_blocks"));
        Assert.Equal(row.MergeOps, Number(summary, "total_merge_ops"));
        Assert.Equal(row.Scratch, Number(summary, "scratch_bytes") > 0);
        Assert.Equal(row.Scratch ? 0 : -1, Number(summary, "scratch_state"));
        // An empty list does not count as a list.
        Assert.Equal(row.Sequence && row.OrderedOps > 0, Number(summary, "sequence_blocks") > 0);
        Assert.True(summary.GetProperty("consistent").GetBoolean());

        JsonElement[] ops = lines.Where(line => Text(line, "event") == "op").ToArray();
        Assert.Equal(row.MergeOps, ops.Length);
        Assert.Equal(Enumerable.Range(0, ops.Length), ops.Select(op => (int)Number(op, "position")));
        Assert.Equal(row.OrderedOps, ops.Count(op => Text(op, "type") is "copy" or "xor"));
        // The sequence list is the beginning of the merge order.
        int[] sequence = lines.Single(line => Text(line, "event") == "sequence").GetProperty("blocks").EnumerateArray()
            .Select(block => block.GetInt32()).ToArray();
        Assert.Equal(sequence, ops.Take(sequence.Length).Select(op => (int)Number(op, "block")));
    }

    [Theory]
    [MemberData(nameof(HalfNames))]
    public void Inspect_shows_the_progress_of_a_killed_merge(string name)
    {
        File.WriteAllBytes(_folder["cow"], Golden.HalfCow(name));
        GoldenHalf half = Golden.Half(name);
        BinaryResult result = Binary.Run("inspect", _folder["cow"]);
        Assert.True(result.ExitCode == 0, result.ToString());
        string[] lines = result.Output.Split('\n');
        Assert.Single(lines, line => line.StartsWith($"Merge ops:      {half.NumMergeOps} of "));
        Assert.Single(lines, line => line.StartsWith($"Scratch:        2097152 bytes, state {half.ScratchState}, "));
        Assert.Single(lines, line => line == "Merge order:    consistent");
        Assert.Single(lines, line => line == "Android can merge this.");
    }

    [Fact]
    public void Order_that_destroys_its_own_sources_is_shown_and_is_65()
    {
        CowBuilder builder = new() { Version = 3, ScratchBytes = 0 };
        File.WriteAllBytes(_folder["cow"], builder.Copy(1, 0).Copy(2, 1).Build());
        BinaryResult result = Binary.Run("inspect", _folder["cow"]);
        Assert.Equal(65, result.ExitCode);
        Assert.Contains("Merge order:    inconsistent: ", result.Output);
        Assert.Contains("Android cannot merge this because op 1 (Copy of block 2) reads block 1", result.Output);
        Assert.Single(result.Error.TrimEnd('\n').Split('\n'));
    }

    [Fact]
    public void Ops_are_listed_with_the_sources_of_their_bytes()
    {
        CowBuilder builder = new() { Version = 3, ScratchBytes = 0 };
        builder.Copy(10, 20).Xor(50, 98314, new byte[4096]).Zero(7).Replace(16, new byte[8192]);
        File.WriteAllBytes(_folder["cow"], builder.Build());
        string[] lines = Binary.Run("inspect", _folder["cow"], "--ops").Output.TrimEnd('\n').Split('\n');
        Assert.Equal("       0  Copy            10 from block 20", lines[^4]);
        Assert.Matches("^       1  Xor             50 from byte 98314, 4096 bytes at [0-9]+, none$", lines[^3]);
        Assert.Equal("       2  Zero             7", lines[^2]);
        Assert.Matches("^       3  Replace         16 to 17, 8192 bytes at [0-9]+, none$", lines[^1]);
    }

    [Fact]
    public void Reverse_merge_is_the_merge_order_from_its_end()
    {
        File.WriteAllBytes(_folder["cow"], Golden.Cow("v2-gz-xor"));
        string[] merge = Ops("merge"), reverse = Ops("reverse-merge");
        Assert.Equal(Golden.Row("v2-gz-xor").MergeOps, merge.Length);
        Assert.Equal(Enumerable.Reverse(merge), reverse);
    }

    private string[] Ops(string order)
    {
        BinaryResult result = Binary.Run("inspect", "--cow", _folder["cow"], "--ops", "--order", order, "--json");
        Assert.True(result.ExitCode == 0, result.ToString());
        return result.Output.Split('\n').Where(line => line.StartsWith("{\"event\":\"op\"", StringComparison.Ordinal)).ToArray();
    }

    [Theory]
    [InlineData(1, 0)]
    [InlineData(2, 0)]
    [InlineData(2, 4)]
    public void Raw_lists_every_record_with_its_position(int version, int clusterOps)
    {
        CowBuilder builder = new() { Version = version, ClusterOps = clusterOps, ScratchBytes = 0 };
        builder.Copy(10, 20).Label(7).Xor(50, 98314, new byte[4096]).Zero(7).Replace(16, new byte[4096]);
        File.WriteAllBytes(_folder["cow"], builder.Build());
        BinaryResult result = Binary.Run("inspect", _folder["cow"], "--raw", "--json");
        Assert.True(result.ExitCode == 0, result.ToString());
        JsonElement[] records = result.Output.TrimEnd('\n').Split('\n').Select(line => JsonDocument.Parse(line).RootElement)
            .Where(line => Text(line, "event") == "record").ToArray();
        Assert.Equal(builder.OpOffsets, records.Select(record => Number(record, "offset")));
        string[] types = clusterOps == 0
            ? ["copy", "label", "xor", "zero", "replace", "footer"]
            : ["copy", "label", "xor", "cluster", "zero", "replace", "cluster", "footer"];
        Assert.Equal(types, records.Select(record => Text(record, "type")));
        // The file does not store the position of an Xor's data; the builder knows it.
        int xor = Array.IndexOf(types, "xor");
        Assert.Equal(builder.DataOffsets[xor], Number(records[xor], "data_offset"));
        Assert.Contains($" Xor       compression 0, length 4096, block 50, source 98314, data at {builder.DataOffsets[xor]}",
            Binary.Run("inspect", _folder["cow"], "--raw").Output);
    }

    [Fact]
    public void Raw_of_format_3_is_64_because_it_has_no_records()
    {
        File.WriteAllBytes(_folder["cow"], Golden.Cow("v3-zstd-4k-xor"));
        BinaryResult result = Binary.Run("inspect", _folder["cow"], "--raw");
        Assert.Equal((64, ""), (result.ExitCode, result.Output));
        Assert.DoesNotContain("Footer:", Binary.Run("inspect", _folder["cow"]).Output);
    }

    [Theory]
    [InlineData(0, true)]
    [InlineData(2, false)]
    public void Ops_that_can_no_longer_be_protected_are_reported(int count, bool needed)
    {
        CowBuilder builder = new() { Version = 3, ScratchBytes = 0, NumMergeOps = (ulong)count };
        File.WriteAllBytes(_folder["cow"], builder.Copy(1, 0).Xor(3, 3 * 4096, new byte[4096]).Zero(5).Build());
        BinaryResult text = Binary.Run("inspect", _folder["cow"]), json = Binary.Run("inspect", _folder["cow"], "--json");
        Assert.Equal((0, 0), (text.ExitCode, json.ExitCode));
        Assert.Equal(needed,
            text.Output.Contains("This cannot be merged without --allow-unsafe: 1 op would overwrite what it reads itself"));
        JsonElement line = JsonDocument.Parse(json.Output).RootElement;
        Assert.Equal(needed, line.GetProperty("needs_allow_unsafe").GetBoolean());
        Assert.Equal(needed ? 1 : 0, Number(line, "left_unprotected"));
        Assert.Equal(0, Number(line, "left_journaled"));
    }

    [Fact]
    public void The_scratch_of_a_finished_merge_is_called_finished()
    {
        File.WriteAllBytes(_folder["cow"], Golden.Cow("v2-gz-xor"));
        File.WriteAllBytes(_folder["base"], Golden.Old);
        Assert.Equal(0, Binary.Run("merge", "--cow", _folder["cow"], "--base", _folder["base"]).ExitCode);
        string[] lines = Binary.Run("inspect", _folder["cow"]).Output.Split('\n');
        Assert.Single(lines,
            line => line.StartsWith("Scratch:        2097152 bytes, state 1, the merge is finished", StringComparison.Ordinal));
        Assert.Single(lines, line => line == "Left to merge:  0 ops, 0 of them through scratch in 0 windows; 0 checkpoints at least");
    }

    [Fact]
    public void File_that_is_not_a_cow_is_65_with_one_message()
    {
        File.WriteAllText(_folder["text"], new string('x', 5000));
        File.WriteAllBytes(_folder["empty"], []);
        File.WriteAllBytes(_folder["cut"], Golden.Cow("v2-gz-xor")[..^100]);
        foreach (string name in new[] { "text", "empty", "cut" })
        {
            BinaryResult result = Binary.Run("inspect", _folder[name]);
            Assert.Equal((65, ""), (result.ExitCode, result.Output));
            Assert.Single(result.Error.TrimEnd('\n').Split('\n'));
            Assert.Contains(_folder[name], result.Error);
        }
    }

    [Fact]
    public void With_json_an_error_is_a_json_line_too()
    {
        BinaryResult result = Binary.Run("inspect", "--json", _folder["no\nsuch"]);
        Assert.Equal(66, result.ExitCode);
        JsonElement error = JsonDocument.Parse(Assert.Single(result.Output.TrimEnd('\n').Split('\n'))).RootElement;
        Assert.Equal("error", Text(error, "event"));
        Assert.Equal(66, Number(error, "exit_code"));
        Assert.Contains("no\nsuch", Text(error, "message"));
        Assert.Single(result.Error.TrimEnd('\n').Split('\n'));
    }

    private static string? Text(JsonElement line, string key) => line.GetProperty(key).GetString();

    private static long Number(JsonElement line, string key) => line.GetProperty(key).GetInt64();
}
