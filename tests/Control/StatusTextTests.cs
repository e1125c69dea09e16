using Snapuserd.Control;
using Xunit;

namespace Snapuserd.Tests.Control;

/// <summary>The status of a snapshot as text and as JSON.</summary>
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
}
