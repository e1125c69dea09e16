using System;
using System.Text;
using Snapuserd.Interop;

namespace Snapuserd.Block;

/// <summary>The reason why there is no ring: the negative errno, and a sentence that names the cause and the remedy.</summary>
public readonly record struct UringUnavailable(int Errno, string Sentence)
{
    /// <summary>The sentence for an errno of io_uring_setup on this machine.</summary>
    internal static UringUnavailable Of(int errno) => new(errno, errno switch
    {
        -Interop.Errno.ENOSYS => $"this kernel ({Libc.KernelRelease()}) has no io_uring: it is older than 5.1, was built without "
            + "CONFIG_IO_URING, or a seccomp filter hides it",
        -Interop.Errno.EPERM or -Interop.Errno.EACCES => Forbidden(errno, Sysctl()),
        -Interop.Errno.ENOMEM => $"no memory for io_uring's rings; old and very new kernels count them against RLIMIT_MEMLOCK{Limit()}, "
            + "try to raise it (ulimit -l)",
        -Interop.Errno.EMFILE or -Interop.Errno.ENFILE =>
            $"no descriptor left for io_uring ({Interop.Errno.Name(errno)}), try to raise the limit (ulimit -n)",
        -Interop.Errno.EINVAL => $"this kernel ({Libc.KernelRelease()}) rejects the parameters of io_uring_setup (EINVAL)",
        _ => $"io_uring_setup failed with {Interop.Errno.Name(errno)}",
    });

    /// <summary>The sentence for an errno of the first request, which needs one of the kernel's worker threads.</summary>
    internal static UringUnavailable OfProbe(int errno) => errno switch
    {
        -Interop.Errno.ECANCELED or -Interop.Errno.EAGAIN or -Interop.Errno.ENOMEM => new(-Interop.Errno.ENOMEM,
            "no thread for io_uring's requests can be started, try to raise the limits (ulimit -u, pids.max of the cgroup)"),
        -Interop.Errno.ENOSYS or -Interop.Errno.EPERM or -Interop.Errno.EACCES => Of(errno),
        _ => new(errno, $"io_uring does not work here: a request that does nothing ended with {Interop.Errno.Name(errno)}"),
    };

    /// <summary>The sentence for a ring without IORING_OP_READ, or one that may lose completions.</summary>
    internal static UringUnavailable TooOld() => new(-Interop.Errno.EOPNOTSUPP,
        $"this kernel's io_uring ({Libc.KernelRelease()}) is older than 5.6 and cannot do plain reads and writes");

    /// <summary>The sentence for a refusal while the sysctl kernel.io_uring_disabled is <paramref name="sysctl"/> (-1: unknown).</summary>
    internal static string Forbidden(int errno, int sysctl) => sysctl switch
    {
        2 => "io_uring is disabled by sysctl kernel.io_uring_disabled=2, set it to 0 to allow it",
        1 => "io_uring is reserved for privileged processes by sysctl kernel.io_uring_disabled=1, run as root, join the group in "
            + "kernel.io_uring_group, or set it to 0",
        _ => $"io_uring is forbidden ({Interop.Errno.Name(errno)}) by a seccomp filter or a security module, as is usual in containers, "
            + "allow io_uring_setup, io_uring_enter and io_uring_register",
    };

    // Only for the wording: without a mounted /proc the sentence is less specific, and nothing else changes.
    private static int Sysctl()
    {
        int fd = Libc.OpenAt(Libc.AT_FDCWD, "/proc/sys/kernel/io_uring_disabled", Libc.O_RDONLY | Libc.O_CLOEXEC);
        if (fd < 0) return -1;
        Span<byte> text = stackalloc byte[16];
        nint read = Libc.Read(fd, text);
        _ = Libc.Close(fd);
        return read > 0 && int.TryParse(Encoding.ASCII.GetString(text[..(int)read]).Trim(), out int value) ? value : -1;
    }

    private static string Limit() =>
        Libc.GetLimit(Libc.RLIMIT_MEMLOCK, out ResourceLimit limit) < 0 || limit.Current == Libc.RLIM_INFINITY
            ? "" : $" (now {limit.Current} bytes)";
}
