using System;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Recovery;

/// <summary>
/// Replaces a state file of an update: after a power cut it has either all of its old content or all of its new one. Owner, mode and
/// extended attributes, the SELinux label among them, stay as they were.
/// </summary>
internal static class StateFile
{
    /// <summary>The kernel's limits for the names of all attributes of a file, and for the value of one.</summary>
    private const int MostNames = 64 << 10, MostValue = 64 << 10;

    /// <summary>
    /// Replaces the regular file <paramref name="path"/>. Exit codes of <see cref="FailedCall.Open"/> and
    /// <see cref="FailedCall.Create"/>, and 74; then the file is as it was, unless the message says otherwise.
    /// </summary>
    internal static void Replace(string path, ReadOnlySpan<byte> content, Action<string> warn)
    {
        // The name that Android uses, so that its cleanup knows it.
        string temporary = path + ".tmp";
        int old = Retry.OpenAt(Libc.AT_FDCWD, path, Libc.O_RDONLY | Libc.O_NOFOLLOW | Libc.O_CLOEXEC);
        if (old < 0) throw ErrnoPolicy.Failure(FailedCall.Open, old, $"{path} cannot be read");
        // What an interrupted write has left.
        _ = Libc.Unlink(temporary);
        int made = Retry.OpenAt(Libc.AT_FDCWD, temporary, Libc.O_WRONLY | Libc.O_CREAT | Libc.O_EXCL | Libc.O_CLOEXEC, Modes.PrivateFile);
        try
        {
            int result = made;
            if (result >= 0) result = Transfer.WriteAll(made, content, 0);
            if (result >= 0) result = CopyAttributes(old, made);
            if (result >= 0) result = FileFlush.Of(made);
            if (result >= 0) result = Libc.Rename(temporary, path);
            if (result < 0)
            {
                if (made >= 0) _ = Libc.Unlink(temporary);
                const string doing = "all is merged, but this cannot be written to";
                throw made < 0 ? ErrnoPolicy.Failure(FailedCall.Create, result, $"{doing} {path}")
                    : new SnapuserdException(ExitCode.InputOutput, $"{doing} {path}: {ErrnoText.Of(result)}");
            }
            result = FolderFlush.Of(path, made, out int unsupported);
            if (result < 0)
                throw new SnapuserdException(ExitCode.InputOutput,
                    $"{path} is replaced, but its folder cannot be flushed: {ErrnoText.Of(result)}; run the same again");
            if (unsupported < 0) warn(FolderFlush.Warning(path, unsupported));
        }
        finally
        {
            if (made >= 0) _ = Libc.Close(made);
            _ = Libc.Close(old);
        }
    }

    /// <summary>Returns 0 or a negative errno.</summary>
    private static int CopyAttributes(int from, int to)
    {
        StatxData made = default;
        int result = Libc.Statx(from, Libc.STATX_BASIC_STATS, out StatxData old);
        if (result == 0) result = Libc.Statx(to, Libc.STATX_BASIC_STATS, out made);
        if (result == 0 && (old.Uid, old.Gid) != (made.Uid, made.Gid)) result = Libc.FChOwn(to, old.Uid, old.Gid);
        if (result == 0) result = CopyExtendedAttributes(from, to);
        return result < 0 ? result : Libc.FChMod(to, old.Mode & ~(uint)Libc.S_IFMT);
    }

    private static int CopyExtendedAttributes(int from, int to)
    {
        byte[] names = new byte[MostNames], value = new byte[MostValue], present = new byte[MostValue];
        nint bytes = Libc.FListXAttr(from, names);
        // The file system has no such attributes.
        if (bytes == -Errno.EOPNOTSUPP) return 0;
        if (bytes < 0) return (int)bytes;
        for (ReadOnlySpan<byte> rest = names.AsSpan(0, (int)bytes); rest.Length > 0;)
        {
            int length = rest.IndexOf((byte)0) + 1;
            ReadOnlySpan<byte> name = rest[..length];
            rest = rest[length..];
            // These two are about the old content.
            if (name.SequenceEqual("security.ima\0"u8) || name.SequenceEqual("security.evm\0"u8)) continue;
            nint got = Libc.FGetXAttr(from, name, value), has = Libc.FGetXAttr(to, name, present);
            // A policy may refuse to set even the label that the new file has already.
            if (got >= 0 && value.AsSpan(0, (int)got).SequenceEqual(present.AsSpan(0, Math.Max((int)has, 0))) && has == got) continue;
            int result = got < 0 ? (int)got : Libc.FSetXAttr(to, name, value.AsSpan(0, (int)got));
            if (result < 0) return result;
        }
        return 0;
    }
}
