using System;
using System.Text;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// Identifies a file. A file has the same number through every path, hard link and bind mount. Through an overlayfs its number differs
/// from that in the upper layer, which is looked up through the mount table.
/// </summary>
internal static class FileIdentity
{
    /// <summary>The file that <paramref name="fd"/> is open on.</summary>
    internal static StorageBottom Of(int fd, in StatxData status)
    {
        StorageBottom file = StorageBottom.OfFile(status.DevMajor, status.DevMinor, status.Ino);
        // An overlayfs has no device of its own, so its major number is 0.
        return status.DevMajor == 0 ? InUpperLayer(fd, status) ?? file : file;
    }

    /// <summary>The file in the upper layer, if this is on an overlay and the layer is visible in this process.</summary>
    private static StorageBottom? InUpperLayer(int fd, in StatxData status)
    {
        if (Libc.ReadLink($"/proc/self/fd/{fd}", out string path) < 0 || !path.StartsWith('/')) return null;
        if (Libc.StatFs(path, out StatFsData system) < 0 || system.Type != Libc.OVERLAYFS_SUPER_MAGIC) return null;
        foreach (string line in SmallText.Read("/proc/self/mountinfo").Split('\n'))
        {
            // "36 35 0:45 /root /mount options - overlay source lowerdir=...,upperdir=...,workdir=..."
            string[] fields = line.Split(' ');
            int dash = Array.IndexOf(fields, "-");
            if (dash < 6 || dash + 3 >= fields.Length || fields[2] != $"{status.DevMajor}:{status.DevMinor}"
                || fields[dash + 1] != "overlay")
                continue;
            string mount = Unescaped(fields[4]), root = Unescaped(fields[3]);
            if (mount != "/" && path != mount && !path.StartsWith(mount + "/", StringComparison.Ordinal)) continue;
            foreach (string option in fields[dash + 3].Split(','))
            {
                if (!option.StartsWith("upperdir=", StringComparison.Ordinal)) continue;
                string upper =
                    $"{Unescaped(option["upperdir=".Length..])}{(root == "/" ? "" : root)}{(mount == "/" ? path : path[mount.Length..])}";
                if (Libc.Statx(Libc.AT_FDCWD, upper, Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS, out StatxData there) == 0
                    && (there.Mode, there.Size) == (status.Mode, status.Size))
                    return StorageBottom.OfFile(there.DevMajor, there.DevMinor, there.Ino);
            }
        }
        return null;
    }

    /// <summary>
    /// Decodes blanks, newlines, backslashes and the like, which mountinfo contains as a backslash and three octal digits.
    /// </summary>
    private static string Unescaped(string field)
    {
        StringBuilder text = new(field.Length);
        for (int i = 0; i < field.Length; i++)
        {
            bool escaped = field[i] == '\\' && i + 3 < field.Length && field[i + 1] is >= '0' and <= '3'
                && field[i + 2] is >= '0' and <= '7' && field[i + 3] is >= '0' and <= '7';
            if (escaped) text.Append((char)(((field[i + 1] - '0') << 6) | ((field[i + 2] - '0') << 3) | (field[i + 3] - '0')));
            else text.Append(field[i]);
            if (escaped) i += 3;
        }
        return text.ToString();
    }
}
