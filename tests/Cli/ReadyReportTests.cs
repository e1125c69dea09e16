using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Text;
using Microsoft.Win32.SafeHandles;
using Snapuserd.Block;
using Snapuserd.Cli;
using Snapuserd.Host;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.Cli;

/// <summary>The message that a device is usable, to each kind of waiting process.</summary>
public sealed class ReadyReportTests : IDisposable
{
    private ReadyNotifier? _notifier;
    private readonly TempFolder _folder = new();
    private readonly LineFiles _lines = new();

    public void Dispose()
    {
        _lines.Dispose();
        _folder.Dispose();
    }

    [Theory]
    [InlineData("", "/dev/ublkb7\n")]
    [InlineData("--control /run/ctl", "/dev/ublkb7\nname ro\\x0aot\n")]
    [InlineData("--json", """{"event":"ready","device":"/dev/ublkb7","bytes":8192,"name":null}""" + "\n")]
    [InlineData("--json --control /run/ctl", """{"event":"ready","device":"/dev/ublkb7","bytes":8192,"name":"ro\not"}""" + "\n")]
    public void Standard_output_has_the_device_and_the_name_under_which_it_is_controlled(string options, string expected)
    {
        _lines.Output.LogTo(LogForm.Json);
        ReadyReport(_lines.Output, options).Tell("/dev/ublkb7", 8192);
        Assert.Equal(expected, _lines.Results);
        Assert.Equal(1, _lines.Diagnostics.Split('\n').Length - 1);
        const string message = "\"message\":\"/dev/ublkb7 shows the new image of /the/base, 8 KiB\"";
        Assert.Contains(message, _lines.Diagnostics, StringComparison.Ordinal);
        Assert.Contains("\"event\":\"ready\"", _lines.Diagnostics, StringComparison.Ordinal);
        Assert.Contains("\"bytes\":8192}", _lines.Diagnostics, StringComparison.Ordinal);
        Assert.Contains("\"priority\":5", _lines.Diagnostics, StringComparison.Ordinal);
    }

    [Fact]
    public void The_requested_descriptor_gets_the_device_once_and_is_closed()
    {
        Assert.Equal(0, Libc.SocketPair(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC, out int ours, out int theirs));
        ReadyReport ready = ReadyReport(_lines.Output, $"--ready-fd {theirs}");
        ready.Tell("/dev/ublkb7", 8192);
        byte[] bytes = new byte[100];
        Assert.Equal(12, Libc.Read(ours, bytes));
        Assert.Equal("/dev/ublkb7\n", Encoding.ASCII.GetString(bytes, 0, 12));
        // End of the stream: no other descriptor of it is open.
        Assert.Equal(0, Libc.Read(ours, bytes));
        // A second close must not close a reused descriptor number.
        using SafeFileHandle other = File.OpenHandle(_folder["other"], FileMode.CreateNew, FileAccess.Write);
        _notifier!.Close();
        ready.Tell("/dev/ublkb7", 8192);
        Assert.Equal(0, RandomAccess.GetLength(other));
        Assert.True(Libc.Fcntl((int)other.DangerousGetHandle(), Libc.F_GETFD, 0) >= 0);
        _ = Libc.Close(ours);
    }

    [Fact]
    public void A_server_that_ends_before_it_is_ready_closes_the_descriptor_without_a_line()
    {
        Assert.Equal(0, Libc.SocketPair(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC, out int ours, out int theirs));
        Notifier($"--ready-fd {theirs}").Close();
        Assert.Equal(0, Libc.Read(ours, new byte[1]));
        _ = Libc.Close(ours);
        // The three standard descriptors stay open.
        Notifier("--ready-fd 2").Close();
        Assert.True(Libc.Fcntl(2, Libc.F_GETFD, 0) >= 0);
    }

    [Fact]
    public void A_descriptor_that_is_not_open_is_refused()
    {
        SnapuserdException refusal =
            Assert.Throws<SnapuserdException>(() => ReadyReport(_lines.Output, "--ready-fd 1000000"));
        Assert.Equal((ExitCode.Usage, "--ready-fd 1000000: no such descriptor is open"), (refusal.Code, refusal.Message));
        _ = ReadyReport(_lines.Output, "--ready-fd 0");
    }

    [Fact]
    public void The_service_manager_gets_a_message_of_whole_lines_when_it_is_ready_and_when_it_stops()
    {
        using Socket manager = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified) { ReceiveTimeout = 60_000 };
        manager.Bind(new UnixDomainSocketEndPoint(_folder["notify"]));
        ReadyReport ready = ReadyReport(_lines.Output, "", _folder["notify"]);
        byte[] message = new byte[1000];
        ready.Tell("/dev/a\nb", 8192);
        Assert.Equal("READY=1\nSTATUS=serving /dev/a\\x0ab", Encoding.ASCII.GetString(message, 0, manager.Receive(message)));
        _notifier!.TellStopping();
        Assert.Equal("STOPPING=1", Encoding.ASCII.GetString(message, 0, manager.Receive(message)));
        Assert.Equal(0, manager.Available);
        foreach (string? none in (string?[])[null, "", "@", "/nothing/there"]) Notifier("", none).TellStopping();
    }

    [Fact]
    public void A_failed_standard_output_is_reported_and_the_device_is_still_served()
    {
        Assert.Equal(0, Libc.SocketPair(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC, out int ours, out int theirs));
        using SafeFileHandle full = File.OpenHandle("/dev/full", FileMode.Open, FileAccess.Write);
        using SafeFileHandle told = File.OpenHandle(_folder["told"], FileMode.CreateNew, FileAccess.Write, FileShare.ReadWrite);
        Output output = new(0, (int)full.DangerousGetHandle(), (int)told.DangerousGetHandle());
        ReadyReport(output, $"--ready-fd {theirs}").Tell("/dev/ublkb7", 8192);
        Assert.Equal(12, Libc.Read(ours, new byte[100]));
        _ = Libc.Close(ours);
        const string sentence = @"^snapuserd: /dev/ublkb7 is served, but that could not be printed: [^\n]*ENOSPC[^\n]*\n$";
        Assert.Matches(sentence, Unlocked(_folder["told"]));
    }

    [Theory]
    [InlineData(0, false)]
    [InlineData(1, false)]
    [InlineData(2, false)]
    [InlineData(3, true)]
    public void Any_descriptor_gets_the_line_and_all_but_the_first_three_are_closed(int fd, bool isClosed)
    {
        List<string> calls = [];
        Answering([SYS_fcntl, SYS_write, SYS_close], call =>
        {
            if (call[0] != fd) return null;
            calls.Add(call.Number switch
            {
                SYS_fcntl => $"fcntl {call[1]}",
                SYS_write => Marshal.PtrToStringUTF8((nint)call.Long(1), call[2]),
                _ => "close",
            });
            return call.Number == SYS_write ? call[2] : 0;
        }, () => ReadyReport(_lines.Output, $"--ready-fd {fd}").Tell("/dev/ublkb7", 8192));
        string[] expected = [$"fcntl {Libc.F_GETFD}", "/dev/ublkb7\n", "close"];
        Assert.Equal(isClosed ? expected : expected[..2], calls);
    }

    [Theory]
    [InlineData(-Errno.EPERM)]
    [InlineData(-Errno.EBADF)]
    public void A_descriptor_that_cannot_be_inspected_is_refused(int answer)
    {
        SnapuserdException? refusal = null;
        Answering([SYS_fcntl], call => call[0] == 2 && call[1] == Libc.F_GETFD ? answer : null,
            () => refusal = Assert.Throws<SnapuserdException>(() => ReadyReport(_lines.Output, "--ready-fd 2")));
        Assert.Equal((ExitCode.Usage, "--ready-fd 2: no such descriptor is open"), (refusal!.Code, refusal.Message));
    }

    [Fact]
    public void Without_a_socket_nothing_is_sent_or_closed()
    {
        List<int> closed = [];
        foreach (int errno in (int[])[Errno.EPERM, Errno.EMFILE])
        {
            Answering([SYS_socket, SYS_close], call =>
            {
                if (call.Number == SYS_socket) return -errno;
                closed.Add(call[0]);
                return null;
            }, () => Notifier("", _folder["notify"]).TellStopping());
        }
        Assert.Empty(closed);
    }

    private static string Unlocked(string path)
    {
        using FileStream file = new(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        using StreamReader reader = new(file);
        return reader.ReadToEnd();
    }

    private ReadyReport ReadyReport(Output output, string options, string? manager = null)
    {
        string[] words = ["--cow", "/the/cow", "--base", "/the/base", .. options.Split(' ', StringSplitOptions.RemoveEmptyEntries)];
        Arguments arguments = Arguments.Parse(Verbs.All.Single(one => one.Name == "serve"), words);
        _notifier = new ReadyNotifier((int)arguments.Number("--ready-fd", -1)) { Manager = manager };
        return new ReadyReport(new Invocation(arguments, output), "ro\not", _notifier);
    }

    private ReadyNotifier Notifier(string options, string? manager = null)
    {
        _ = ReadyReport(_lines.Output, options, manager);
        return _notifier!;
    }
}
