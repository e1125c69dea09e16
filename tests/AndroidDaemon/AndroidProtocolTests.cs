using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Threading;
using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.AndroidDaemon;

/// <summary>Every request of Android's client and its answer, byte by byte (daemon §3).</summary>
public sealed class AndroidProtocolTests
{
    /// <summary>Requests that do not depend on a snapshot: the message, the answer, and whether the connection stays open.</summary>
    public static IEnumerable<object[]> Plain =>
    [
        ["query", "active", true],
        ["query,", "active", true],
        ["query,more,words", "active", true],
        ["merge_percent", "0.000000", true],
        ["merge_percent,x", "0.000000", true],
        ["pause_merge", "success", true],
        ["resume_merge", "success", true],
        ["update-verify", "success", true],
        ["supports,second_stage_socket_handoff", "success", true],
        ["supports,second_stage_socket_handoff,", "success", true],
        ["supports,anything_else", "fail", true],
        ["supports", "fail", true],
        ["supports,a,b", "fail", true],
        ["getstatus,unknown", "snapshot-merge-failed", true],
        ["getstatus", "snapshot-merge-failed", true],
        ["getstatus,a,b", "snapshot-merge-failed", true],
        ["init", "fail", true],
        ["init,a,b,c", "fail", true],
        ["init,a,/nowhere/cow,/nowhere/source,/nowhere/base", "fail", true],
        ["init,a,b,c,d,e", "fail", true],
        ["init,,b,c,d", "fail", true],
        ["start,unknown", "fail", true],
        ["start", "fail", true],
        ["start,", "fail", true],
        ["start,a,b", "fail", true],
        ["initiate_merge,unknown", "fail", true],
        ["initiate_merge", "fail", true],
        ["initiate_merge,a,b", "fail", true],
        ["delete,unknown", "success", true],
        ["delete", "fail", true],
        ["delete,a,b", "fail", true],
        [",", "fail", false],
        ["Query", "fail", false],
        ["query\n", "fail", false],
        ["query\0", "fail", false],
        [" query", "fail", false],
        ["init\0,a,b,c,d", "fail", false],
        ["update_verify", "fail", false],
        ["\u00fc", "fail", false],
    ];

    [Theory]
    [MemberData(nameof(Plain))]
    public void Requests_without_a_snapshot_get_the_documented_answers(string message, string answer, bool stays)
    {
        using SetFixture fixture = new();
        using Talker client = fixture.Client();
        Assert.Equal(answer, client.Ask(message));
        if (stays) Assert.Equal("active", client.Ask("query"));
        else Assert.Equal("", client.Receive());
    }

    [Fact]
    public void A_client_gets_the_right_answers_throughout_the_life_of_a_snapshot()
    {
        using SetFixture fixture = new();
        using Talker client = fixture.Client();
        string sectors = (Golden.Old.Length / 512).ToString(CultureInfo.InvariantCulture);
        string init = fixture.Files("system_b");
        Assert.Equal("success," + sectors, client.Ask(init));
        Assert.Equal("fail", client.Ask(init));
        Assert.Equal("snapshot", client.Ask("getstatus,system_b"));
        Assert.Equal("fail", client.Ask("initiate_merge,system_b"));
        Assert.Equal("0.000000", client.Ask("merge_percent"));
        Assert.Equal("success", client.Ask("start,system_b"));
        Assert.Equal("fail", client.Ask("start,system_b"));
        Assert.Equal(Golden.New, fixture.Servers["system_b"].Read(0, Golden.New.Length));
        Assert.Equal("snapshot", client.Ask("getstatus,system_b"));
        Assert.Equal("0.000000", client.Ask("merge_percent"));
        Assert.Equal("success", client.Ask("pause_merge"));
        Assert.Equal("success", client.Ask("initiate_merge,system_b"));
        Assert.Equal("success", client.Ask("initiate_merge,system_b"));
        Assert.Equal("snapshot-merge", client.Ask("getstatus,system_b"));
        Assert.Equal("success", client.Ask("resume_merge"));
        SetFixture.Until(() => client.Ask("getstatus,system_b") == "snapshot-merge-complete", "the merge");
        Assert.Equal("100.000000", client.Ask("merge_percent"));
        Assert.Equal(Golden.New, fixture.Base("system_b"));
        Assert.Equal(Golden.New, fixture.Servers["system_b"].Read(0, Golden.New.Length));
        // When the client removes the device, the snapshot ends. Its name is then unknown, but merge_percent still counts it as merged.
        fixture.Servers["system_b"].Remove();
        SetFixture.Until(() => client.Ask("getstatus,system_b") == "snapshot-merge-failed", "its end");
        Assert.Equal("success", client.Ask("delete,system_b"));
        Assert.Equal("100.000000", client.Ask("merge_percent"));
        Assert.Equal("success," + sectors, client.Ask(init));
        Assert.Equal("snapshot-merge-complete", client.Ask("getstatus,system_b"));
        Assert.Equal("success", client.Ask("delete,system_b"));
    }

    [Fact]
    public void A_snapshot_that_cannot_be_opened_or_served_fails_and_leaves_its_name_free()
    {
        using SetFixture fixture = new();
        using Talker client = fixture.Client();
        byte[] garbage = new byte[8192];
        Assert.Equal("fail", client.Ask(fixture.Files("a", cow: garbage)));
        Assert.Equal("fail", client.Ask(fixture.Files("a", old: [])));
        fixture.Refused["a"] = true;
        Assert.StartsWith("success,", client.Ask(fixture.Files("a")), StringComparison.Ordinal);
        Assert.Equal("fail", client.Ask("start,a"));
        fixture.Refused.Clear();
        Assert.StartsWith("success,", client.Ask(fixture.Files("a")), StringComparison.Ordinal);
        Assert.Equal("success", client.Ask("start,a"));
        Assert.Equal(3, fixture.Reports.Count);
        fixture.Servers["a"].Remove();
    }

    [Fact]
    public void A_delete_waits_until_the_device_is_removed_and_does_not_block_other_clients()
    {
        using SetFixture fixture = new();
        using Talker client = fixture.Client(), other = fixture.Client();
        fixture.Serve(client, "a");
        client.Send("delete,a");
        // Another client sends the same request. Both get the answer when the device is removed.
        using Talker third = fixture.Client();
        third.Send("delete,a");
        fixture.Serve(other, "b");
        Assert.Equal("fail", other.Ask("start,a"));
        Assert.Equal("fail", other.Ask("initiate_merge,a"));
        Assert.Equal("fail", other.Ask(fixture.Init("a")));
        Assert.Equal(Golden.New, fixture.Servers["a"].Read(0, Golden.New.Length));
        fixture.Servers["a"].Remove();
        Assert.Equal(("success", "success"), (client.Receive(), third.Receive()));
        Assert.StartsWith("success,", other.Ask(fixture.Init("a")), StringComparison.Ordinal);
        Assert.Equal("success", other.Ask("delete,a"));
        fixture.Servers["b"].Remove();
    }

    [Fact]
    public void After_detach_no_snapshot_is_added_and_existing_ones_are_served_until_their_devices_are_gone()
    {
        using SetFixture fixture = new();
        using Talker client = fixture.Client();
        fixture.Serve(client, "served");
        fixture.Serve(client, "merging");
        Assert.Equal("success", client.Ask("pause_merge"));
        Assert.Equal("success", client.Ask("initiate_merge,merging"));
        Assert.StartsWith("success,", client.Ask(fixture.Files("idle")), StringComparison.Ordinal);
        string late = fixture.Files("late");
        client.Send("detach");
        SetFixture.Until(() => fixture.Set.IsTerminating, "detach");
        Assert.Equal("passive", client.Ask("query"));
        Assert.Equal("fail", client.Ask(late));
        SetFixture.Until(() => client.Ask("getstatus,idle") == "snapshot-merge-failed", "the end of a snapshot that was not started");
        Assert.Equal("fail", client.Ask("initiate_merge,served"));
        // Detach cancels the paused merge, which had not begun. Its state is still snapshot-merge, because the next boot does the merge.
        SetFixture.Until(() => fixture.Status("merging").State == SnapshotState.Serving, "the cancellation of the merge");
        Assert.Equal("snapshot-merge", client.Ask("getstatus,merging"));
        Assert.Equal(Golden.New, fixture.Servers["served"].Read(0, Golden.New.Length));
        Assert.Equal(Golden.New, fixture.Servers["merging"].Read(0, Golden.New.Length));
        Assert.False(fixture.Set.IsEmpty);
        fixture.Servers["served"].Remove();
        fixture.Servers["merging"].Remove();
        SetFixture.Until(() => fixture.Set.IsEmpty, "the end");
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Stop_ends_all_snapshots_and_has_no_answer(bool foreign)
    {
        using SetFixture fixture = new(foreign);
        using Talker client = fixture.Client();
        fixture.Serve(client, "a");
        fixture.Serve(client, "b");
        client.Send("stop");
        SetFixture.Until(() => fixture.Set.IsTerminating, "stop");
        if (foreign)
        {
            Assert.Equal("passive", client.Ask("query"));
            Assert.Equal(Golden.New, fixture.Servers["a"].Read(0, Golden.New.Length));
            fixture.Servers["a"].Remove();
            fixture.Servers["b"].Remove();
        }
        SetFixture.Until(() => fixture.Set.IsEmpty, "the end");
        Assert.Null(fixture.Servers["a"].Read(0, 1));
    }

    [Fact]
    public void Verification_returns_the_result_of_the_verifier_and_delays_no_client()
    {
        using ManualResetEventSlim go = new();
        using SetFixture fixture = new(verify: (name, stop) =>
        {
            while (name == "slow" && !go.Wait(1) && !stop.Requested) { }
            return name != "bad";
        });
        using Talker client = fixture.Client(), other = fixture.Client();
        Assert.Equal("success", client.Ask("update-verify"));
        fixture.Serve(client, "good");
        Assert.Equal("success", client.Ask("update-verify"));
        fixture.Serve(client, "slow");
        client.Send("update-verify");
        for (int i = 0; i < 10; i++) Assert.Equal("active", other.Ask("query"));
        go.Set();
        Assert.Equal("success", client.Receive());
        Assert.StartsWith("success,", client.Ask(fixture.Files("idle")), StringComparison.Ordinal);
        Assert.Equal("fail", client.Ask("update-verify"));
        Assert.Equal("success", client.Ask("delete,idle"));
        fixture.Serve(client, "bad");
        Assert.Equal("fail", client.Ask("update-verify"));
        foreach (string name in (string[])["good", "slow", "bad"]) fixture.Servers[name].Remove();
    }

    [Fact]
    public void A_running_verification_ends_with_its_snapshot()
    {
        using SetFixture fixture = new(foreign: false, verify: (_, stop) =>
        {
            SetFixture.Until(() => stop.Requested, "the stop of the verification");
            return false;
        });
        using Talker client = fixture.Client();
        fixture.Serve(client, "a");
        Assert.Equal("success", client.Ask("delete,a"));
    }

    [Fact]
    public void Without_a_verifier_update_verify_fails_if_a_snapshot_is_served()
    {
        using SetFixture fixture = new();
        using Talker client = fixture.Client();
        fixture.Serve(client, "a");
        Assert.Equal("fail", client.Ask("update-verify"));
        fixture.Servers["a"].Remove();
    }

    [Fact]
    public void A_client_that_dies_between_a_request_and_its_answer_changes_nothing_for_others()
    {
        using SetFixture fixture = new();
        using Talker other = fixture.Client();
        string init = fixture.Files("a");
        foreach (string request in (string[])["query", init, "start,a", "pause_merge", "initiate_merge,a", "merge_percent", "getstatus,a",
            "update-verify", "resume_merge", "supports,x", "delete,a"])
        {
            using (Talker client = fixture.Client()) client.Send(request);
            // The server executes a request even if the client does not wait for the answer.
            if (request == init) SetFixture.Until(() => fixture.Set.Snapshots is [{ Status.State: SnapshotState.Serving }], "init");
            if (request == "start,a") SetFixture.Until(() => fixture.Status("a").Device.Length > 0, "start");
            if (request == "resume_merge") fixture.Until("a", SnapshotState.Merged);
            Assert.Equal("active", other.Ask("query"));
        }
        fixture.Servers["a"].Remove();
        SetFixture.Until(() => fixture.Set.IsEmpty, "the end");
        Assert.Equal(Golden.New, fixture.Base("a"));
    }

    [Fact]
    public void A_truncated_message_is_not_executed()
    {
        using SetFixture fixture = new();
        using Talker client = fixture.Client();
        // With slashes before the last path the first 512 bytes, the maximum, would be a valid request.
        string request = fixture.Files("a");
        string padded = request.Insert(request.LastIndexOf(',') + 1, new string('/', 512 - request.Length)) + "more";
        Assert.Equal("fail", client.Ask(padded));
        Assert.Equal("", client.Receive());
        Assert.Empty(fixture.Set.Snapshots);
    }
}
