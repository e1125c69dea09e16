using Snapuserd.Block;
using Snapuserd.Interop;
using Snapuserd.Text;

namespace Snapuserd.Host;

/// <summary>
/// Announces that the device is usable: a line on the descriptor of `--ready-fd`, and a message to the service manager at $NOTIFY_SOCKET
/// (sd_notify(3)).
/// </summary>
public sealed class ReadyNotifier
{
    private int _fd;

    /// <summary>The socket of the service manager; null without one.</summary>
    public string? Manager { get; init; } = OwnProcess.Variable("NOTIFY_SOCKET");

    /// <summary>A notifier with the descriptor of `--ready-fd`, or −1 for none. Exit code 64 when that descriptor is not open.</summary>
    public ReadyNotifier(int fd)
    {
        _fd = fd;
        if (_fd >= 0 && Libc.Fcntl(_fd, Libc.F_GETFD, 0) < 0)
            throw new SnapuserdException(ExitCode.Usage, $"--ready-fd {_fd}: no such descriptor is open");
    }

    /// <summary>Writes the device's line to the descriptor, once, and closes it.</summary>
    public void TellReader(string device)
    {
        if (_fd < 0) return;
        // The reader may be gone; the device is needed anyway.
        _ = Libc.Write(_fd, ByteText.Encode(device + "\n"));
        Close();
    }

    /// <summary>Tells the service manager that the device is usable.</summary>
    // Lines of UTF-8 only: no character of a path may start another line.
    public void TellManager(string device) => Notify($"READY=1\nSTATUS=serving {VisibleText.OnTerminal(device)}");

    /// <summary>Tells the service manager that the server is about to end.</summary>
    public void TellStopping() => Notify("STOPPING=1");

    /// <summary>Closes the descriptor, unless it is a standard stream.</summary>
    public void Close()
    {
        if (_fd > 2) _ = Libc.Close(_fd);
        _fd = -1;
    }

    private void Notify(string message)
    {
        if (Manager is not { Length: > 1 } path) return;
        int fd = Libc.Socket(Libc.AF_UNIX, Libc.SOCK_DGRAM | Libc.SOCK_CLOEXEC, 0);
        if (fd < 0) return;
        // The manager may be gone, and a blocked one is not waited for.
        _ = Libc.SendTo(fd, ByteText.Encode(message), Libc.MSG_NOSIGNAL | Libc.MSG_DONTWAIT, path);
        _ = Libc.Close(fd);
    }
}
