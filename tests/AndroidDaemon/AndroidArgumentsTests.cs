using System;
using Snapuserd.AndroidDaemon;
using Snapuserd.Cli;
using Xunit;

namespace Snapuserd.Tests.AndroidDaemon;

/// <summary>The arguments with which Android starts the daemon, and arguments that must not be mistaken for them.</summary>
public sealed class AndroidArgumentsTests
{
    [Theory]
    [InlineData("-user_snapshot", "daemon --socket=snapuserd --log=kmsg --user-snapshot")]
    [InlineData("--user-snapshot=true", "daemon --socket=snapuserd --log=kmsg --user-snapshot")]
    [InlineData("-user_snapshot -user_snapshot", "daemon --socket=snapuserd --log=kmsg --user-snapshot")]
    [InlineData("-nouser_snapshot", "daemon --socket=snapuserd --log=kmsg")]
    [InlineData("-user_snapshot=false", "daemon --socket=snapuserd --log=kmsg")]
    [InlineData("-socket_handoff", "daemon --socket=snapuserd --log=kmsg --socket-handoff")]
    [InlineData("-socket other", "daemon --log=kmsg --socket=other")]
    [InlineData("-socket=a=b -log=json", "daemon --socket=a=b --log=json")]
    [InlineData("-no_socket -io_uring -o_direct -cow_op_merge_size=16 --worker-count 2 a,b,c,d e,f,g,h",
        "daemon --log=kmsg --no-socket --io-uring --o-direct --cow-op-merge-size=16 --worker-count=2 a,b,c,d e,f,g,h")]
    [InlineData("a,b,c,d -no-socket", "daemon --log=kmsg a,b,c,d --no-socket")]
    [InlineData("-no_socket -- -x,b,c,d", "daemon --log=kmsg --no-socket -- -x,b,c,d")]
    [InlineData("-no_socket -unknown", "daemon --log=kmsg --no-socket -unknown")]
    public void Flags_become_options(string words, string expected)
    {
        foreach (string called in (string[])["snapuserd", "/system/bin/snapuserd", "/first_stage_ramdisk/system/bin/snapuserd_ramdisk"])
            Assert.Equal(expected,
                string.Join(' ', AndroidArguments.Translate(called, words.Split(' '), DaemonVerb.TakesValue, hasSocket: false) ?? []));
    }

    [Theory]
    [InlineData("snapuserd", "--help")]
    [InlineData("snapuserd", "--version")]
    [InlineData("snapuserd", "daemon -no_socket")]
    [InlineData("snapuserd", "merge --cow a,b,c,d")]
    [InlineData("snapuserd", "a,b,c")]
    [InlineData("snapuserd", "a,,c,d")]
    [InlineData("snapuserd", "---no_socket")]
    [InlineData("snapuserd", "-log=kmsg")]
    [InlineData("snapuserd", "-")]
    [InlineData("other", "-no_socket")]
    public void Everything_else_is_a_verb(string called, string words) =>
        Assert.Null(AndroidArguments.Translate(called, words.Split(' '), DaemonVerb.TakesValue, hasSocket: true));

    [Fact]
    public void An_empty_command_line_is_Androids_if_init_has_opened_a_socket()
    {
        Assert.Null(AndroidArguments.Translate("snapuserd", [], DaemonVerb.TakesValue, hasSocket: false));
        Assert.Equal("daemon --socket=snapuserd --log=kmsg",
            string.Join(' ', AndroidArguments.Translate("snapuserd", [], DaemonVerb.TakesValue, hasSocket: true) ?? []));
    }
}
