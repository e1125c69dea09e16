using System;
using System.IO;
using System.Linq;
using System.Text.Json;
using Microsoft.Win32.SafeHandles;
using Snapuserd.Block;
using Snapuserd.Cli;
using Snapuserd.Host;
using Snapuserd.Tests.Support;
using Snapuserd.Text;
using Xunit;

namespace Snapuserd.Tests.Cli;

/// <summary>Progress lines and bars, written to files by a separate output.</summary>
public sealed class ProgressTests : IDisposable
{
    private readonly TempFolder _folder = new();
    private readonly SafeFileHandle _results;
    private readonly SafeFileHandle _diagnostics;
    private readonly Output _output;

    public ProgressTests()
    {
        _results = File.OpenHandle(_folder["results"], FileMode.CreateNew, FileAccess.Write, FileShare.ReadWrite);
        _diagnostics = File.OpenHandle(_folder["diagnostics"], FileMode.CreateNew, FileAccess.Write, FileShare.ReadWrite);
        _output = new Output(0, (int)_results.DangerousGetHandle(), (int)_diagnostics.DangerousGetHandle());
    }

    public void Dispose()
    {
        _results.Dispose();
        _diagnostics.Dispose();
        _folder.Dispose();
    }

    [Fact]
    public void Share_rate_and_remaining_time_are_those_of_the_bytes()
    {
        var progress = new Progress(_output, ProgressForm.Plain, "merge", 100L << 20, 1000, () => 80);
        progress.Report(0, 0, 0);
        progress.Report(50L << 20, 10, 5);
        Assert.Equal("merge  50% 50 MiB of 100 MiB, 0:05 left, 10 MiB/s, 10 of 1000 ops\n", Diagnostics());
    }

    [Fact]
    public void The_shown_share_never_decreases()
    {
        var progress = new Progress(_output, ProgressForm.Json, "merge", 100, 10, () => 80);
        progress.Report(0, 0, 0);
        progress.Report(60, 6, 2);
        progress.Report(40, 4, 4);
        progress.Report(70, 7, 6);
        Assert.Equal([60, 60, 70], Results().Select(line => line.GetProperty("bytes").GetInt32()));
        Assert.Equal([6, 6, 7], Results().Select(line => line.GetProperty("ops").GetInt32()));
    }

    [Fact]
    public void A_hundred_percent_is_shown_only_at_the_end()
    {
        var progress = new Progress(_output, ProgressForm.Plain, "merge", 1000, 1000, () => 80);
        progress.Report(0, 0, 0);
        progress.Report(999, 1000, 10);
        progress.Report(1000, 1000, 20);
        Assert.Contains(" 99% ", Diagnostics().Split('\n')[0]);
        Assert.Contains("100% ", Diagnostics().Split('\n')[1]);
    }

    [Fact]
    public void Lines_come_at_intervals_however_often_the_engine_reports()
    {
        var progress = new Progress(_output, ProgressForm.Plain, "merge", 1000, 1000, () => 80);
        for (int i = 0; i <= 1000; i++) progress.Report(i, i, i * 0.0125);
        // 12.5 seconds at one line every five seconds.
        Assert.Equal(2, Diagnostics().Count(c => c == '\n'));
    }

    [Fact]
    public void Lines_of_several_are_cut_to_the_width_and_drawn_in_place_of_the_last_ones()
    {
        // Two columns each, so 39 of them fit 79 columns.
        _output.Bars([new string('\u754c', 60), "b"]);
        _output.Bars(["c\n", "d"]);
        _output.Result("done");
        _output.Bars([.. Enumerable.Range(0, 30).Select(number => $"{number}")]);
        string[] drawings = Diagnostics().Split("\r\e[1A\e[J");
        Assert.Equal([new string('\u754c', 39) + "\r\nb", "c\\x0a\r\nd"], drawings[..2]);
        // A terminal that does not report its size counts as 24 rows.
        Assert.Equal([.. Enumerable.Range(0, 23).Select(number => $"{number}"), "and 7 more"], drawings[2].Split("\r\n"));
    }

    [Theory]
    [InlineData(ProgressForm.Plain)]
    [InlineData(ProgressForm.Json)]
    internal void Asked_for_by_name_there_is_a_line_at_once_and_one_at_the_end(ProgressForm form)
    {
        var progress = new Progress(_output, form, "merge", 1000, 10, () => 80, asked: true);
        for (int i = 0; i <= 1000; i++) progress.Report(i, i / 100, i * 0.0001);
        progress.Report(1000, 10, 60);
        string[] lines = (form == ProgressForm.Plain ? Diagnostics() : File.ReadAllText(_folder["results"])).TrimEnd('\n').Split('\n');
        Assert.Equal(2, lines.Length);
        Assert.Contains(form == ProgressForm.Plain ? "  0% " : "\"bytes\":0,", lines[0]);
        Assert.Contains(form == ProgressForm.Plain ? "100% " : "\"bytes\":1000,", lines[1]);
    }

    [Fact]
    public void With_plain_progress_a_run_with_nothing_to_do_prints_one_line()
    {
        var progress = new Progress(_output, ProgressForm.Plain, "merge", 1000, 10, () => 80, asked: true);
        progress.Report(1000, 10, 0);
        progress.Report(1000, 10, 9);
        Assert.StartsWith("merge 100% ", Assert.Single(Diagnostics().TrimEnd('\n').Split('\n')));
    }

    [Fact]
    public void The_silent_form_prints_nothing()
    {
        var progress = new Progress(_output, ProgressForm.Silent, "merge", 1000, 1000, () => 80);
        for (int i = 0; i <= 1000; i++) progress.Report(i, i, i);
        Assert.Equal("", Diagnostics());
        Assert.Empty(Results());
    }

    [Theory]
    [InlineData(1)]
    [InlineData(8)]
    [InlineData(20)]
    [InlineData(40)]
    [InlineData(80)]
    [InlineData(132)]
    [InlineData(4000)]
    public void A_bar_fits_its_terminal_and_grows_with_the_share(int columns)
    {
        var progress = new Progress(_output, ProgressForm.Bar, "merge", 1L << 40, int.MaxValue, () => columns);
        for (int i = 0; i <= 64; i++) progress.Report((long)i << 34, i, i);
        string[] bars = Diagnostics().Split('\r')[1..];
        Assert.Equal(65, bars.Length);
        Assert.All(bars, bar => Assert.EndsWith("\e[K", bar));
        Assert.All(bars, bar => Assert.True(bar.Length - 3 < columns, bar));
        int[] full = bars.Select(bar => bar.Count(c => c == '#')).ToArray();
        Assert.Equal(full.Order(), full);
        if (columns >= 80)
        {
            Assert.True(full[^1] > 0 && full[0] == 0);
            Assert.DoesNotContain('.', bars[^1][..bars[^1].IndexOf(']')]);
        }
    }

    [Fact]
    public void A_line_wipes_the_bar_away_first()
    {
        var progress = new Progress(_output, ProgressForm.Bar, "merge", 100, 10, () => 20);
        progress.Report(10, 1, 0);
        _output.Write(Priority.Warning, "a", "said");
        _output.Write(Priority.Error, "b", "again");
        Assert.EndsWith("\e[K\r\e[Ksnapuserd: said\nsnapuserd: again\n", Diagnostics());
    }

    [Theory]
    [InlineData("auto", false, true, ProgressForm.Bar)]
    [InlineData("auto", true, true, ProgressForm.Bar)]
    [InlineData("auto", false, false, ProgressForm.Plain)]
    [InlineData("auto", true, false, ProgressForm.Json)]
    [InlineData("plain", false, true, ProgressForm.Plain)]
    [InlineData("plain", true, true, ProgressForm.Json)]
    [InlineData("never", false, true, ProgressForm.Silent)]
    [InlineData("never", true, false, ProgressForm.Silent)]
    internal void The_form_follows_option_and_terminal(string choice, bool json, bool terminal, ProgressForm expected) =>
        Assert.Equal(expected, Progress.FormOf(choice, json, terminal));

    [Fact]
    public void A_run_with_nothing_to_do_is_at_a_hundred_percent()
    {
        var progress = new Progress(_output, ProgressForm.Plain, "merge", 0, 0, () => 80);
        progress.Report(0, 0, 0);
        progress.Report(0, 0, 9);
        Assert.StartsWith("merge 100% 0 B of 0 B", Diagnostics());
    }

    private string Diagnostics() => File.ReadAllText(_folder["diagnostics"]);

    private JsonElement[] Results() => File.ReadAllLines(_folder["results"]).Select(line => JsonDocument.Parse(line).RootElement).ToArray();

    [Fact]
    public void A_long_name_is_cut_so_that_the_percentage_stays_visible()
    {
        Assert.Equal("a long name of a file   7%", Progress.Line("a long name of a file system of many words", 7, 100, 0, 0, 0, 26));
        // Two columns each.
        Assert.Equal("\u5b57\u5b57\u5b57  50%", Progress.Line("\u5b57\u5b57\u5b57\u5b57", 1, 2, 0, 0, 0, 12));
        for (int columns = 0; columns < 120; columns++)
            Assert.InRange(TextWidth.Of(Progress.Line("\u5b57 na\u0308me", 123456, 10_000_000, 5, 70, 1_000_000, columns)), 0, columns);
    }
}
