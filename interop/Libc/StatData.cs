using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

/// <summary>Result of fstatat(2) on x86-64.</summary>
[OnlyOn(Architecture.X64)]
[CType("struct stat", FieldPrefix = "st_")]
[LibraryHeader("sys/stat.h")]
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct StatDataX64
{
    public ulong Dev;
    public ulong Ino;
    public ulong Nlink;
    public uint Mode;
    public uint Uid;
    public uint Gid;
    [CName("__pad0")]
    public int Reserved0;
    public ulong Rdev;
    public long Size;
    public long Blksize;
    public long Blocks;
    public TimeSpec Atim;
    public TimeSpec Mtim;
    public TimeSpec Ctim;
    [CName("__glibc_reserved")]
    public fixed long Reserved1[3];
}

/// <summary>Result of fstatat(2) on arm64.</summary>
[OnlyOn(Architecture.Arm64)]
[CType("struct stat", FieldPrefix = "st_")]
[LibraryHeader("sys/stat.h")]
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct StatDataArm64
{
    public ulong Dev;
    public ulong Ino;
    public uint Mode;
    public uint Nlink;
    public uint Uid;
    public uint Gid;
    public ulong Rdev;
    [CName("__pad1")]
    public ulong Reserved0;
    public long Size;
    public int Blksize;
    [CName("__pad2")]
    public int Reserved1;
    public long Blocks;
    public TimeSpec Atim;
    public TimeSpec Mtim;
    public TimeSpec Ctim;
    [CName("__glibc_reserved")]
    public fixed int Reserved2[2];
}
