using System;
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

    /// <summary>Leaves a socket at a path whose server is gone, as a killed server does.</summary>
    private static void LeaveStale(string path)
    {
        string elsewhere = path + ".moved";
        using (Listener(path)) File.Move(path, elsewhere);
        // .NET removes the name that it bound to; the file is under another one by then.
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

    /// <summary>Descriptors of this process for the folder itself, which no other test opens.</summary>
    private int OpenFolders() => Directory.EnumerateFileSystemEntries("/proc/self/fd").Count(fd => new FileInfo(fd).LinkTarget == _folder.Path);

    private static SnapuserdException Refused(string path, ExitCode code)
    {
        SnapuserdException e = Assert.Throws<SnapuserdException>(() => SocketFile.Listen(path, 1));
        Assert.Equal(code, e.Code);
        return e;
    }

    [Fact]
    public void New_socket_takes_connections_of_its_owner_only_and_goes_with_its_server()
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
    public void Socket_of_a_server_that_lives_stays_its_own()
    {
        using Socket other = Listener(Path);
        Assert.Contains(Path, Refused(Path, ExitCode.InUse).Message, StringComparison.Ordinal);
        Assert.True(Answers(Path));
    }

    [Fact]
    public void File_that_is_no_socket_stays()
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
    public void Refused_path_costs_no_descriptor()
    {
        using Socket other = Listener(Path);
        Refused(Path, ExitCode.InUse);
        Assert.Equal(0, OpenFolders());
    }

    [Fact]
    public void Name_that_another_server_has_taken_meanwhile_stays_when_the_first_ends()
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
        // The test is the first of the two: it has the folder's lock and puts its socket into place; the second must see that one. The second
        // waits for half a second and then goes on without the lock, so a round that took longer than that tells nothing and is repeated.
        for (int round = 0; round < 50; round++)
        {
            LeaveStale(Path);
            using Socket first = Listener(_folder["first.sock"]);
            int folder = Libc.OpenAt(Libc.AT_FDCWD, _folder.Path, Libc.O_RDONLY | Libc.O_CLOEXEC);
            Assert.Equal(0, Libc.Flock(folder, Libc.LOCK_EX));
            Stopwatch clock = Stopwatch.StartNew();
            Task<SocketFile> second = Task.Factory.StartNew(() => SocketFile.Listen(Path, 1), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
            while (!second.IsCompleted && OpenFolders() < 2) Thread.Yield();
            bool waits = !second.IsCompleted;
            File.Move(_folder["first.sock"], Path, overwrite: true);
            bool inTime = clock.ElapsedMilliseconds < 400;
            _ = Libc.Close(folder);
            Exception? refusal = await Record.ExceptionAsync(() => second);
            if (second.IsCompletedSuccessfully) (await second).Dispose();
            File.Delete(Path);
            if (!inTime) continue;
            Assert.True(waits, "the second did not wait for the lock of the folder");
            Assert.Equal(ExitCode.InUse, Assert.IsType<SnapuserdException>(refusal).Code);
            return;
        }
        Assert.Fail("50 rounds were each slower than half a second");
    }
}
