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

    /// <summary>Path of the service manager's socket; null if there is none.</summary>
    public string? Manager { get; init; } = OwnProcess.Variable("NOTIFY_SOCKET");

    /// <summary>
    /// Takes the descriptor of `--ready-fd`, or −1 if there is none. Throws with exit code 64 if that descriptor is not open.
    /// </summary>
    public ReadyNotifier(int fd)
    {
        _fd = fd;
        if (_fd >= 0 && Libc.Fcntl(_fd, Libc.F_GETFD, 0) < 0)
            throw new SnapuserdException(ExitCode.Usage, $"--ready-fd {_fd}: no such descriptor is open");
    }

    /// <summary>Writes the device's path as a line to the descriptor and closes the descriptor.</summary>
    public void TellReader(string device)
    {
        if (_fd < 0) return;
        // Ignore the result: if the reader is gone, the device is needed all the same.
        _ = Libc.Write(_fd, ByteText.Encode(device + "\n"));
        Close();
    }

    /// <summary>Tells the service manager that the device is usable.</summary>
    // The message consists of lines of UTF-8, so a line feed in a path must be escaped.
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
        // Ignore the result: the manager may be gone. Do not wait for a blocked one.
        _ = Libc.SendTo(fd, ByteText.Encode(message), Libc.MSG_NOSIGNAL | Libc.MSG_DONTWAIT, path);
        _ = Libc.Close(fd);
    }
}
