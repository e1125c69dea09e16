using System;
using System.Collections.Generic;
using System.Globalization;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// Holds that the parent process passes to this one: locks on storage, and exclusively opened devices. The descriptors are inherited, so
/// the kernel sees one holder. They stay open until this process ends, so no other process can take the storage in between.
/// </summary>
public static class InheritedHolds
{
    /// <summary>The environment variable with the numbers of the descriptors, separated by commas.</summary>
    public const string Variable = "SNAPUSERD_HELD";

    /// <summary>
    /// The environment variable with the number of a socket. A byte on it asks the process that holds the base to release it; that
    /// process replies with a byte when it has.
    /// </summary>
    public const string ReleaseVariable = "SNAPUSERD_RELEASE";

    /// <summary>Time limit for the reply, which is prompt unless the other process is stuck: it has nothing else to do.</summary>
    private const int AnswerMilliseconds = 10_000;

    private static readonly object s_gate = new();
    private static readonly List<int> s_own = [];
    private static List<(int Fd, StatxData Status)>? s_all;

    /// <summary>The descriptor of the file or device described by <paramref name="status"/>; −1 if it was not inherited.</summary>
    internal static int Find(in StatxData status)
    {
        lock (s_gate)
        {
            foreach ((int fd, StatxData held) in All)
            {
                if ((held.Mode & Libc.S_IFMT) != (status.Mode & Libc.S_IFMT)) continue;
                bool same = (status.Mode & (uint)Libc.S_IFMT) == Libc.S_IFBLK
                    ? (held.RdevMajor, held.RdevMinor) == (status.RdevMajor, status.RdevMinor)
                    : (held.DevMajor, held.DevMinor, held.Ino) == (status.DevMajor, status.DevMinor, status.Ino);
                if (same) return fd;
            }
            return -1;
        }
    }

    /// <summary>
    /// The descriptor is one that this process locked for itself and its children (<see cref="StorageClaim"/>); its locks are exclusive.
    /// </summary>
    internal static bool IsOwn(int fd)
    {
        lock (s_gate) return s_own.Contains(fd);
    }

    /// <summary>Makes this process treat its own lock as inherited, and lets its children inherit it.</summary>
    internal static void Add(int fd)
    {
        lock (s_gate)
        {
            if (Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData status) != 0 || Libc.Fcntl(fd, Libc.F_SETFD, 0) < 0) return;
            All.Add((fd, status));
            s_own.Add(fd);
        }
    }

    /// <summary>Undoes <see cref="Add"/>.</summary>
    internal static void Remove(int fd)
    {
        lock (s_gate)
        {
            _ = All.RemoveAll(held => held.Fd == fd);
            _ = s_own.Remove(fd);
        }
    }

    /// <summary>
    /// Permanently gives up the hold on the base, in this process and in the one that it was inherited from. Exit code 76 if that process
    /// does not reply.
    /// </summary>
    internal static void GiveUp(int fd)
    {
        lock (s_gate)
        {
            if (All.RemoveAll(held => held.Fd == fd) == 0) return;
            _ = Libc.Close(fd);
            if (!int.TryParse(OwnProcess.Variable(ReleaseVariable), NumberStyles.None, CultureInfo.InvariantCulture, out int socket))
                return;
            Span<byte> one = [0];
            // If the send fails, the other process has ended, and its hold with it.
            if (Libc.Send(socket, one, Libc.MSG_NOSIGNAL) != 1) return;
            Span<PollFd> reply = [new PollFd { Fd = socket, Events = Libc.POLLIN }];
            int ready;
            do ready = Libc.Poll(reply, AnswerMilliseconds);
            while (Retry.Interrupted(ready));
            if (ready == 0)
            {
                throw new SnapuserdException(ExitCode.InUse,
                    $"the supervisor did not release the base within {AnswerMilliseconds / 1000} seconds");
            }
            if (ready > 0) _ = Libc.Read(socket, one);
        }
    }

    /// <summary>
    /// Value of the variable for a child: the descriptors that this process inherited itself, and <paramref name="more"/>.
    /// </summary>
    public static string ForChild(IEnumerable<int> more)
    {
        List<string> numbers = [];
        lock (s_gate)
        {
            foreach ((int fd, _) in All) numbers.Add(fd.ToString(CultureInfo.InvariantCulture));
        }
        foreach (int fd in more) numbers.Add(fd.ToString(CultureInfo.InvariantCulture));
        return string.Join(',', numbers);
    }

    private static List<(int Fd, StatxData Status)> All => s_all ??= Read(OwnProcess.Variable(Variable));

    /// <summary>The open descriptors among the comma-separated <paramref name="numbers"/>.</summary>
    internal static List<(int Fd, StatxData Status)> Read(string? numbers)
    {
        List<(int, StatxData)> all = [];
        foreach (string number in (numbers ?? "").Split(',', StringSplitOptions.RemoveEmptyEntries))
        {
            if (!int.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out int fd)) continue;
            if (Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData status) == 0) all.Add((fd, status));
        }
        return all;
    }
}
