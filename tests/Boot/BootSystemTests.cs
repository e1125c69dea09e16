using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Linq;
using Snapuserd.Block;
using Snapuserd.Boot;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Boot;

/// <summary>
/// Which processes a boot starts and waits for, with a shell in place of this program, and which files it changes itself.
/// </summary>
public sealed class BootSystemTests : IDisposable
{
    private const string Vector = "v3-lz4-64k-xor";

    /// <summary>
    /// Reports on the descriptor of --ready-fd that the device is ready. The shell's own redirections take only one digit.
    /// </summary>
    private const string Tell = "perl -e 'open F, \">&=$ARGV[0]\" or die; print F \"/dev/x\\n\"' $1";

    private readonly TempFolder _folder = new();
    private readonly MemoryLog _log = new();
    private readonly BootSystem _system;

    public BootSystemTests()
    {
        _system = System();
        File.WriteAllBytes(_folder["cow"], Golden.Cow(Vector));
        File.WriteAllBytes(_folder["base"], Golden.Old);
    }

    private BootRow Row => new("root", _folder["cow"], _folder["base"], null, 1, "the test");

    public void Dispose()
    {
        FileFlush.Before = null;
        _system.Dispose();
        _folder.Dispose();
    }

    [Theory]
    [InlineData("exit 0", ExitCode.Interrupted)]
    [InlineData("exit 66", ExitCode.InputMissing)]
    [InlineData("exit 127", ExitCode.Unavailable)]
    [InlineData("kill -9 $$", ExitCode.Internal)]
    [InlineData(Tell, ExitCode.Done)]
    [InlineData(Tell + "; exit 66", ExitCode.Done)]
    // The server closes the descriptor without a line and continues.
    [InlineData("exec perl -MPOSIX -e 'POSIX::close($ARGV[0]); select undef, undef, undef, 0.1; POSIX::_exit(65)' $1", ExitCode.CowCorrupt)]
    public void A_server_is_ready_when_it_says_so_and_has_failed_when_it_ends_before(string script, ExitCode code)
    {
        Assert.Equal(code, _system.Serve(["sh", "-c", script]));
        Assert.True(Directory.Exists(_folder["run/control"]));
    }

    [Fact]
    public void A_ready_server_continues_in_its_own_session_without_our_streams()
    {
        string script = $$"""
            cd {{_folder.Path}}
            read pid name state parent group session rest </proc/self/stat
            [ "$session" = $$ ] && [ "$group" = $$ ] && echo leader >session
            null=
            for fd in 0 1 2; do [ /proc/$$/fd/$fd -ef /dev/null ] && null=$null$fd; done
            [ /proc/$$/fd/2 -ef /dev/kmsg ] && null=${null}2
            echo $null >streams
            echo "$0 ${SNAPUSERD_HELD+holds}" >words
            tr '\0' '\n' </proc/$$/environ | grep -c ^SNAPUSERD_HELD= >count
            echo $$ >pid
            {{Tell}}
            exec sleep 1000
            """;
        Assert.Equal(ExitCode.Done, _system.Serve(["sh", "-c", script]));
        using Process server = Process.GetProcessById(int.Parse(File.ReadAllText(_folder["pid"]), CultureInfo.InvariantCulture));
        Assert.Equal("leader\n", File.ReadAllText(_folder["session"]));
        Assert.Equal("012\n", File.ReadAllText(_folder["streams"]));
        Assert.Equal("--ready-fd holds\n", File.ReadAllText(_folder["words"]));
        Assert.Equal("1\n", File.ReadAllText(_folder["count"]));
        Assert.False(server.HasExited);
        Assert.Equal(0, Libc.Kill(server.Id, Libc.SIGKILL));
        int result;
        do result = Libc.WaitPid(server.Id, out _, out _);
        while (result == -Errno.EINTR);
    }

    [Fact]
    public void The_folder_of_the_sockets_may_exist_and_must_be_creatable()
    {
        Directory.CreateDirectory(_folder["run/control"]);
        Assert.Equal(ExitCode.InputMissing, _system.Serve(["sh", "-c", "exit 66"]));
        using BootSystem elsewhere = System(_folder["cow/control"]);
        SnapuserdException refusal = Assert.Throws<SnapuserdException>(() => elsewhere.Serve(["sh", "-c", "exit 66"]));
        Assert.Equal(ExitCode.CannotCreate, refusal.Code);
        Assert.Contains($"{_folder["cow/control"]} cannot be made", refusal.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("exit 0", ExitCode.Done)]
    [InlineData("exit 75", ExitCode.Interrupted)]
    [InlineData("[ \"$0 $1 $#\" = '--progress plain 1' ] && exit 65", ExitCode.CowCorrupt)]
    [InlineData("[ -n \"${SNAPUSERD_HELD+holds}\" ] && exit 66", ExitCode.InputMissing)]
    [InlineData("[ /proc/$$/fd/1 -ef /proc/$$/fd/2 ] && exit 73", ExitCode.CannotCreate)]
    [InlineData("kill -9 $$", ExitCode.Internal)]
    public void A_merge_is_waited_for_and_its_code_is_the_result(string script, ExitCode code) =>
        Assert.Equal(code, _system.Merge(["sh", "-c", script]));

    [Fact]
    public void Base_and_cow_are_flushed_and_the_one_that_cannot_be_is_named()
    {
        List<string> flushed = [];
        string refused = "";
        FileFlush.Before = fd =>
        {
            flushed.Add(Path.GetFileName(DescriptorPath.Of(fd)));
            return flushed[^1] == refused ? -Errno.EIO : 0;
        };
        _system.Flush(Row);
        Assert.Equal(["base", "cow"], flushed);
        foreach (string name in (string[])["base", "cow"])
        {
            refused = name;
            flushed.Clear();
            SnapuserdException failure = Assert.Throws<SnapuserdException>(() => _system.Flush(Row));
            Assert.Equal(ExitCode.InputOutput, failure.Code);
            Assert.Contains($"{_folder[name]} cannot be flushed", failure.Message, StringComparison.Ordinal);
            // Nothing is flushed after a failed flush.
            Assert.Equal(name == "base" ? ["base"] : ["base", "cow"], flushed);
        }
    }

    [Fact]
    public void Payloads_are_verified()
    {
        _system.Verify(Row);
        byte[] cow = Golden.Cow(Vector);
        cow.AsSpan(cow.Length - 3000).Fill(0xee);
        File.WriteAllBytes(_folder["cow"], cow);
        Assert.Equal(ExitCode.CowCorrupt, Assert.Throws<SnapuserdException>(() => _system.Verify(Row)).Code);
    }

    [Fact]
    public void The_features_of_the_system_are_looked_for_in_dev()
    {
        Assert.Equal(File.Exists("/dev/ublk-control"), _system.HasUblk);
        Assert.False(_system.IsUblkTaken(987_654));
        Assert.False(_system.IsOld(Row with { Name = "snapuserd-none" }));
        Assert.Null(_system.Ask(_folder["absent"], Row));
        long began = _system.Milliseconds;
        _system.Pause(20);
        Assert.True(_system.Milliseconds - began >= 19);
    }

    private BootSystem System(string? control = null)
    {
        Directory.CreateDirectory(_folder["run"]);
        return new BootSystem(_log, false, control ?? _folder["run/control"], null!)
        {
            OpensProgram = () => Libc.OpenAt(Libc.AT_FDCWD, "/bin/sh", Libc.O_RDONLY | Libc.O_CLOEXEC),
        };
    }
}
