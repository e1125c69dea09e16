using System;
using System.Collections.Generic;
using System.Runtime;
using System.Runtime.CompilerServices;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using System.Threading;
using Snapuserd.Interop;

namespace Snapuserd.Tests.Support;

/// <summary>
/// Runs a part of a test on a separate thread with its own seccomp filter, user or signals. Linux keeps these per thread, so they do not
/// affect the rest of the process.
/// </summary>
internal static unsafe partial class OwnThread
{
    private const int PR_SET_NO_NEW_PRIVS = 38;
    private const int PR_SET_SECCOMP = 22;
    private const int SECCOMP_MODE_FILTER = 2;
    public const int SIGUSR2 = 12;
    private const long SYS_setresuid = 117;
    private const long SYS_tgkill = 234;
    private const long SYS_gettid = 186;

    /// <summary>System calls, by their x86-64 numbers.</summary>
    public const uint SYS_read = 0;
    public const uint SYS_write = 1;
    public const uint SYS_close = 3;
    public const uint SYS_poll = 7;
    public const uint SYS_rt_sigaction = 13;
    public const uint SYS_ioctl = 16;
    public const uint SYS_lseek = 8;
    public const uint SYS_pread64 = 17;
    public const uint SYS_pwrite64 = 18;
    public const uint SYS_sendto = 44;
    public const uint SYS_recvfrom = 45;
    public const uint SYS_sendmsg = 46;
    public const uint SYS_recvmsg = 47;
    public const uint SYS_socket = 41;
    public const uint SYS_connect = 42;
    public const uint SYS_bind = 49;
    public const uint SYS_listen = 50;
    public const uint SYS_wait4 = 61;
    public const uint SYS_fcntl = 72;
    public const uint SYS_flock = 73;
    public const uint SYS_fsync = 74;
    public const uint SYS_ftruncate = 77;
    public const uint SYS_fadvise64 = 221;
    public const uint SYS_unlink = 87;
    public const uint SYS_geteuid = 107;
    public const uint SYS_fchmod = 91;
    public const uint SYS_statfs = 137;
    public const uint SYS_fstatfs = 138;
    public const uint SYS_chroot = 161;
    public const uint SYS_openat = 257;
    public const uint SYS_newfstatat = 262;
    public const uint SYS_sync_file_range = 277;
    public const uint SYS_mkdirat = 258;
    public const uint SYS_unlinkat = 263;
    public const uint SYS_fallocate = 285;
    public const uint SYS_accept4 = 288;
    public const uint SYS_eventfd2 = 290;
    public const uint SYS_dup3 = 292;
    public const uint SYS_prlimit64 = 302;
    public const uint SYS_syncfs = 306;
    public const uint SYS_execve = 59;
    public const uint SYS_execveat = 322;
    public const uint SYS_memfd_create = 319;
    public const uint SYS_statx = 332;
    public const uint SYS_io_uring_setup = 425;
    public const uint SYS_io_uring_enter = 426;
    public const uint SYS_io_uring_register = 427;
    public const uint SYS_fsopen = 430;
    public const uint SYS_fsconfig = 431;
    public const uint SYS_fsmount = 432;
    public const uint SYS_clone3 = 435;

    /// <summary>Names of the C library functions that make one system call each. <c>FunctionBytes</c> bounds the size of one.</summary>
    private static readonly Dictionary<uint, string> s_functions = new()
    {
        [SYS_socket] = "socket",
        [SYS_connect] = "connect",
        [SYS_memfd_create] = "memfd_create",
        [SYS_bind] = "bind",
        [SYS_listen] = "listen",
        [SYS_unlink] = "unlink",
        [SYS_fchmod] = "fchmod",
        [SYS_read] = "read",
        [SYS_write] = "write",
        [SYS_eventfd2] = "eventfd",
        [SYS_fsopen] = "fsopen",
        [SYS_fsconfig] = "fsconfig",
        [SYS_fsmount] = "fsmount",
        [SYS_close] = "close",
        [SYS_poll] = "poll",
        [SYS_ioctl] = "ioctl",
        [SYS_pread64] = "pread64",
        [SYS_pwrite64] = "pwrite64",
        [SYS_ftruncate] = "ftruncate64",
        [SYS_lseek] = "lseek64",
        [SYS_sendto] = "send",
        [SYS_recvfrom] = "recv",
        [SYS_sendmsg] = "sendmsg",
        [SYS_recvmsg] = "recvmsg",
        [SYS_geteuid] = "geteuid",
        [SYS_chroot] = "chroot",
        [SYS_fallocate] = "fallocate64",
        [SYS_accept4] = "accept4",
        [SYS_prlimit64] = "prlimit64",
        [SYS_wait4] = "wait4",
        [SYS_flock] = "flock",
        [SYS_fsync] = "fsync",
        [SYS_fadvise64] = "posix_fadvise64",
        [SYS_statfs] = "statfs",
        [SYS_fstatfs] = "fstatfs",
        [SYS_openat] = "openat",
        [SYS_mkdirat] = "mkdirat",
        [SYS_newfstatat] = "fstatat",
        [SYS_unlinkat] = "unlinkat",
        [SYS_dup3] = "dup3",
        [SYS_sync_file_range] = "sync_file_range",
        [SYS_syncfs] = "syncfs",
        [SYS_execve] = "execve",
        [SYS_execveat] = "execveat",
        [SYS_statx] = "statx",
    };

    private const int FunctionBytes = 0x180;
    private const uint LibraryBytes = 0x20_0000;
    private const long SYS_seccomp = 317;
    private const uint SYS_mmap = 9;
    private const uint SECCOMP_IOCTL_NOTIF_RECV = 0xc0502100, SECCOMP_IOCTL_NOTIF_SEND = 0xc0182101;

#pragma warning disable CS0649 // The kernel fills the fields.
    /// <summary>A system call that waits for its result from the listener. Its pointers are valid in this process.</summary>
    public struct SystemCall
    {
        public uint Number;
        public uint Architecture;
        public ulong Instruction;
        public fixed ulong Arguments[6];

        /// <summary>Argument <paramref name="number"/>, counted from 0, as an int.</summary>
        public readonly int this[int number] => (int)Arguments[number];

        /// <summary>Argument <paramref name="number"/>, counted from 0, as a long.</summary>
        public readonly long Long(int number) => (long)Arguments[number];

        /// <summary>The string that argument <paramref name="number"/> points to.</summary>
        public readonly string Text(int number) => Marshal.PtrToStringUTF8((nint)Arguments[number]) ?? "";

        /// <summary>The value that argument <paramref name="number"/> points to.</summary>
        public readonly ref T At<T>(int number) where T : unmanaged => ref *(T*)Arguments[number];
    }

    private struct Notification
    {
        public ulong Id;
        public uint Process;
        public uint Flags;
        public SystemCall Call;
    }
#pragma warning restore CS0649

    private struct Answer
    {
        public ulong Id;
        public long Value;
        public int Error;
        public uint Flags;
    }

    private struct Filter
    {
        public ushort Code;
        public byte JumpTrue;
        public byte JumpFalse;
        public uint Value;
    }

    private struct FilterProgram
    {
        public ushort Length;
        public Filter* Filters;
    }

    /// <summary>glibc's struct sigaction on x86-64.</summary>
    private struct SignalAction
    {
        public nint Handler;
        public fixed ulong Mask[16];
        public int Flags;
        public nint Restorer;
    }

    /// <summary>Runs <paramref name="action"/> under a seccomp filter that fails one system call with an errno, as containers do.</summary>
    public static void Refusing(uint systemCall, int errno, Action action) => Refusing([systemCall], errno, action);

    /// <summary>Runs <paramref name="action"/> under a seccomp filter that fails several system calls with an errno.</summary>
    public static void Refusing(uint[] systemCalls, int errno, Action action)
    {
        List<Filter> filters = [new Filter { Code = 0x20, Value = 0 }];                     // load the system call's number
        foreach (uint call in systemCalls)
        {
            filters.Add(new Filter { Code = 0x15, JumpFalse = 1, Value = call });           // is it this one?
            filters.Add(new Filter { Code = 0x06, Value = 0x0005_0000 | (uint)errno });     // answer with the errno
        }
        filters.Add(new Filter { Code = 0x06, Value = 0x7fff_0000 });                       // allow
        Filtered([.. filters], action);
    }

    /// <summary>
    /// Runs <paramref name="action"/> where the kernel maps no memory of exactly <paramref name="length"/> bytes. Choose a length that the
    /// runtime does not use.
    /// </summary>
    public static void RefusingToMap(int length, int errno, Action action) => Filtered(
    [
        new Filter { Code = 0x20, Value = 0 },                                              // load the system call's number
        new Filter { Code = 0x15, JumpFalse = 5, Value = SYS_mmap },
        new Filter { Code = 0x20, Value = 24 },                                             // the lower half of the length
        new Filter { Code = 0x15, JumpFalse = 3, Value = (uint)length },
        new Filter { Code = 0x20, Value = 40 },                                             // the flags of MappedMemory
        new Filter { Code = 0x15, JumpFalse = 1, Value = Libc.MAP_PRIVATE | Libc.MAP_ANONYMOUS | Libc.MAP_NORESERVE },
        new Filter { Code = 0x06, Value = 0x0005_0000 | (uint)errno },                      // answer with the errno
        new Filter { Code = 0x06, Value = 0x7fff_0000 },                                    // allow
    ], action);

    private static void Filtered(Filter[] filters, Action action) => Run(() =>
    {
        fixed (Filter* first = filters)
        {
            FilterProgram program = new() { Length = (ushort)filters.Length, Filters = first };
            if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, (nint)(&program), 0, 0) != 0)
                throw new InvalidOperationException("this kernel has no seccomp filters");
        }
        action();
    });

    /// <summary>
    /// Runs <paramref name="action"/> while <paramref name="answer"/>, on another thread, answers its system calls
    /// <paramref name="calls"/>. An answer is a result or a negative errno; null lets the kernel answer. A descriptor in a result belongs
    /// to the caller.
    /// </summary>
    public static void Answering(uint[] calls, Func<SystemCall, long?> answer, Action action)
    {
        if (GCSettings.LatencyMode == GCLatencyMode.Interactive)
            throw new InvalidOperationException("the garbage collector could start a thread that inherits the filter; set "
                + "ConcurrentGarbageCollection to false");
        ExceptionDispatchInfo? failure = null;
        StrongBox<bool> ended = new();
        Run(() =>
        {
            List<Filter> filters = [new Filter { Code = 0x20, Value = 0 }];                 // load the system call's number
            foreach (uint call in calls) AddQuestion(filters, call);
            filters.Add(new Filter { Code = 0x06, Value = 0x7fff_0000 });                   // allow
            Filter* copy = stackalloc Filter[filters.Count];
            filters.CopyTo(new Span<Filter>(copy, filters.Count));
            FilterProgram program = new() { Length = (ushort)filters.Count, Filters = copy };
            int listener = -1;
            // The listener has no filter. It answers until no thread has the filter, because the runtime may start further threads from the
            // filtered one.
            Thread thread = new(() => Listen(ref listener, call =>
            {
                try
                {
                    return Volatile.Read(ref ended.Value) ? null : answer(call);
                }
                catch (Exception e)
                {
                    failure ??= ExceptionDispatchInfo.Capture(e);
                    return -Errno.EIO;
                }
            }))
            { IsBackground = true };
            thread.Start();
            if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) throw new InvalidOperationException("this kernel has no seccomp filters");
            int made = (int)syscall(SYS_seccomp, 1, 8, (nint)(&program));
            Volatile.Write(ref listener, made < 0 ? -2 : made);
            if (made < 0) throw new InvalidOperationException("this kernel has no seccomp listeners");
            try
            {
                action();
            }
            finally
            {
                Volatile.Write(ref ended.Value, true);
            }
        });
        failure?.Throw();
    }

    /// <summary>
    /// Sends a system call to the listener if the C library's function of that name makes it. The runtime and the loader open files while
    /// they hold locks that the listener may need, but they use other functions.
    /// </summary>
    private static void AddQuestion(List<Filter> filters, uint call)
    {
        ulong start = (ulong)NativeLibrary.GetExport(NativeLibrary.Load("libc.so.6"),
            s_functions.TryGetValue(call, out string? name) ? name : "syscall");
        // Some C libraries make all system calls in one function. glibc makes three of them in internal functions.
        bool isThere = call is not (SYS_clone3 or SYS_fcntl or SYS_rt_sigaction)
            && new ReadOnlySpan<byte>((void*)start, FunctionBytes).IndexOf((ReadOnlySpan<byte>)[0x0f, 0x05]) >= 0;
        int header = filters.Count;
        filters.Add(default);
        if (call == SYS_fcntl)
        {
            // Only F_GETFL, F_SETFL and the open-file locks. The runtime makes none of these calls while it holds its locks.
            filters.Add(new Filter { Code = 0x20, Value = 24 });                            // the lower half of the second argument
            filters.Add(new Filter { Code = 0x25, JumpFalse = 2, Value = 4 });
            filters.Add(new Filter { Code = 0x35, JumpFalse = 2, Value = 36 });
            filters.Add(new Filter { Code = 0x25, JumpTrue = 1, Value = 38 });
        }
        if (call == SYS_newfstatat && isThere)
        {
            // The C library's fstat is fstatat with an empty name, which lies in the library. The runtime calls it for /proc/self/maps
            // under its locks.
            filters.Add(new Filter { Code = 0x20, Value = 24 });
            filters.Add(new Filter { Code = 0x35, JumpFalse = 3, Value = (uint)start });
            filters.Add(new Filter { Code = 0x35, JumpTrue = 2, Value = (uint)start + LibraryBytes });
            filters.Add(new Filter { Code = 0x20, Value = 28 });                            // the upper half
            filters.Add(new Filter { Code = 0x15, JumpTrue = 6, Value = (uint)(start >> 32) });
        }
        if (isThere)
        {
            filters.Add(new Filter { Code = 0x20, Value = 8 });                             // the lower half of the address
            filters.Add(new Filter { Code = 0x35, JumpFalse = 4, Value = (uint)start });
            filters.Add(new Filter { Code = 0x35, JumpTrue = 3, Value = (uint)start + FunctionBytes });
            filters.Add(new Filter { Code = 0x20, Value = 12 });                            // the upper half
            filters.Add(new Filter { Code = 0x15, JumpFalse = 1, Value = (uint)(start >> 32) });
        }
        filters.Add(new Filter { Code = 0x06, Value = 0x7fc0_0000 });                       // ask the listener
        if (isThere || call == SYS_fcntl) filters.Add(new Filter { Code = 0x06, Value = 0x7fff_0000 });
        filters[header] = new Filter { Code = 0x15, JumpFalse = (byte)(filters.Count - header - 1), Value = call };
    }

    [ThreadStatic]
    private static int s_caller;

    /// <summary>While a call is being answered: the thread that made it, or the child that was forked from that thread.</summary>
    public static int Caller => s_caller;

    private static void Listen(ref int listener, Func<SystemCall, long?> answer)
    {
        while (Volatile.Read(ref listener) == -1) Thread.Yield();
        int fd = Volatile.Read(ref listener);
        Span<PollFd> fds = [new PollFd { Fd = fd, Events = Libc.POLLIN }];
        while (fd >= 0 && Libc.Poll(fds, -1) is > 0 or -Errno.EINTR && (fds[0].ReturnedEvents & Libc.POLLIN) != 0)
        {
            Notification notification = default;
            if (Libc.Ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, ref notification) < 0) continue;
            s_caller = (int)notification.Process;
            long? value = answer(notification.Call);
            Answer reply = new() { Id = notification.Id, Flags = value == null ? 1u : 0 };
            if (value is < 0) reply.Error = (int)value;
            else reply.Value = value ?? 0;
            _ = Libc.Ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, ref reply);
        }
        if (fd >= 0) _ = Libc.Close(fd);
    }

    /// <summary>Runs <paramref name="action"/> as user 65534 if the process is root.</summary>
    public static void Unprivileged(Action action) => Run(() =>
    {
        if (Libc.GetEUid() == 0 && syscall(SYS_setresuid, -1, 65534, -1) != 0)
            throw new InvalidOperationException("cannot stop being root");
        action();
    });

    /// <summary>Runs <paramref name="action"/> where <see cref="SIGUSR2"/> has a handler that does nothing.</summary>
    public static void Handling(Action action)
    {
        SignalAction handler = new() { Handler = NativeLibrary.GetExport(NativeLibrary.Load("libc.so.6"), "abs") };
        SignalAction before;
        if (sigaction(SIGUSR2, &handler, &before) != 0) throw new InvalidOperationException("no handler");
        try
        {
            action();
        }
        finally
        {
            _ = sigaction(SIGUSR2, &before, null);
        }
    }

    /// <summary>Blocks a signal on this thread.</summary>
    public static void Block(int signal)
    {
        const int SIG_BLOCK = 0;
        ulong* set = stackalloc ulong[16];
        new Span<ulong>(set, 16).Clear();
        *set = 1ul << (signal - 1);
        if (pthread_sigmask(SIG_BLOCK, set, null) != 0) throw new InvalidOperationException("cannot block");
    }

    /// <summary>
    /// Runs <paramref name="action"/> while another thread sends it signals without end. The handler does nothing, and system calls are not
    /// restarted. The action can ask how many signals were sent.
    /// </summary>
    public static void Interrupted(Action<Func<int>> action)
    {
        int sent = 0;
        Run(() =>
        {
            // Any C library function that takes a number and has no side effects can be the signal handler.
            SignalAction handler = new() { Handler = NativeLibrary.GetExport(NativeLibrary.Load("libc.so.6"), "abs") };
            SignalAction before;
            if (sigaction(SIGUSR2, &handler, &before) != 0) throw new InvalidOperationException("no handler");
            nint target = syscall(SYS_gettid, 0, 0, 0);
            StrongBox<bool> stop = new();
            Thread sender = new(() =>
            {
                while (!Volatile.Read(ref stop.Value))
                {
                    if (syscall(SYS_tgkill, Libc.GetPid(), target, SIGUSR2) == 0) Interlocked.Increment(ref sent);
                    // Lets the other thread run between two signals.
                    Thread.Yield();
                }
            });
            sender.Start();
            try
            {
                action(() => Volatile.Read(ref sent));
            }
            finally
            {
                Volatile.Write(ref stop.Value, true);
                sender.Join();
                _ = sigaction(SIGUSR2, &before, null);
            }
        });
    }

    /// <summary>Makes a system call of two arguments, for use by a listener. Returns its result, or −1.</summary>
    public static long Call(long number, nint a, nint b) => syscall(number, a, b, 0);

    private static void Run(Action action)
    {
        ExceptionDispatchInfo? failure = null;
        Thread thread = new(() =>
        {
            try
            {
                action();
            }
            catch (Exception e)
            {
                failure = ExceptionDispatchInfo.Capture(e);
            }
        });
        thread.Start();
        thread.Join();
        failure?.Throw();
    }

    [DllImport("libc")]
    private static extern int prctl(int option, nint a, nint b, nint c, nint d);

    [DllImport("libc")]
    private static extern nint syscall(long number, nint a, nint b, nint c);

    [DllImport("libc")]
    private static extern int pthread_sigmask(int how, ulong* set, ulong* before);

    [DllImport("libc")]
    private static extern int sigaction(int signal, SignalAction* action, SignalAction* before);
}
