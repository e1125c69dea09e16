using System.Globalization;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.AndroidDaemon;

/// <summary>
/// The control socket from Android's init: opened by init, with its descriptor in the environment, or found by its name in init's folder
/// (daemon §4).
/// </summary>
public static class InitSocket
{
    /// <summary>The folder in which init makes sockets.</summary>
    public const string Folder = "/dev/socket/";

    /// <summary>The socket of the proxy, which hands the control socket over.</summary>
    public const string Proxy = "snapuserd_proxy";

    /// <summary>Resolves the value of `--socket`: the descriptor of a socket that init has opened, or −1 and a path.</summary>
    public static (int Inherited, string Path) Of(string name)
    {
        if (Inherited(name) is { } fd) return (fd, "");
        if (name.Contains('/')) return (-1, name);
        FileName.Check(name, $"a socket in {Folder}");
        return (-1, Folder + name);
    }

    /// <summary>The descriptor of the socket that init has opened under this name; null if there is none.</summary>
    public static int? Inherited(string name) =>
        int.TryParse(OwnProcess.Variable(AndroidArguments.SocketVariable + name), NumberStyles.None, CultureInfo.InvariantCulture,
            out int fd) ? fd : null;
}
