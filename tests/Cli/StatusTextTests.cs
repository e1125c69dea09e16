using Snapuserd.Block;
using Snapuserd.Cli;
using Snapuserd.Control;
using Snapuserd.Text;
using Xunit;

namespace Snapuserd.Tests.Cli;

/// <summary>The status of a snapshot as text, as JSON, and as `ctl watch` parses it.</summary>
public sealed class StatusTextTests
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

    [Fact]
    public void A_merge_has_its_share_its_remaining_time_and_its_rate()
    {
        Assert.Contains(": merging, 25 %, 10 MiB of 40 MiB, 0:15 left, 2 MiB/s, 1 of 4 ops; /dev/ublkb0", StatusText.Short(s_merging));
        Assert.Contains(": merging, check 34 %; /dev/ublkb0", StatusText.Short(s_merging with { CheckPercent = 34.9, Rate = 0 }));
    }

    [Fact]
    public void A_failed_hand_over_is_in_the_status()
    {
        SnapshotStatus status = s_merging with { State = SnapshotState.Merged, HandOverFailed = true, Error = "why" };
        Assert.Contains("; handover: failed, retried at next start; why", StatusText.Long(status));
        Assert.Contains("\"handover\":\"failed, retried at next start\"", StatusText.Json(status));
        Assert.Contains("\"handover\":null", StatusText.Json(s_merging));
    }

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

    [Theory]
    [InlineData("")]
    [InlineData("{")]
    [InlineData("{\"a\"}")]
    [InlineData("{\"a\":}")]
    [InlineData("{\"a\":1,}")]
    [InlineData("{\"a\":\"")]
    [InlineData("{\"a\":\"\\u00")]
    [InlineData("{\"a\":1}x")]
    [InlineData("cow: merging")]
    [InlineData("{\"a\":{\"b\":1}")]
    [InlineData("{\"a\":[1,2}")]
    [InlineData("{\"a\":1,\"a\":2}")]
    [InlineData("{\"a\":1} {")]
    public void A_line_that_is_not_a_json_object_is_refused(string line) => Assert.Null(JsonFields.Parse(line));

    [Fact]
    public void Members_are_found_in_any_order_with_any_blanks_and_not_in_nested_objects()
    {
        JsonFields? fields = JsonFields.Parse(" {\t\"b\" : \"x,}\\\"y\" ,\r\n \"in\" : { \"a\" : \"}\", \"c\":[{\"d\":1}] }, "
            + "\"list\":[1,\"]\"], \"a\":-12.5 , \"n\":null,\"w\":\"null\" } \n");
        Assert.NotNull(fields);
        Assert.Equal(("x,}\"y", "null", null, null, null),
            (fields.String("b"), fields.String("w"), fields.String("n"), fields.String("a"), fields.String("d")));
        Assert.Equal(("{ \"a\" : \"}\", \"c\":[{\"d\":1}] }", "[1,\"]\"]", "", "null", ""),
            (fields.Text("in"), fields.Text("list"), fields.Text("n"), fields.Text("w"), fields.Text("c")));
        Assert.Equal((-12, 0), (fields.Integer("a"), fields.Integer("none")));
    }
}
