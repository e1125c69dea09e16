using System;
using System.Linq;
using Snapuserd.AndroidDaemon;
using Snapuserd.Cli;
using Snapuserd.Control;
using Snapuserd.Host;
using Snapuserd.Merge;
using Xunit;

namespace Snapuserd.Tests.Cli;

/// <summary>The options that the command line of `daemon` results in.</summary>
public sealed class DaemonVerbTests : IDisposable
{
    private readonly LineFiles _lines = new();

    public void Dispose() => _lines.Dispose();

    [Fact]
    public void Failed_reads_of_one_snapshot_do_not_hide_those_of_another()
    {
        Arguments arguments = Arguments.Parse(Verbs.All.Single(one => one.Name == "daemon"), ["--socket", "/the/socket"]);
        DaemonOptions options = DaemonVerb.Options(new Invocation(arguments, _lines.Output),
            new MergeSlots(new MemoryBudget(16 << 20, 2), 2));
        Action<string> one = options.ReadFailed(), other = options.ReadFailed();
        // More failed reads than are reported in full.
        for (int i = 0; i < 30; i++) one($"read {i} of one");
        Assert.DoesNotContain("read 29 of one", _lines.Diagnostics, StringComparison.Ordinal);
        other("read 0 of other");
        Assert.Contains("read 0 of other", _lines.Diagnostics, StringComparison.Ordinal);
    }
}
