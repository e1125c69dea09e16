using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>
/// The header of a dm-user message, 40 bytes in the machine's own byte order. A reply repeats the request's header and changes only
/// <see cref="Type"/>.
/// <code>
///   0        8        16       24       32      40
///   | seq    | type   | flags  | sector | len   | data: of a write in the request, of a read in the reply
/// </code>
/// A channel is one open of the device. The process must reply on the same channel to each request that it read there. When a channel is
/// closed, the driver fails the requests without a reply.
/// </summary>
[OutOfTree("android common kernel, include/uapi/linux/dm-user.h")]
[StructLayout(LayoutKind.Sequential)]
public struct DmUserMessage
{
    /// <summary>
    /// Sequence number of the request. After a reply with the number of a request that was not read from it, a channel accepts no more
    /// replies.
    /// </summary>
    public ulong Seq;
    /// <summary>The kind of request, or its result: <see cref="DmUser"/>.</summary>
    public ulong Type;
    /// <summary>Reason and urgency of the request.</summary>
    public ulong Flags;
    /// <summary>First sector, in units of 512 bytes.</summary>
    public ulong Sector;
    /// <summary>Length in bytes.</summary>
    public ulong Len;
}

/// <summary>Constants of dm-user. The driver passes on only these kinds of requests.</summary>
[OutOfTree("android common kernel, include/uapi/linux/dm-user.h")]
public static class DmUser
{
    /// <summary>Size of a <see cref="DmUserMessage"/>.</summary>
    public const int MessageBytes = 40;

    public const ulong DM_USER_REQ_MAP_READ = 0;
    /// <summary>
    /// Its data follow the header, and must all be read before the reply. Device-mapper requests a flush by a write of 0 bytes.
    /// </summary>
    public const ulong DM_USER_REQ_MAP_WRITE = 1;
    public const ulong DM_USER_REQ_MAP_FLUSH = 2;
    public const ulong DM_USER_REQ_MAP_DISCARD = 3;
    public const ulong DM_USER_REQ_MAP_SECURE_ERASE = 4;
    /// <summary>Carries no data, despite its name.</summary>
    public const ulong DM_USER_REQ_MAP_WRITE_SAME = 5;
    public const ulong DM_USER_REQ_MAP_WRITE_ZEROES = 6;

    public const ulong DM_USER_RESP_SUCCESS = 0;
    public const ulong DM_USER_RESP_ERROR = 1;
    public const ulong DM_USER_RESP_UNSUPPORTED = 2;
}
