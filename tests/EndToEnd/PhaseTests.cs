using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Text.Json;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.EndToEnd;

/// <summary>Progress output of each phase, and the rate limit of a merge.</summary>
public sealed class PhaseTests : IDisposable
{
    private const string Vector = "v3-gz-4k-xor";
    private readonly TempFolder _folder = new();

    public PhaseTests()
    {
        File.WriteAllBytes(_folder["cow"], Golden.Cow(Vector));
        File.WriteAllBytes(_folder["base"], Golden.Old);
        File.WriteAllBytes(_folder["new"], Golden.New);
    }

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Merge_shows_separate_progress_for_check_and_merge() => Assert.Equal(["check", "merge"], Phases("merge"));

    [Fact]
    public void Resumed_merge_checks_no_payloads()
    {
        Assert.Equal(75, Interrupted());
        Assert.Equal(["merge"], Phases("merge"));
    }

    [Fact]
    public void Verify_shows_both_of_its_phases() => Assert.Equal(["check", "hash"], Phases("verify"));

    [Fact]
    public void Create_shows_all_of_its_phases()
    {
        string[] phases = PhasesOf(Binary.Run("create", "--source", _folder["base"], "--target", _folder["new"], "--output",
            _folder["made"], "--xor", "--json", "--progress", "plain"));
        Assert.Equal("compare", phases[0]);
        Assert.Equal(["order", "write", "check"], phases[^3..]);
    }

    [Fact]
    public void A_rate_slows_a_merge_that_still_obeys_signals()
    {
        Assert.Equal(75, Interrupted());
        BinaryResult result = Binary.Run("merge", "--cow", _folder["cow"], "--base", _folder["base"], "--rate", "1M", "--json",
            "--progress", "never");
        Assert.True(result.ExitCode == 0, result.ToString());
        JsonElement done = JsonDocument.Parse(result.Output).RootElement;
        // The merge may write one batch at its start and one at its end without delay; the limit applies to the rest.
        double least = (done.GetProperty("bytes_written").GetInt64() - (2 * (3L << 20))) / (1 << 20);
        Assert.True(done.GetProperty("seconds").GetDouble() >= least, result.Output);
        Assert.Equal(Golden.New, File.ReadAllBytes(_folder["base"]));
    }

    /// <summary>Exit code of a merge that writes one batch, would wait for days before the next, and receives a signal.</summary>
    private int Interrupted()
    {
        using Process merge = Binary.Start("merge", "--cow", _folder["cow"], "--base", _folder["base"], "--rate", "1", "--json",
            "--progress", "plain");
        try
        {
            while (Unlocked.Read(_folder["base"], Golden.Old.Length).AsSpan().SequenceEqual(Golden.Old))
                Assert.False(merge.HasExited, "it ended");
            _ = Libc.Kill(merge.Id, Libc.SIGTERM);
            Assert.True(merge.WaitForExit(60_000), "the merge does not react to the signal");
            return merge.ExitCode;
        }
        finally
        {
            if (!merge.HasExited) merge.Kill();
        }
    }

    private string[] Phases(string verb) =>
        PhasesOf(Binary.Run(verb, "--cow", _folder["cow"], "--base", _folder["base"], "--json", "--progress", "plain"));

    /// <summary>
    /// The announced phases. Checks that each is announced once, starts immediately, never decreases, and is shown to its end.
    /// </summary>
    private static string[] PhasesOf(BinaryResult result)
    {
        Assert.True(result.ExitCode == 0, result.ToString());
        List<string> phases = [];
        long bytes = -1, total = -1;
        foreach (JsonElement line in result.Output.TrimEnd().Split('\n').Select(text => JsonDocument.Parse(text).RootElement))
        {
            string? kind = line.GetProperty("event").GetString();
            if (kind is not ("phase" or "progress")) continue;
            string phase = line.GetProperty("phase").GetString()!;
            if (kind == "phase")
            {
                Assert.Equal(total, bytes);
                Assert.DoesNotContain(phase, phases);
                phases.Add(phase);
                (bytes, total) = (-1, line.GetProperty("total_bytes").GetInt64());
                continue;
            }
            // A run with a single phase announces none.
            if (phases.Count == 0)
            {
                phases.Add(phase);
                total = line.GetProperty("total_bytes").GetInt64();
            }
            Assert.Equal(phases[^1], phase);
            Assert.True(line.GetProperty("bytes").GetInt64() >= bytes, result.Output);
            bytes = line.GetProperty("bytes").GetInt64();
            Assert.Equal(total, line.GetProperty("total_bytes").GetInt64());
        }
        Assert.Equal(total, bytes);
        return [.. phases];
    }
}
