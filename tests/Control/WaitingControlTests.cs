using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Control;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Control;

public sealed class WaitingControlTests
{
    private const string Why =
        "the server ended with 74, 12 times in a row; /dev/ublkb0 is not removed, because it is mounted: the next try is in 4 seconds";

    [Theory]
    [InlineData("status")]
    [InlineData("list system")]
    [InlineData("json status system")]
    public void A_request_without_a_server_is_told_the_reason(string request)
    {
        using Case test = new();
        string line = Assert.Single(test.Ask(request));
        Assert.Contains("opening", line, System.StringComparison.Ordinal);
        if (request != "list system") Assert.Contains(Why, line, System.StringComparison.Ordinal);
        Assert.Equal(0, test.Stops);
    }

    [Theory]
    [InlineData("watch", ExitCode.InputOutput, Why)]
    [InlineData("merge", ExitCode.Unavailable, Why)]
    [InlineData("json all rate 4096 system", ExitCode.Unavailable, Why)]
    [InlineData("all pause", ExitCode.Unavailable, Why)]
    [InlineData("status other", ExitCode.InputMissing, "system")]
    [InlineData("rate 4096 other", ExitCode.InputMissing, "system")]
    [InlineData("marge", ExitCode.Usage, "merge")]
    public void A_request_that_needs_a_server_is_refused(string request, ExitCode code, string words)
    {
        using Case test = new();
        SnapuserdException refusal = Assert.Throws<SnapuserdException>(() => test.Ask(request));
        Assert.Equal(code, refusal.Code);
        Assert.Contains(words, refusal.Message, System.StringComparison.Ordinal);
        Assert.Equal(0, test.Stops);
    }

    [Theory]
    [InlineData("stop")]
    [InlineData("all stop")]
    [InlineData("stop system")]
    public void Stop_ends_the_wait(string request)
    {
        using Case test = new();
        Assert.Empty(test.Ask(request));
        Assert.Equal(1, test.Stops);
    }

    [Fact]
    public void The_socket_is_removed_at_the_end()
    {
        Case test = new();
        test.Dispose();
        Assert.Equal(ExitCode.InputMissing, Assert.Throws<SnapuserdException>(() => test.Ask("status")).Code);
    }

    private sealed class Case : System.IDisposable
    {
        private readonly TempFolder _folder = new();
        private readonly WaitingControl _control;

        internal Case()
        {
            SnapshotStatus status =
                new() { Name = "system", Cow = "/cow", Base = "/base", Device = "/dev/ublkb0", State = SnapshotState.Opening, Error = Why };
            _control = WaitingControl.Start(_folder["ctl"], status, () => Stops++)!;
            Assert.NotNull(_control);
        }

        internal int Stops { get; private set; }

        internal List<string> Ask(string request)
        {
            using ControlConnection connection = new(_folder["ctl"]);
            List<string> lines = [];
            connection.Ask(request, (line, _) => lines.Add(line));
            return lines;
        }

        public void Dispose()
        {
            _control.Dispose();
            _folder.Dispose();
        }
    }
}
