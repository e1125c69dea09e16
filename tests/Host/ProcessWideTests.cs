using System;
using System.Collections.Generic;
using System.Linq;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Text;
using System.Threading;
using Snapuserd.Host;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;
using static Snapuserd.Tests.Support.OwnThread;

namespace Snapuserd.Tests.Host;

/// <summary>
/// Tests that use the environment and standard input, which all tests of the process share. No other test runs at the same time.
/// </summary>
[Collection(nameof(ProcessWideTests))]
[CollectionDefinition(nameof(ProcessWideTests), DisableParallelization = true)]
public sealed class ProcessWideTests : IDisposable
{
    private const uint SYS_dup = 32, SYS_chdir = 80, SYS_unshare = 272, CLONE_FS = 0x200;

    private readonly TempFolder _folder = new();
    private readonly MemoryLog _log = new();

    public void Dispose()
    {
        Environment.SetEnvironmentVariable(PersistedControlState.Variable, null);
        _folder.Dispose();
    }

    [Fact]
    public void A_server_has_the_requests_of_its_supervisor_and_records_the_device_there()
    {
        int fd = PersistedControlState.Make();
        Environment.SetEnvironmentVariable(PersistedControlState.Variable, $"{fd}");
        PersistedControlState? inherited = PersistedControlState.Inherited(_log);
        Assert.NotNull(inherited);
        inherited.NoteChecked(9);
        Assert.Equal(9, new PersistedControlState(fd, _log).CheckedOps);
        Assert.False(PersistedControlState.HadDevice(fd));
        PersistedControlState.NoteDevice();
        Assert.True(PersistedControlState.HadDevice(fd));
        Assert.Equal((false, false), PersistedControlState.Asked(fd));
        Assert.Equal("", _log.Sentences);
        _ = Libc.Close(fd);
    }

    [Theory]
    [InlineData(null)]
    [InlineData("")]
    [InlineData("-1")]
    [InlineData("fd")]
    public void A_server_without_a_supervisor_has_no_requests_and_records_nothing(string? variable)
    {
        Environment.SetEnvironmentVariable(PersistedControlState.Variable, variable);
        List<int> written = [];
        PersistedControlState? inherited = null;
        Answering([SYS_pwrite64], call =>
        {
            written.Add(call[0]);
            return null;
        }, () =>
        {
            inherited = PersistedControlState.Inherited(_log);
            PersistedControlState.NoteDevice();
        });
        Assert.Null(inherited);
        Assert.Empty(written);
    }

    [Fact]
    public void The_socket_to_the_manager_is_used_and_closed_even_if_it_is_descriptor_0()
    {
        using Socket manager = Bound("notify");
        int input = (int)Call(SYS_dup, 0, 0);
        List<int> closed = [];
        try
        {
            Answering([SYS_socket, SYS_close], call =>
            {
                if (call.Number == SYS_close)
                {
                    closed.Add(call[0]);
                    return call[0] == 0 ? 0 : null;
                }
                int fd = Libc.Socket(call[0], call[1], call[2]);
                Assert.Equal(0, Libc.Dup3(fd, 0, Libc.O_CLOEXEC));
                _ = Libc.Close(fd);
                return 0;
            }, () => Tell(_folder["notify"]));
        }
        finally
        {
            if (input >= 0) _ = Libc.Dup3(input, 0, 0);
            else _ = Libc.Close(0);
            _ = Libc.Close(input);
        }
        Assert.Equal("STOPPING=1", Received(manager));
        Assert.Equal([0], closed);
    }

    [Fact]
    public void The_name_of_a_service_manager_has_at_least_two_characters()
    {
        using Socket one = Bound("n"), two = Bound("nn");
        int moved = -1;
        // One thread gets its own working folder.
        Thread thread = new(() =>
        {
            nint path = Marshal.StringToCoTaskMemUTF8(_folder.Path);
            moved = (int)(Call(SYS_unshare, (nint)CLONE_FS, 0) | Call(SYS_chdir, path, 0));
            Marshal.FreeCoTaskMem(path);
            if (moved != 0) return;
            Tell("n");
            Tell("nn");
        });
        thread.Start();
        thread.Join();
        Assert.Equal(0, moved);
        Assert.Equal("STOPPING=1", Received(two));
        Assert.Equal(0, two.Available);
        Assert.Equal(0, one.Available);
    }

    private Socket Bound(string name)
    {
        Socket socket = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified) { ReceiveTimeout = 60_000 };
        socket.Bind(new UnixDomainSocketEndPoint(_folder[name]));
        return socket;
    }

    private static string Received(Socket manager)
    {
        byte[] message = new byte[100];
        return Encoding.ASCII.GetString(message, 0, manager.Receive(message));
    }

    private static void Tell(string manager) => new ReadyNotifier(-1) { Manager = manager }.TellStopping();
}
