using System;
using System.Collections.Generic;
using System.Globalization;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// What the process that started this one holds for it: locks on storage, and devices that are open for that process alone. The descriptors are inherited, so the kernel
/// sees one holder; they stay open until this process ends, and so nothing is free in between.
/// </summary>
public static class InheritedHolds
{
    /// <summary>The environment variable with the numbers of the descriptors, separated by commas.</summary>
    public const string Variable = "SNAPUSERD_HELD";

    private static readonly object s_gate = new();
    private static List<(int Fd, StatxData Status)>? s_all;

    /// <summary>The descriptor of the file or device that <paramref name="status"/> tells of; −1 if it was not inherited.</summary>
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

    /// <summary>Closes the hold on a block device: it is given up for good.</summary>
    internal static void Close(int fd)
    {
        lock (s_gate)
        {
            if (All.RemoveAll(held => held.Fd == fd) > 0) _ = Libc.Close(fd);
        }
    }

    /// <summary>For a child's environment: what this process inherited itself, and <paramref name="more"/>.</summary>
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

    private static List<(int Fd, StatxData Status)> All => s_all ??= Read();

    private static List<(int Fd, StatxData Status)> Read()
    {
        List<(int, StatxData)> all = [];
        foreach (string number in (Environment.GetEnvironmentVariable(Variable) ?? "").Split(',', StringSplitOptions.RemoveEmptyEntries))
        {
            if (!int.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out int fd)) continue;
            if (Libc.Statx(fd, Libc.STATX_BASIC_STATS, out StatxData status) == 0) all.Add((fd, status));
        }
        return all;
    }
}
