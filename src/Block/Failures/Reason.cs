using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>
/// Explains an errno to the reader of a message. The only such table, so that the same failure has the same words everywhere.
/// </summary>
public static class Reason
{
    /// <summary>
    /// "no space is left (ENOSPC)": the end of a sentence about a failed call. Takes either sign; the name is included because people
    /// search for it.
    /// </summary>
    public static string Of(int errno)
    {
        string name = Errno.Name(errno);
        return (errno < 0 ? -errno : errno) switch
        {
            Errno.ENOENT => $"there is no such file or folder ({name})",
            Errno.ENOTDIR => $"a part of the path is no folder ({name})",
            Errno.ELOOP => $"the symbolic links in the path lead nowhere ({name})",
            Errno.ENAMETOOLONG => $"the path is too long ({name})",
            Errno.EISDIR => $"it is a folder ({name})",
            Errno.EEXIST => $"it exists already ({name})",
            Errno.ENXIO or Errno.ENODEV or Errno.ENOMEDIUM => $"there is no device for it ({name})",
            Errno.EIO or Errno.EREMOTEIO or Errno.EBADMSG or Errno.ENODATA => $"the device failed ({name})",
            Errno.ETIMEDOUT => $"the device does not answer ({name})",
            Errno.ENOSPC => $"no space is left ({name})",
            Errno.EDQUOT => $"the quota is used up ({name})",
            Errno.EFBIG => $"the file would become larger than the file system or a limit (ulimit -f) allows ({name})",
            Errno.EROFS => $"it is read-only ({name})",
            Errno.EACCES or Errno.EPERM => $"permission is denied ({name})",
            Errno.EBUSY => $"it is in use ({name})",
            Errno.ETXTBSY => $"it is in use as a program that runs, or as swap ({name})",
            Errno.EMFILE => $"this process has no descriptor left, see ulimit -n ({name})",
            Errno.ENFILE => $"the system has no descriptor left ({name})",
            Errno.ENOMEM => $"no memory is left ({name})",
            Errno.EAGAIN => $"the system is short of something for the moment ({name})",
            Errno.EINVAL => $"the system does not take such a request ({name})",
            Errno.EPIPE => $"its reader is gone ({name})",
            Errno.ECANCELED => $"the request was cancelled ({name})",
            int other => Errno.Text(other) is { } text ? $"{text} ({name})" : $"the system answered {name}",
        };
    }
}
