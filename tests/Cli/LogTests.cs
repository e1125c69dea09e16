using System;
using System.IO;
using System.Linq;
using System.Text;
using System.Text.Json;
using Microsoft.Win32.SafeHandles;
using Snapuserd.Block;
using Snapuserd.Cli;
using Snapuserd.Host;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Cli;

/// <summary>Log records on standard error.</summary>
public sealed class LogTests
{
    [Fact]
    public void Progress_in_the_kernels_log_is_one_record_per_tenth_and_at_most_one_per_second()
    {
        Assert.Equal(["merge  10% ", "merge  20% ", "merge  30% ", "merge  40% ", "merge  50% ", "merge  60% ", "merge  70% ",
            "merge  80% ", "merge  90% ", "merge 100% "], Steps(0.06));
        Assert.InRange(Steps(0.006).Length, 5, 6);
        Assert.Empty(Steps(0.0005));
    }

    [Fact]
    public void Json_records_have_all_fields_and_standard_error_shows_warnings_and_errors()
    {
        string json = Told(LogForm.Json, output =>
        {
            output.Write(Priority.Notice, "merged", "all is\nmerged", new LogValue("ops", 7), new LogValue("seconds", 0.25));
            output.WriteProgress("merge 10%", new LogValue("bytes", 1L << 40));
            output.WriteTrace("at a\nat b");
        });
        JsonElement[] records = json.TrimEnd('\n').Split('\n').Select(line => JsonDocument.Parse(line).RootElement).ToArray();
        Assert.Equal(["priority", "event", "message", "uptime", "ops", "seconds"],
            records[0].EnumerateObject().Select(member => member.Name));
        Assert.Equal((5, "merged", "all is\nmerged", 7, 0.25),
            (records[0].GetProperty("priority").GetInt32(), records[0].GetProperty("event").GetString(),
                records[0].GetProperty("message").GetString(),
                records[0].GetProperty("ops").GetInt32(), records[0].GetProperty("seconds").GetDouble()));
        Assert.Equal((6, "progress", 1L << 40), (records[1].GetProperty("priority").GetInt32(), records[1].GetProperty("event").GetString(),
            records[1].GetProperty("bytes").GetInt64()));
        Assert.Equal((3, "trace"), (records[2].GetProperty("priority").GetInt32(), records[2].GetProperty("event").GetString()));

        Assert.Equal("snapuserd: 3\nsnapuserd: 4\nprogress\n", Told(LogForm.StandardError, output =>
        {
            foreach (Priority priority in Enum.GetValues<Priority>()) output.Write(priority, "event", $"{(int)priority}");
            output.WriteProgress("progress");
        }));
    }

    [Fact]
    public void On_standard_error_a_name_keeps_its_bytes_and_cannot_forge_a_record()
    {
        byte[] told = ToldBytes(LogForm.StandardError,
            output => output.Write(Priority.Error, "event", "cannot open a\udcff\udc9b\nsnapuserd: forged\u001b[2J\u00e4"));
        Assert.Equal("snapuserd: cannot open a\u00ff\u009b\\x0asnapuserd: forged\\x1b[2J\u00c3\u00a4\n", Encoding.Latin1.GetString(told));
    }

    [Theory]
    [InlineData("merge --log kmsg --nonsense", LogForm.Kernel)]
    [InlineData("merge --nonsense --log=json", LogForm.Json)]
    [InlineData("merge --log", LogForm.StandardError)]
    [InlineData("merge --log syslog", LogForm.StandardError)]
    [InlineData("serve --log=kmsg", LogForm.Kernel)]
    [InlineData("inspect --log=kmsg", LogForm.StandardError)]
    internal void The_log_is_known_before_the_other_options_are_understood(string words, LogForm expected)
    {
        string[] split = words.Split(' ');
        Assert.Equal(expected, LogForms.Of(Array.Find(Verbs.All, verb => verb.Name == split[0])!, split.AsSpan(1)));
    }

    /// <summary>A thousand reports of a merge, <paramref name="seconds"/> apart.</summary>
    private string[] Steps(double seconds)
    {
        string said = Told(LogForm.StandardError, output =>
        {
            Progress progress = new(output, ProgressForm.Silent, "merge", 1000, 1000, () => 80) { TellsSteps = true };
            for (int i = 0; i <= 1000; i++) progress.Report(i, i, i * seconds);
        });
        return said.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => line[..11]).ToArray();
    }

    private static string Told(LogForm form, Action<Output> tell) => new UTF8Encoding(false, true).GetString(ToldBytes(form, tell));

    private static byte[] ToldBytes(LogForm form, Action<Output> tell)
    {
        using TempFolder folder = new();
        using (SafeFileHandle diagnostics = File.OpenHandle(folder["diagnostics"], FileMode.CreateNew, FileAccess.Write,
            FileShare.ReadWrite))
        {
            Output output = new(0, -1, (int)diagnostics.DangerousGetHandle());
            output.LogTo(form);
            tell(output);
        }
        return File.ReadAllBytes(folder["diagnostics"]);
    }
}
