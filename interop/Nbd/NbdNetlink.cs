using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

// Passing a socket to the kernel's NBD client (linux/nbd-netlink.h): one message to the generic netlink family "nbd", whose number the
// controller reports. A message is
//
//   nlmsghdr { length, type = the family, flags, sequence, port }  genlmsghdr { command, version }  attribute…
//   attribute: nlattr { length with these 4 bytes, type } value, padded to 4 bytes
//
// The reply is a message of the family (CONNECT: with the device's index), an error message whose number is 0 for success, or both.

/// <summary>Header of every netlink message.</summary>
[CType("struct nlmsghdr", FieldPrefix = "nlmsg_")]
[KernelHeader("linux/netlink.h")]
[StructLayout(LayoutKind.Sequential)]
public struct NetlinkHeader
{
    [CName("nlmsg_len")]
    public uint Length;
    public ushort Type;
    public ushort Flags;
    [CName("nlmsg_seq")]
    public uint Sequence;
    [CName("nlmsg_pid")]
    public uint Port;
}

/// <summary>Second header, in a generic message.</summary>
[CType("struct genlmsghdr")]
[KernelHeader("linux/genetlink.h")]
[StructLayout(LayoutKind.Sequential)]
public struct GenericHeader
{
    [CName("cmd")]
    public byte Command;
    public byte Version;
    public ushort Reserved;
}

/// <summary>Header of every attribute.</summary>
[CType("struct nlattr", FieldPrefix = "nla_")]
[KernelHeader("linux/netlink.h")]
[StructLayout(LayoutKind.Sequential)]
public struct NetlinkAttribute
{
    [CName("nla_len")]
    public ushort Length;
    public ushort Type;
}

/// <summary>Generic netlink and the family of NBD.</summary>
[KernelHeader("linux/netlink.h")]
[KernelHeader("linux/genetlink.h")]
[KernelHeader("linux/nbd-netlink.h")]
public static class NbdNetlink
{
    public const ushort NLMSG_ERROR = 2;
    public const ushort NLM_F_REQUEST = 1;
    /// <summary>Requests a reply even to a success: an error message whose number is 0.</summary>
    public const ushort NLM_F_ACK = 4;
    /// <summary>Mask of the bits of an attribute's type that form its number.</summary>
    public const int NLA_TYPE_MASK = -49153;

    /// <summary>The controller's fixed number.</summary>
    public const ushort GENL_ID_CTRL = 16;
    public const byte CTRL_CMD_GETFAMILY = 3;
    public const ushort CTRL_ATTR_FAMILY_ID = 1;
    public const ushort CTRL_ATTR_FAMILY_NAME = 2;

    public const byte NBD_GENL_VERSION = 1;
    public const byte NBD_CMD_CONNECT = 1;
    public const byte NBD_CMD_DISCONNECT = 2;
    /// <summary>Replaces dead sockets with new ones.</summary>
    public const byte NBD_CMD_RECONFIGURE = 3;

    /// <summary>Index of the device, 32 bits.</summary>
    public const ushort NBD_ATTR_INDEX = 1;
    /// <summary>
    /// Size of the device, 64 bits. The other attributes up to <see cref="NBD_ATTR_DEAD_CONN_TIMEOUT"/> have 64 bits too, except
    /// <see cref="NBD_ATTR_SOCKETS"/>.
    /// </summary>
    public const ushort NBD_ATTR_SIZE_BYTES = 2;
    public const ushort NBD_ATTR_BLOCK_SIZE_BYTES = 3;
    /// <summary>
    /// Seconds after which a request without a reply moves to another connection and its first connection counts as dead; 0: never.
    /// </summary>
    public const ushort NBD_ATTR_TIMEOUT = 4;
    public const ushort NBD_ATTR_SERVER_FLAGS = 5;
    /// <summary>Nested: items with a 32-bit descriptor each.</summary>
    public const ushort NBD_ATTR_SOCKETS = 7;
    /// <summary>Seconds that requests wait for new connections when all are dead.</summary>
    public const ushort NBD_ATTR_DEAD_CONN_TIMEOUT = 8;
    /// <summary>A string that a later RECONFIGURE must repeat.</summary>
    public const ushort NBD_ATTR_BACKEND_IDENTIFIER = 10;
    public const ushort NBD_SOCK_ITEM = 1;
    public const ushort NBD_SOCK_FD = 1;
}
