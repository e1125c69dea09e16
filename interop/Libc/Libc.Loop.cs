using System;
using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>
/// The file or device below a loop device. Device numbers are encoded as for <see cref="Libc.DecodeDevice"/>; offset and limit are in
/// bytes, and a limit of 0 means up to the end.
/// </summary>
[CType("struct loop_info64", FieldPrefix = "lo_")]
[LibraryHeader("linux/loop.h")]
[StructLayout(LayoutKind.Sequential)]
public unsafe struct LoopInfo64
{
    public ulong Device;
    public ulong Inode;
    [CName("lo_rdevice")]
    public ulong RDevice;
    public ulong Offset;
    [CName("lo_sizelimit")]
    public ulong SizeLimit;
    public uint Number;
    [CName("lo_encrypt_type")]
    public uint EncryptType;
    [CName("lo_encrypt_key_size")]
    public uint EncryptKeySize;
    public uint Flags;
    [CName("lo_file_name")]
    public fixed byte FileName[64];
    [CName("lo_crypt_name")]
    public fixed byte CryptName[64];
    [CName("lo_encrypt_key")]
    public fixed byte EncryptKey[32];
    public fixed ulong Init[2];

    /// <summary>The file's name at set-up, padded with zeros; cut to 63 bytes.</summary>
    [UnscopedRef]
    public readonly ReadOnlySpan<byte> Name => MemoryMarshal.CreateReadOnlySpan(in FileName[0], 64);
}

[LibraryHeader("linux/loop.h")]
[LibraryHeader("linux/major.h")]
public static unsafe partial class Libc
{
    /// <summary>Reads a <see cref="LoopInfo64"/>; ENXIO when the loop device is not in use.</summary>
    public const uint LOOP_GET_STATUS64 = 0x4c05;
    /// <summary>Major number of loop devices.</summary>
    public const int LOOP_MAJOR = 7;

    /// <summary>Major and minor of a device number as the kernel writes it into its structures (huge_encode_dev).</summary>
    public static (uint Major, uint Minor) DecodeDevice(ulong device) =>
        ((uint)((device & 0xfff00) >> 8), (uint)((device & 0xff) | ((device >> 12) & 0xfff00)));

    /// <summary>The inverse of <see cref="DecodeDevice"/>.</summary>
    public static ulong EncodeDevice(uint major, uint minor) => (minor & 0xff) | ((ulong)major << 8) | ((ulong)(minor & ~0xffu) << 12);
}
