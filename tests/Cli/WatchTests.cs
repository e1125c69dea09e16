using Snapuserd.Block;
using Snapuserd.Cli;
using Snapuserd.Control;
using Snapuserd.Text;
using Xunit;

namespace Snapuserd.Tests.Cli;

/// <summary>The status of a snapshot as `ctl watch` parses it.</summary>
public sealed class WatchTests
{
    private static readonly SnapshotStatus s_merging = new()
    {
        Name = "a \"b\" \\ \u00e4\n",
        Cow = "/c",
        Base = "/b",
        Device = "/dev/ublkb0",
        State = SnapshotState.Merging,
        OpsDone = 1,
        OpsTotal = 4,
        BytesDone = 10 << 20,
        BytesTotal = 40 << 20,
        Rate = 2 << 20,
    };

    [Theory]
    [InlineData(null)]
    [InlineData(34.9)]
    public void The_status_that_watch_shows_can_be_parsed_from_json(double? check)
    {
        foreach (SnapshotState state in System.Enum.GetValues<SnapshotState>())
        {
            SnapshotStatus status = s_merging with
            {
                Name = "caf\u00e9 \"x\"\t",
                State = state,
                Paused = check == null,
                CheckPercent = check,
                Error = "e",
                EndedWith = ExitCode.CowCorrupt,
            };
            JsonFields? fields = JsonFields.Parse(StatusText.Json(status));
            Assert.NotNull(fields);
            SnapshotStatus parsed = StatusText.Parse(fields);
            Assert.Equal(StatusText.Short(status), StatusText.Short(parsed));
            Assert.Equal(Watch.Bar(status, 79), Watch.Bar(parsed, 79));
            Assert.Equal((status.EndedWith, status.Error), (parsed.EndedWith, parsed.Error));
        }
    }
}
