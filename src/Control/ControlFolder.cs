using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Control;

/// <summary>The folder of control sockets in which `ctl` searches by default.</summary>
public static class ControlFolder
{
    /// <summary>The folder in which servers started by `boot` listen, each on a socket named after its row of the table.</summary>
    public const string Default = "/run/snapuserd";

    /// <summary>
    /// Makes the default folder if <paramref name="socket"/> is in it: it may be missing where `boot` has not run. An error is reported
    /// when the socket is made.
    /// </summary>
    public static void MakeFor(string? socket)
    {
        if (socket != null && socket.StartsWith(Default + "/", StringComparison.Ordinal)) _ = Libc.MkDir(Default, Modes.ReadableFolder);
    }

    /// <summary>Makes <paramref name="folder"/> unless it exists. Exit code 73 if that fails.</summary>
    public static void Make(string folder)
    {
        int made = Libc.MkDir(folder, Modes.ReadableFolder);
        if (made is < 0 and not -Errno.EEXIST) throw ErrnoPolicy.Failure(FailedCall.Create, made, $"{folder} cannot be made");
    }

    /// <summary>
    /// Paths of all sockets in the default folder, sorted. Exit code 66 if there are none, 77 or 74 if the folder cannot be read.
    /// </summary>
    public static List<string> Sockets()
    {
        int folder = Libc.OpenAt(Libc.AT_FDCWD, Default, Libc.O_RDONLY | Libc.O_DIRECTORY | Libc.O_CLOEXEC);
        List<string> names = [];
        int result = folder < 0 ? folder : Libc.NamesIn(folder, names);
        if (folder >= 0) _ = Libc.Close(folder);
        if (result == -Errno.ENOENT)
            throw new SnapuserdException(ErrnoPolicy.CodeOf(FailedCall.Open, result),
                $"no server runs, so nothing is served or merged (there is no {Default}); one that listens elsewhere takes --socket");
        if (result < 0) throw ErrnoPolicy.Failure(FailedCall.Open, result, Default);
        names.Sort(StringComparer.Ordinal);
        if (names.Count == 0)
            throw new SnapuserdException(ExitCode.InputMissing,
                $"no server runs, so nothing is served or merged ({Default} is empty); one that listens elsewhere takes --socket");
        return names.ConvertAll(one => $"{Default}/{one}");
    }
}
