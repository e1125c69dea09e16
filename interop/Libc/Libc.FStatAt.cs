using System.Runtime.InteropServices;

namespace Snapuserd.Interop;

public static unsafe partial class Libc
{
    /// <summary>
    /// statx(2) emulated by fstatat(2). Older container runtimes return EPERM for statx, which they do not know, and glibc falls back
    /// only on ENOSYS. Fields that only statx has (mount root, alignment of direct I/O) are not in the mask.
    /// </summary>
    private static int StatxByFStatAt(int directory, byte* path, int flags, StatxData* data)
    {
        // As large as the larger of the two layouts.
        StatDataX64 stat = default;
        if (fstatat(directory, path, &stat, flags) < 0) return -Marshal.GetLastPInvokeError();
        if (RuntimeInformation.ProcessArchitecture == Architecture.Arm64) Convert((StatDataArm64*)&stat, data);
        else Convert(&stat, data);
        return 0;
    }

    private static void Convert(StatDataX64* stat, StatxData* data)
    {
        *data = new StatxData
        {
            Blksize = (uint)stat->Blksize,
            Nlink = (uint)stat->Nlink,
            Uid = stat->Uid,
            Gid = stat->Gid,
            Mode = (ushort)stat->Mode,
            Ino = stat->Ino,
            Size = (ulong)stat->Size,
            Blocks = (ulong)stat->Blocks,
        };
        Complete(data, stat->Dev, stat->Rdev, stat->Atim, stat->Mtim, stat->Ctim);
    }

    private static void Convert(StatDataArm64* stat, StatxData* data)
    {
        *data = new StatxData
        {
            Blksize = (uint)stat->Blksize,
            Nlink = stat->Nlink,
            Uid = stat->Uid,
            Gid = stat->Gid,
            Mode = (ushort)stat->Mode,
            Ino = stat->Ino,
            Size = (ulong)stat->Size,
            Blocks = (ulong)stat->Blocks,
        };
        Complete(data, stat->Dev, stat->Rdev, stat->Atim, stat->Mtim, stat->Ctim);
    }

    /// <summary>Fills in the mask, device numbers and times, which have one type on all architectures.</summary>
    private static void Complete(StatxData* data, ulong device, ulong ownDevice, TimeSpec accessed, TimeSpec modified, TimeSpec changed)
    {
        data->Mask = STATX_BASIC_STATS;
        (data->DevMajor, data->DevMinor) = DecodeDevice(device);
        (data->RdevMajor, data->RdevMinor) = DecodeDevice(ownDevice);
        data->Atime = Stamp(accessed);
        data->Mtime = Stamp(modified);
        data->Ctime = Stamp(changed);
    }

    private static StatxTimestamp Stamp(TimeSpec time) => new() { Sec = time.Sec, Nsec = (uint)time.Nsec };

    [DllImport("libc", SetLastError = true)]
    private static extern int fstatat(int dirfd, byte* pathname, void* buffer, int flags);
}
