using System.Collections.Generic;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>The names in a folder.</summary>
public static class FolderNames
{
    /// <summary>The names in the folder at <paramref name="path"/>; none if it cannot be opened.</summary>
    public static List<string> In(string path)
    {
        List<string> names = [];
        int fd = Libc.OpenAt(Libc.AT_FDCWD, path, Libc.O_RDONLY | Libc.O_DIRECTORY | Libc.O_CLOEXEC);
        if (fd < 0) return names;
        _ = Libc.NamesIn(fd, names);
        _ = Libc.Close(fd);
        return names;
    }
}
