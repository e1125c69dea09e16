/*
 * killat [all:|changes:|all:changes:|signal=N:|hold:]K[@CALL][,PID...] PROGRAM ARGUMENT...: runs PROGRAM and sends it SIGKILL at the
 * entry of the K-th system call of its main thread, counted from the first call after execve; that call is not made. The main thread makes
 * every call that changes anything; the other threads decompress.
 *
 * Not counted: opening a file, and querying the kernel about block devices. Neither changes anything, so a kill there equals a kill at the
 * next call. Also not counted: waiting for another thread (futex, sched_yield, and the read of its wake-up), whose number varies by chance.
 * So the K-th call is the same one in every run. With PIDs, killat kills those processes instead, and the program continues without them.
 * With K = 0 it kills nothing and prints the number of calls on standard error.
 *
 * With "all:" the calls of all threads are counted, of any kind and in order of arrival, except the queries about block devices. Which call
 * is the K-th then depends on thread scheduling. With "@CALL" only calls of the main thread with that number are counted.
 *
 * With "changes:" only those calls of the main thread are counted that can change a file or its name, or make a change durable; with
 * "all:changes:" those of all threads.
 *
 * With "signal=N:" the main thread gets signal N instead: its handler runs when that call ends, before the program sees the result. With
 * "hold:" the program stops at that call, killat writes "held" to standard error, and the program continues when standard input ends.
 *
 * Exits with 137 if the program was killed, else with the program's exit code. (strace counts each kind of call and each thread separately,
 * so no series of its "when=" goes through all calls.)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <linux/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void kill_at_last(pid_t child, const char *pids)
{
    if (*pids == 0) kill(child, SIGKILL);
    while (*pids == ',') {
        char *end;
        pid_t pid = strtol(pids + 1, &end, 10);
        if (pid > 1) kill(pid, SIGKILL);
        pids = end;
    }
}

/*
 * The program opens paths relative to a folder's descriptor to query the kernel about block devices (/sys, the nodes of devtmpfs) and to
 * reach its lock files. How many such calls it makes depends on the devices that the machine has at that moment, and none of them changes
 * anything.
 */
static char looked_up[4096];
static pid_t looks_up;

static int is_lookup(pid_t thread, const struct ptrace_syscall_info *call)
{
    long nr = call->entry.nr, fd = (int)call->entry.args[0];
    int relative = fd != AT_FDCWD && (nr == SYS_openat || nr == SYS_mkdirat || nr == SYS_unlinkat);
    int about = fd >= 0 && fd < (long)sizeof looked_up && looked_up[fd]
        && (nr == SYS_read || nr == SYS_close || nr == SYS_ioctl || nr == SYS_statx || nr == SYS_fcntl || nr == SYS_getdents64 || nr == SYS_flock);
    if (nr == SYS_openat && relative) looks_up = thread;
    if (nr == SYS_close && about) looked_up[fd] = 0;
    return relative || about;
}

static void note_lookup(pid_t thread, const struct ptrace_syscall_info *call)
{
    if (thread != looks_up) return;
    looks_up = 0;
    if (call->exit.rval >= 0 && call->exit.rval < (long)sizeof looked_up) looked_up[call->exit.rval] = 1;
}

static void hold(void)
{
    char byte;
    fprintf(stderr, "held\n");
    while (read(STDIN_FILENO, &byte, 1) > 0 || errno == EINTR) errno = 0;
}

static int repeats_in_every_run(const struct ptrace_syscall_info *call)
{
    long nr = call->entry.nr;
    return nr != SYS_openat && nr != SYS_futex && nr != SYS_sched_yield && nr != SYS_read;
}

static int can_change(const struct ptrace_syscall_info *call)
{
    long nr = call->entry.nr;
    /* Opening a file that may be new gives it its name. */
    if (nr == SYS_openat) return (call->entry.args[2] & O_CREAT) != 0;
    static const long calls[] = {
        SYS_write, SYS_pwrite64, SYS_pwritev, SYS_pwritev2, SYS_fsync, SYS_fdatasync, SYS_sync_file_range, SYS_fallocate, SYS_ftruncate,
        SYS_renameat2, SYS_linkat, SYS_unlinkat, SYS_io_uring_enter, SYS_syncfs,
#ifdef SYS_rename
        SYS_rename, SYS_unlink,
#endif
    };
    for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++)
        if (nr == calls[i]) return 1;
    return 0;
}

int main(int argc, char **argv)
{
    char *rest = argc > 2 ? argv[1] : "";
    int all = strncmp(rest, "all:", 4) == 0, holds = strncmp(rest, "hold:", 5) == 0, sends = 0;
    if (all) rest += 4;
    int changes = strncmp(rest, "changes:", 8) == 0;
    if (changes) rest += 8;
    if (holds) rest += 5;
    if (strncmp(rest, "signal=", 7) == 0) {
        sends = strtol(rest + 7, &rest, 10);
        if (*rest == ':') rest++;
    }
    long k = *rest >= '0' && *rest <= '9' ? strtol(rest, &rest, 10) : -1, only = -1, seen = 0;
    if (*rest == '@') only = strtol(rest + 1, &rest, 10);
    if (k < 0 || (*rest != 0 && *rest != ',')) {
        fprintf(stderr, "usage: killat [all:|changes:|all:changes:|signal=N:|hold:]K[@CALL][,PID...] PROGRAM ARGUMENT...\n");
        return 64;
    }
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        execv(argv[2], argv + 2);
        _exit(127);
    }
    int status, running = 0;
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFSTOPPED(status)
        || ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL) != 0
        || ptrace(PTRACE_SYSCALL, child, 0, 0) != 0) {
        perror("killat");
        return 126;
    }
    for (;;) {
        pid_t thread = waitpid(-1, &status, __WALL);
        if (thread < 0 && errno == EINTR) continue;
        if (thread < 0) {
            perror("killat: waitpid");
            return 126;
        }
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (thread != child) continue;
            if (k == 0) fprintf(stderr, "%ld\n", seen);
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
        int signal = WSTOPSIG(status);
        if (signal == (SIGTRAP | 0x80)) {
            struct ptrace_syscall_info info;
            int known = running && ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info) > 0;
            if (known && info.op == PTRACE_SYSCALL_INFO_EXIT) note_lookup(thread, &info);
            if (known && info.op == PTRACE_SYSCALL_INFO_ENTRY) {
                int counts = !is_lookup(thread, &info) && (all || thread == child);
                if (changes) counts = counts && can_change(&info);
                else if (!all) counts = counts && (only < 0 ? repeats_in_every_run(&info) : (long)info.entry.nr == only);
                if (counts && ++seen == k) {
                    if (sends > 0) {
                        syscall(SYS_tgkill, child, child, sends);
                    } else if (holds) hold();
                    else kill_at_last(child, rest);
                }
            }
            signal = 0;
        } else if (signal == SIGTRAP && status >> 16 != 0) {
            if (status >> 16 == PTRACE_EVENT_EXEC) running = 1;
            signal = 0;
        } else if (signal == SIGSTOP && thread != child) {
            signal = 0; /* A new thread starts with this signal. */
        }
        /* Threads whose calls are not counted continue: one that loops in sched_yield would keep this loop from serving the others. */
        ptrace(all || thread == child ? PTRACE_SYSCALL : PTRACE_CONT, thread, 0, signal);
    }
}
