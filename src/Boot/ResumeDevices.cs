using System;
using System.Collections.Generic;
using Snapuserd.Block;
using Snapuserd.Interop;

namespace Snapuserd.Boot;

/// <summary>The devices and files of the running system that the search for a hibernation image reads.</summary>
public sealed class ResumeDevices : IResumeDevices
{
    private const int MostBytes = 64 << 10;

    public List<KernelDevice>? All() => KernelDevices.All();

    public KernelDevice? Of(uint major, uint minor) => KernelDevices.Of(major, minor);

    public (uint Major, uint Minor)? Number(string path) =>
        Libc.Statx(Libc.AT_FDCWD, path, 0, Libc.STATX_BASIC_STATS, out StatxData status) == 0
        && (status.Mode & (uint)Libc.S_IFMT) == Libc.S_IFBLK ? (status.RdevMajor, status.RdevMinor) : null;

    public nint Read(KernelDevice device, long offset, Span<byte> bytes) => KernelDevices.Read(device.Major, device.Minor, offset, bytes);

    public byte[]? Bytes(string path)
    {
        try
        {
            return SmallFile.Read(path, MostBytes);
        }
        catch (SnapuserdException)
        {
            return null;
        }
    }

    public List<string> Names(string folder) => FolderNames.In(folder);
}
