using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>The text of an errno at the end of an error message. The same errno has the same text everywhere.</summary>
public static class ErrnoText
{
    /// <summary>
    /// The text of strerror(3) with the name of the errno, which people search for: "no space left on device (ENOSPC)". A limit that the
    /// user can raise is named as well. Takes either sign.
    /// </summary>
    public static string Of(int errno)
    {
        string name = Errno.Name(errno);
        if (Errno.Text(errno) is not { } text) return name;
        return (errno < 0 ? -errno : errno) switch
        {
            Errno.EMFILE => $"{text} ({name}; see ulimit -n)",
            Errno.EFBIG => $"{text} ({name}; see ulimit -f)",
            _ => $"{text} ({name})",
        };
    }
}
