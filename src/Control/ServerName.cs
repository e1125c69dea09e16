using System;
using System.Globalization;
using System.IO;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Control;

/// <summary>
/// The name by which `ctl` addresses a server: `--as`, or `--mapper`, `--name` or the COW's file name, followed by ".2", ".3" … if another
/// server has that name. It is unique among the servers whose control sockets are in the same folder. The claim is an abstract Unix socket
/// named after the folder and the name: the kernel gives it to one process only, and frees it when that process ends in any way. A
/// supervisor holds the claim for its servers, so no other server can take the name between two of them.
/// </summary>
public sealed class ServerName : IDisposable
{
    /// <summary>The environment variable that passes the name to a supervised server.</summary>
    public const string Variable = "SNAPUSERD_NAME";

    /// <summary>The last suffix that is tried. If it is taken as well, the server uses a name that is not unique.</summary>
    private const int LastSuffix = 999;

    private readonly int _claim;

    private ServerName(string name, int claim) => (Text, _claim) = (name, claim);

    /// <summary>The name.</summary>
    public string Text { get; }

    /// <summary>Chooses and claims the name. Exit code 64 for an `--as` that is not a file name, 76 if another server has it.</summary>
    /// <param name="asked">The name that `--as` asks for; null for none.</param>
    /// <param name="mapper">The name of the mapped device, if there is one.</param>
    /// <param name="name">The name of the served device, if it has one.</param>
    /// <param name="cow">Path of the COW: its last part is the name if no option gives one.</param>
    /// <param name="control">Path of the control socket; without one no name is claimed.</param>
    public static ServerName Take(string? asked, string? mapper, string? name, string cow, string? control)
    {
        if (asked != null) FileName.Check(asked, "a server");
        name = asked ?? mapper ?? name ?? Path.GetFileName(cow);
        if (control == null) return new ServerName(name, -1);
        if (OwnProcess.Variable(Variable) is { Length: > 0 } given) return new ServerName(given, -1);

        int slash = control.LastIndexOf('/');
        string folder = slash < 0 ? "." : slash == 0 ? "/" : control[..slash];
        // An error of the folder is reported later, when the socket is made in it.
        if (Libc.Statx(Libc.AT_FDCWD, folder, 0, Libc.STATX_BASIC_STATS, out StatxData status) < 0) return new ServerName(name, -1);
        string scope = string.Create(CultureInfo.InvariantCulture, $"snapuserd/{status.DevMajor:x}:{status.DevMinor:x}/{status.Ino:x}/");
        // A server started by `boot` keeps the name of its row: its socket has that name as well, and ctl looks there first.
        bool keeps = asked == null && mapper != null && control[(slash + 1)..] == mapper;
        for (int suffix = 1; suffix <= LastSuffix; suffix++)
        {
            string candidate = suffix == 1 ? name : string.Create(CultureInfo.InvariantCulture, $"{name}.{suffix}");
            if (TryClaim(scope + Short(candidate), out int claim) || keeps) return new ServerName(candidate, claim);
            if (asked != null)
                throw new SnapuserdException(ExitCode.InUse,
                    $"--as {asked}: another server whose control socket is in {folder} has that name");
        }
        return new ServerName(name, -1);
    }

    /// <summary>Frees the name.</summary>
    public void Dispose()
    {
        if (_claim >= 0) _ = Libc.Close(_claim);
    }

    /// <summary>
    /// False if another process of root or of this user has the address. True with −1 if claims are impossible: the name is then used
    /// unclaimed.
    /// </summary>
    private static bool TryClaim(string address, out int claim)
    {
        claim = Libc.Socket(Libc.AF_UNIX, Libc.SOCK_STREAM | Libc.SOCK_CLOEXEC | Libc.SOCK_NONBLOCK, 0);
        if (claim < 0) return true;
        int bound = Libc.BindAbstract(claim, address);
        // It listens only so that other servers can see which user owns it.
        if (bound >= 0) bound = Libc.Listen(claim, 0);
        if (bound >= 0) return true;
        bool taken = bound == -Errno.EADDRINUSE && IsOfOwner(claim, address);
        _ = Libc.Close(claim);
        claim = -1;
        return !taken;
    }

    /// <summary>
    /// An abstract address has no permissions: a claim by another user, perhaps an intentional obstruction, does not count.
    /// </summary>
    private static bool IsOfOwner(int socket, string address)
    {
        int connected = Libc.ConnectAbstract(socket, address);
        // ECONNREFUSED: the owner has bound the address and does not listen yet. EAGAIN: other servers connect at the same time.
        if (connected is -Errno.ECONNREFUSED or -Errno.EAGAIN) return true;
        if (connected < 0 || Libc.GetSockOpt(socket, Libc.SOL_SOCKET, Libc.SO_PEERCRED, out PeerCredentials peer) < 0) return false;
        return peer.Uid == 0 || peer.Uid == Libc.GetEUid();
    }

    /// <summary>
    /// A name that fits an address together with the folder: the name itself, or a hash of a long one (FNV-1a of 64 bits).
    /// </summary>
    private static string Short(string name)
    {
        const int longest = 40;
        byte[] bytes = ByteText.Encode(name);
        if (bytes.Length <= longest) return name;
        ulong hash = 0xcbf29ce484222325;
        foreach (byte one in bytes) hash = (hash ^ one) * 0x100000001b3;
        return string.Create(CultureInfo.InvariantCulture, $"#{bytes.Length}#{hash:x16}");
    }
}
