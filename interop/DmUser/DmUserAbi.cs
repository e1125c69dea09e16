using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>
/// The head of a message of dm-user, 40 bytes in the machine's own byte order. A request's comes back with the answer, in which only
/// <see cref="Type"/> differs.
/// <code>
///   0        8        16       24       32      40
///   | seq    | type   | flags  | sector | len   | data: of a write in the request, of a read in the answer
/// </code>
/// A channel (one open of the device) answers what it was given itself; closing it fails what it has not answered.
/// </summary>
[OutOfTree("android common kernel, include/uapi/linux/dm-user.h")]
[StructLayout(LayoutKind.Sequential)]
public struct DmUserMessage
{
    /// <summary>The request's number; a channel that answers one that it was not given takes no answer any more.</summary>
    public ulong Seq;
    /// <summary>What is wanted, or how it went: <see cref="DmUser"/>.</summary>
    public ulong Type;
    /// <summary>Why and how urgently it is wanted.</summary>
    public ulong Flags;
    /// <summary>First sector of 512 bytes.</summary>
    public ulong Sector;
    /// <summary>Bytes.</summary>
    public ulong Len;
}

/// <summary>Constants of dm-user. The driver passes on no other requests than these.</summary>
[OutOfTree("android common kernel, include/uapi/linux/dm-user.h")]
public static class DmUser
{
    /// <summary>Size of a <see cref="DmUserMessage"/>.</summary>
    public const int MessageBytes = 40;

    public const ulong DM_USER_REQ_MAP_READ = 0;
    /// <summary>Its data follow the head, and all of them are to be read before it can be answered. One of 0 bytes is how device-mapper asks for a flush.</summary>
    public const ulong DM_USER_REQ_MAP_WRITE = 1;
    public const ulong DM_USER_REQ_MAP_FLUSH = 2;
    public const ulong DM_USER_REQ_MAP_DISCARD = 3;
    public const ulong DM_USER_REQ_MAP_SECURE_ERASE = 4;
    /// <summary>Brings no data along, whatever its name says.</summary>
    public const ulong DM_USER_REQ_MAP_WRITE_SAME = 5;
    public const ulong DM_USER_REQ_MAP_WRITE_ZEROES = 6;

    public const ulong DM_USER_RESP_SUCCESS = 0;
    public const ulong DM_USER_RESP_ERROR = 1;
    public const ulong DM_USER_RESP_UNSUPPORTED = 2;
}
