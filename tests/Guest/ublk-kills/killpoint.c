/*
 * killpoint K DELAY PROGRAM ARGUMENT...: runs a server and sends it SIGKILL at its K-th system call. Counts the calls of all threads,
 * beginning with the one that opens /dev/ublk-control. With a DELAY, the call is executed, and the kill comes that many microseconds
 * later. A server that reports that it is ready (its first write to standard output) is killed then at the latest.
 *
 * Prints the number of counted calls on standard error. Exits with 137 if the server was killed, otherwise with the server's exit code.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <linux/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static int opens_control(pid_t thread, const struct ptrace_syscall_info *call)
{
    static const char path[] = "/dev/ublk-control";
    char found[sizeof path] = "";
    struct iovec here = {found, sizeof found}, there = {(void *)call->entry.args[1], sizeof found};
    return call->entry.nr == SYS_openat && process_vm_readv(thread, &here, 1, &there, 1, 0) == sizeof found && memcmp(found, path, sizeof path) == 0;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: killpoint K DELAY PROGRAM ARGUMENT...\n");
        return 64;
    }
    long k = atol(argv[1]), delay = atol(argv[2]), seen = 0;
    int counts = 0;
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        execv(argv[3], argv + 3);
        _exit(127);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFSTOPPED(status)
        || ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL) != 0
        || ptrace(PTRACE_SYSCALL, child, 0, 0) != 0) {
        perror("killpoint");
        return 126;
    }
    for (;;) {
        pid_t thread = waitpid(-1, &status, __WALL);
        if (thread < 0 && errno == EINTR) continue;
        if (thread < 0) {
            perror("killpoint: waitpid");
            return 126;
        }
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (thread != child) continue;
            fprintf(stderr, "%ld\n", seen);
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
        int signal = WSTOPSIG(status), kills = 0;
        if (signal == (SIGTRAP | 0x80)) {
            struct ptrace_syscall_info call;
            if (ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof call, &call) > 0 && call.op == PTRACE_SYSCALL_INFO_ENTRY) {
                counts |= opens_control(thread, &call);
                int ready = counts && call.entry.nr == SYS_write && call.entry.args[0] == STDOUT_FILENO;
                kills = (counts && ++seen == k) || ready;
                if (kills && (ready || delay == 0)) kill(child, SIGKILL);
            }
            signal = 0;
        } else if (signal == SIGTRAP && status >> 16 != 0) {
            signal = 0;
        } else if (signal == SIGSTOP && thread != child) {
            signal = 0; /* A new thread begins with it. */
        }
        ptrace(PTRACE_SYSCALL, thread, 0, signal);
        if (kills && delay > 0) {
            usleep(delay);
            kill(child, SIGKILL);
        }
    }
}
