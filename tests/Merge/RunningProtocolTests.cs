using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Merge;
using Xunit;

namespace Snapuserd.Tests.Merge;

/// <summary>The name of the running protocol, and its steps.</summary>
public sealed class RunningProtocolTests
{
    private sealed class Wait : IPending
    {
        public bool IsDone { get; set; }
    }

    private readonly RunningProtocol _running = new();
    private readonly Wait[] _waits = [new(), new(), new()];

    private IEnumerable<IPending> Steps()
    {
        yield return _waits[0];
        _running.SwitchTo(MergeProtocol.AwaitReaders);
        yield return _waits[1];
        _running.SwitchTo(MergeProtocol.WriteWindow);
        yield return _waits[2];
    }

    [Fact]
    public void Protocol_has_its_name_from_its_first_step_to_its_last()
    {
        Assert.False(_running.IsRunning);
        Assert.False(_running.Continue());
        _running.Begin(MergeProtocol.Journal, Steps());
        Assert.Equal(MergeProtocol.Journal, _running.Name);
        Assert.False(_running.Continue());
        Assert.Equal(MergeProtocol.Journal, _running.Name);
        foreach (Wait wait in _waits) wait.IsDone = true;
        Assert.True(_running.Continue());
        Assert.Equal((MergeProtocol.None, false), (_running.Name, _running.IsRunning));
    }

    [Fact]
    public void Window_passes_through_three_protocols_and_says_when_it_waits_for_readers()
    {
        _running.Begin(MergeProtocol.Journal, Steps());
        List<(MergeProtocol, bool)> seen = [(_running.Name, _running.AwaitsReaders)];
        foreach (Wait wait in _waits)
        {
            wait.IsDone = true;
            Assert.True(_running.Continue());
            seen.Add((_running.Name, _running.AwaitsReaders));
        }
        List<(MergeProtocol, bool)> expected =
        [
            (MergeProtocol.Journal, false), (MergeProtocol.AwaitReaders, true), (MergeProtocol.WriteWindow, false),
            (MergeProtocol.None, false),
        ];
        Assert.Equal(expected, seen);
    }

    [Fact]
    public void Second_protocol_cannot_begin()
    {
        _running.Begin(MergeProtocol.Checkpoint, [_waits[0]]);
        InvalidOperationException refused = Assert.Throws<InvalidOperationException>(
            () => _running.Begin(MergeProtocol.WriteUnsafe, [_waits[0]]));
        Assert.Equal("WriteUnsafe cannot begin while Checkpoint runs", refused.Message);
        Assert.Equal(MergeProtocol.Checkpoint, _running.Name);
    }

    [Fact]
    public void Protocol_without_a_wait_ends_at_once()
    {
        _running.Begin(MergeProtocol.Checkpoint, []);
        Assert.False(_running.IsRunning);
    }
}
