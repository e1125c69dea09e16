using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.IO;
using System.Linq;
using System.Net.Sockets;
using System.Threading;
using System.Threading.Tasks;
using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Tests.Support;
using Xunit;

namespace Snapuserd.Tests.Block;

/// <summary>Sockets that listen at a path.</summary>
public sealed class SocketFileTests : IDisposable
{
    private readonly TempFolder _folder = new();

    private string Path => _folder["control.sock"];

    public void Dispose() => _folder.Dispose();

    private static Socket Listener(string path)
    {
        Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        socket.Bind(new UnixDomainSocketEndPoint(path));
        socket.Listen(1);
        return socket;
    }

    /// <summary>Leaves a socket file without a server at a path, as a killed server does.</summary>
    private static void LeaveStale(string path)
    {
        string elsewhere = path + ".moved";
        using (Listener(path)) File.Move(path, elsewhere);
        // .NET removes the name that the socket was bound to, so the file is moved to another name first.
        File.Move(elsewhere, path);
    }

    private static bool Answers(string path)
    {
        using Socket client = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            client.Connect(new UnixDomainSocketEndPoint(path));
            return true;
        }
        catch (SocketException)
        {
            return false;
        }
    }

    /// <summary>This process's descriptors for the folder itself, which no other test opens.</summary>
    private int OpenFolders() =>
        Directory.EnumerateFileSystemEntries("/proc/self/fd").Count(fd => new FileInfo(fd).LinkTarget == _folder.Path);

    private static SnapuserdException Refused(string path, ExitCode code)
    {
        SnapuserdException e = Assert.Throws<SnapuserdException>(() => SocketFile.Listen(path, 1));
        Assert.Equal(code, e.Code);
        return e;
    }

    [Fact]
    public void New_socket_accepts_only_its_owner_and_is_removed_with_its_server()
    {
        using (SocketFile socket = SocketFile.Listen(Path, 1))
        {
            Assert.True(socket.Fd >= 0);
            Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(Path));
            Assert.True(Answers(Path));
            socket.Dispose();
            Assert.Equal(-1, socket.Fd);
        }
        Assert.False(File.Exists(Path));
    }

    [Fact]
    public void Socket_of_a_server_that_died_is_replaced()
    {
        LeaveStale(Path);
        Assert.False(Answers(Path));
        using SocketFile socket = SocketFile.Listen(Path, 1);
        Assert.True(Answers(Path));
    }

    [Fact]
    public void Socket_of_a_live_server_is_not_taken()
    {
        using Socket other = Listener(Path);
        Assert.Contains(Path, Refused(Path, ExitCode.InUse).Message, StringComparison.Ordinal);
        Assert.True(Answers(Path));
    }

    [Fact]
    public void File_that_is_not_a_socket_is_kept()
    {
        File.WriteAllText(Path, "kept");
        Refused(Path, ExitCode.CannotCreate);
        Assert.Equal("kept", File.ReadAllText(Path));
    }

    [Fact]
    public void Path_that_cannot_be_a_socket_is_refused()
    {
        Refused(_folder["missing/control.sock"], ExitCode.CannotCreate);
        Refused(_folder[new string('x', 200)], ExitCode.Usage);
        Refused("", ExitCode.Usage);
    }

    [Fact]
    public void Refused_path_leaves_no_descriptor_open()
    {
        using Socket other = Listener(Path);
        Refused(Path, ExitCode.InUse);
        Assert.Equal(0, OpenFolders());
    }

    [Fact]
    public void Socket_that_another_server_has_put_in_place_meanwhile_stays_when_the_first_ends()
    {
        SocketFile first = SocketFile.Listen(Path, 1);
        File.Delete(Path);
        using Socket second = Listener(Path);
        first.Dispose();
        Assert.True(Answers(Path));
    }

    [Fact]
    public async Task Two_that_replace_a_dead_server_do_so_one_after_the_other()
    {
        // The test holds the folder's lock and puts its socket into place first; the second server must see that socket. The second server
        // waits for half a second and then continues without the lock. A slower round therefore proves nothing and is repeated.
        for (int round = 0; round < 50; round++)
        {
            LeaveStale(Path);
            using Socket first = Listener(_folder["first.sock"]);
            int folder = Libc.OpenAt(Libc.AT_FDCWD, _folder.Path, Libc.O_RDONLY | Libc.O_CLOEXEC);
            Assert.Equal(0, Libc.Flock(folder, Libc.LOCK_EX));
            Stopwatch clock = Stopwatch.StartNew();
            Task<SocketFile> second = Task.Factory.StartNew(() => SocketFile.Listen(Path, 1), CancellationToken.None,
                TaskCreationOptions.LongRunning, TaskScheduler.Default);
            while (!second.IsCompleted && OpenFolders() < 2) Thread.Yield();
            bool waits = !second.IsCompleted;
            File.Move(_folder["first.sock"], Path, overwrite: true);
            bool inTime = clock.ElapsedMilliseconds < 400;
            _ = Libc.Close(folder);
            Exception? refusal = await Record.ExceptionAsync(() => second);
            if (second.IsCompletedSuccessfully) (await second).Dispose();
            File.Delete(Path);
            if (!inTime) continue;
            Assert.True(waits, "the second server did not wait for the lock of the folder");
            Assert.Equal(ExitCode.InUse, Assert.IsType<SnapuserdException>(refusal).Code);
            return;
        }
        Assert.Fail("50 rounds were each slower than half a second");
    }

    [Theory]
    [InlineData(Errno.ENAMETOOLONG, ExitCode.Usage, "its path has more than 107 bytes; use a shorter one")]
    [InlineData(Errno.EINVAL, ExitCode.Usage, "is not a valid path for a socket")]
    [InlineData(Errno.EACCES, ExitCode.CannotCreate, "cannot make the socket")]
    [InlineData(Errno.EPERM, ExitCode.CannotCreate, "cannot make the socket")]
    [InlineData(Errno.EROFS, ExitCode.CannotCreate, "cannot make the socket")]
    [InlineData(Errno.EMFILE, ExitCode.OutOfResources, "cannot make the socket")]
    [InlineData(Errno.ENFILE, ExitCode.OutOfResources, "cannot make the socket")]
    [InlineData(Errno.ENOMEM, ExitCode.OutOfResources, "cannot make the socket")]
    [InlineData(Errno.EIO, ExitCode.CannotCreate, "cannot make the socket")]
    public void Refused_call_has_its_exit_code_and_leaves_no_descriptor(int errno, ExitCode code, string sentence)
    {
        foreach (uint refused in (uint[])[OwnThread.SYS_fchmod, OwnThread.SYS_bind, OwnThread.SYS_listen])
        {
            int fd = -1, mode = 0, backlog = 0;
            bool closed = false;
            SnapuserdException error = Assert.Throws<SnapuserdException>(() => OwnThread.Answering(
                [OwnThread.SYS_fchmod, OwnThread.SYS_bind, OwnThread.SYS_listen, OwnThread.SYS_close], call =>
                {
                    if (call.Number == OwnThread.SYS_fchmod) (fd, mode) = (call[0], call[1]);
                    if (call.Number == OwnThread.SYS_listen) backlog = call[1];
                    if (call.Number == OwnThread.SYS_close) closed |= call[0] == fd;
                    return call.Number == refused ? -errno : null;
                }, () => SocketFile.Listen(Path, 7).Dispose()));
            Assert.Equal((code, true, 0x180), (error.Code, closed, mode));
            Assert.Contains(sentence, error.Message, StringComparison.Ordinal);
            Assert.Contains(Path, error.Message, StringComparison.Ordinal);
            Assert.Equal(refused == OwnThread.SYS_listen ? 7 : 0, backlog);
            File.Delete(Path);
        }
    }

    [Fact]
    public void Name_of_a_dead_server_that_others_hold_or_take_meanwhile_is_handled()
    {
        // Another process keeps the folder locked: the server continues without the lock after a time limit.
        LeaveStale(Path);
        int waits = 0, asked = 0;
        OwnThread.Answering([OwnThread.SYS_flock, OwnThread.SYS_poll], call =>
        {
            if (call.Number == OwnThread.SYS_flock)
            {
                Assert.Equal(Libc.LOCK_EX | Libc.LOCK_NB, call[1]);
                asked++;
                return -Errno.EAGAIN;
            }
            if (call.Long(1) != 0) return null;
            Assert.Equal(20, call[2]);
            waits++;
            return 0;
        }, () => SocketFile.Listen(Path, 1).Dispose());
        Assert.Equal((25, 25), (waits, asked));
        Assert.False(File.Exists(Path));

        // The socket is removed between two calls, or its server is alive with a full queue, or the socket cannot be removed.
        foreach ((uint number, int errno, ExitCode? code) in ((uint, int, ExitCode?)[])[(OwnThread.SYS_statx, Errno.ENOENT, ExitCode.InUse),
            (OwnThread.SYS_statx, Errno.EACCES, ExitCode.CannotCreate), (OwnThread.SYS_connect, Errno.ENOENT, ExitCode.InUse),
            (OwnThread.SYS_connect, Errno.EAGAIN, ExitCode.InUse), (OwnThread.SYS_connect, Errno.ECONNREFUSED, null), (OwnThread.SYS_unlink,
                Errno.EPERM, ExitCode.CannotCreate)])
        {
            LeaveStale(Path);
            bool answered = false;
            int connecting = -1;
            List<int> closed = [];
            void Listen() =>
                OwnThread.Answering([OwnThread.SYS_statx, OwnThread.SYS_connect, OwnThread.SYS_unlink, OwnThread.SYS_close], call =>
                {
                    if (call.Number == OwnThread.SYS_close) closed.Add(call[0]);
                    if (call.Number == OwnThread.SYS_connect) connecting = call[0];
                    if (call.Number != number || answered || (number == OwnThread.SYS_statx && call.Text(1) != Path)) return null;
                    answered = true;
                    return -errno;
                }, () => SocketFile.Listen(Path, 1).Dispose());
            if (code == null) Listen();
            else Assert.Equal(code, Assert.Throws<SnapuserdException>(Listen).Code);
            Assert.True(answered);
            Assert.True(connecting < 0 || closed.Contains(connecting));
            Assert.Equal(0, OpenFolders());
            File.Delete(Path);
        }
    }

    [Fact]
    public void Stale_socket_in_the_current_folder_and_in_the_root_is_replaced()
    {
        foreach ((string path, string folder) in ((string, string)[])[("name", "."), ("/name", "/"), ("/a/name", "/a"), ("a/name", "a")])
        {
            List<string> opened = [];
            int bound = 0;
            OwnThread.Answering([OwnThread.SYS_openat, OwnThread.SYS_bind, OwnThread.SYS_statx], call =>
            {
                if (call.Number == OwnThread.SYS_bind) return bound++ == 0 ? -Errno.EADDRINUSE : -Errno.EIO;
                if (call.Number == OwnThread.SYS_statx) return call.Text(1) == path ? -Errno.ENOENT : null;
                if (call.Text(1) != folder) return null;
                opened.Add(call.Text(1));
                return -Errno.EACCES;
            }, () => Refused(path, ExitCode.CannotCreate));
            Assert.Equal([folder], opened);
            Assert.Equal(2, bound);
        }
    }

    [Fact]
    public void Descriptor_0_is_valid()
    {
        List<uint> asked = [];
        uint[] calls = [OwnThread.SYS_socket, OwnThread.SYS_fchmod, OwnThread.SYS_bind, OwnThread.SYS_listen, OwnThread.SYS_close];
        OwnThread.Answering(calls, call =>
        {
            if (call.Number != OwnThread.SYS_socket && call[0] != 0) return null;
            asked.Add(call.Number);
            return 0;
        }, () =>
        {
            SocketFile socket = SocketFile.Listen(Path, 1);
            Assert.Equal(0, socket.Fd);
            socket.Dispose();
            socket.Dispose();
            Assert.Equal(-1, socket.Fd);
        });
        Assert.Equal(calls, asked);
    }

    [Fact]
    public void Folder_is_locked_and_closed_if_it_can_be_opened()
    {
        foreach ((int folder, int locks) in ((int, int)[])[(0, 3), (-Errno.EPERM, 0), (-Errno.EACCES, 0)])
        {
            LeaveStale(Path);
            int locked = 0, closed = 0;
            OwnThread.Answering([OwnThread.SYS_openat, OwnThread.SYS_flock, OwnThread.SYS_poll, OwnThread.SYS_close], call =>
            {
                if (call.Number == OwnThread.SYS_openat) return call.Text(1) == _folder.Path ? folder : null;
                if (call.Number == OwnThread.SYS_poll) return call.Long(1) == 0 ? 0 : null;
                if (call.Number == OwnThread.SYS_flock) return ++locked < 3 ? -Errno.EAGAIN : 0;
                if (call[0] != 0) return null;
                closed++;
                return 0;
            }, () => SocketFile.Listen(Path, 1).Dispose());
            Assert.Equal((locks, folder == 0 ? 1 : 0), (locked, closed));
        }
    }

    [Fact]
    public void Refusals_have_complete_messages()
    {
        Assert.Equal("'' is not a valid path for a socket", Refused("", ExitCode.Usage).Message);
        string longest = _folder[new string('x', 200)];
        Assert.Equal($"cannot make the socket {longest}: its path has more than 107 bytes; use a shorter one",
            Refused(longest, ExitCode.Usage).Message);
        File.WriteAllText(Path, "");
        Assert.Equal($"cannot make the socket {Path}: it exists and is not a socket", Refused(Path, ExitCode.CannotCreate).Message);
        File.Delete(Path);
        using Socket other = Listener(Path);
        Assert.Equal($"a server listens at {Path} already", Refused(Path, ExitCode.InUse).Message);
    }
}
