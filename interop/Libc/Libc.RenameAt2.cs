using System;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>
    /// renameat2(2) with RENAME_NOREPLACE. Returns 0, -EEXIST if the new name exists, -EINVAL or -ENOSYS where the call is not supported,
    /// or another negative errno.
    /// </summary>
    public static int RenameToNewName(string from, string to)
    {
        const uint noReplace = 1;
        byte* source = stackalloc byte[CPath.Capacity];
        byte* target = stackalloc byte[CPath.Capacity];
        int encoded = CPath.Encode(from, new Span<byte>(source, CPath.Capacity));
        if (encoded == 0) encoded = CPath.Encode(to, new Span<byte>(target, CPath.Capacity));
        if (encoded < 0) return encoded;
        return renameat2(AT_FDCWD, source, AT_FDCWD, target, noReplace) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    [DllImport("libc", SetLastError = true)]
    private static extern int renameat2(int olddirfd, byte* oldpath, int newdirfd, byte* newpath, uint flags);
}
