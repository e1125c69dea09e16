/*
 * killat K[,PID...] PROGRAM ARGUMENT...: runs PROGRAM and sends it SIGKILL at the entry of the K-th system call of its main thread, counted
 * from the first call behind execve on; the call is not made. The main thread is the one that makes every call which changes anything: the others
 * decompress. Opening a file is not counted: a merge looks at up to 512 names of loop devices, which changes nothing, so that a kill there is a kill
 * at the next call. Nor is waiting for another thread (futex, sched_yield, and the read of its wake-up), which comes as often as chance will have it. With PIDs these are killed instead, and the program goes on without
 * them. With K = 0 nothing is killed, and the number of calls is printed on standard error.
 *
 * Exits with 137 if the program was killed, else as the program did. (strace counts each kind of call for itself and in each thread for
 * itself, so that no series of its "when=" goes through all calls.)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
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

int main(int argc, char **argv)
{
    char *rest = "";
    long k = argc > 2 ? strtol(argv[1], &rest, 10) : -1, seen = 0;
    if (k < 0 || (*rest != 0 && *rest != ',')) {
        fprintf(stderr, "usage: killat K[,PID...] PROGRAM ARGUMENT...\n");
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
            if (running && thread == child && ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info) > 0 && info.op == PTRACE_SYSCALL_INFO_ENTRY
                && info.entry.nr != SYS_openat && info.entry.nr != SYS_futex && info.entry.nr != SYS_sched_yield && info.entry.nr != SYS_read && ++seen == k)
                kill_at_last(child, rest);
            signal = 0;
        } else if (signal == SIGTRAP && status >> 16 != 0) {
            if (status >> 16 == PTRACE_EVENT_EXEC) running = 1;
            signal = 0;
        } else if (signal == SIGSTOP && thread != child) {
            signal = 0; /* A new thread begins with it. */
        }
        ptrace(PTRACE_SYSCALL, thread, 0, signal);
    }
}
