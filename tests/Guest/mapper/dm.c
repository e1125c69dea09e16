/*
 * A tool for mapped devices that shares no code with the program, for guests without dmsetup:
 *
 *   dm table NAME        prints "SECTORS linear MAJOR:MINOR 0 ro|rw" of the active table, and " pending" if there is an inactive one
 *   dm create NAME       creates a device without a table, with the identifier of another program
 *   dm make NAME         creates a device with the table of standard input, whose lines are "START LENGTH TYPE ARGUMENTS" in
 *                        sectors; prints its path, /dev/dm-N
 *   dm remove NAME       removes a device
 *   dm at PROCESS COMMAND
 *                        waits until the main thread of a running process is about to load a table, stops it there and runs COMMAND
 *                        in a shell. Exits with the exit code of COMMAND; 1 if the process ended first
 *   dm kill K PROGRAM ARGUMENT...
 *                        runs PROGRAM and sends it SIGKILL around the calls of its main thread to the device mapper: K = 2n - 1
 *                        is before the n-th of them, K = 2n after it. Exits with 137 if it was killed, otherwise with the
 *                        program's exit code
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <linux/ptrace.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static union {
    struct dm_ioctl head;
    char bytes[4096];
} message;

static int control(unsigned long command, const char *name, unsigned flags)
{
    int fd = open("/dev/mapper/control", O_RDWR);
    message.head.version[0] = 4;
    message.head.data_size = sizeof message;
    message.head.data_start = sizeof message.head;
    message.head.flags = flags;
    snprintf(message.head.name, sizeof message.head.name, "%s", name);
    if (fd < 0 || ioctl(fd, command, &message) < 0) {
        perror(name);
        return 1;
    }
    return 0;
}

static int table(const char *name)
{
    if (control(DM_TABLE_STATUS, name, DM_STATUS_TABLE_FLAG)) return 1;
    const char *pending = message.head.flags & DM_INACTIVE_PRESENT_FLAG ? " pending" : "";
    if (!(message.head.flags & DM_ACTIVE_PRESENT_FLAG)) {
        printf("none%s\n", pending);
        return 0;
    }
    struct dm_target_spec *line = (void *)(message.bytes + message.head.data_start);
    printf("%llu %s %s %s%s\n", (unsigned long long)line->length, line->target_type, (char *)(line + 1), message.head.flags & DM_READONLY_FLAG ? "ro" : "rw", pending);
    return 0;
}

static int make(const char *name)
{
    if (control(DM_DEV_CREATE, name, 0)) return 1;
    printf("/dev/dm-%u\n", minor(message.head.dev));
    memset(&message, 0, sizeof message);
    char type[DM_MAX_TYPE_NAME], arguments[512];
    unsigned long long start, length;
    char *at = message.bytes + sizeof message.head;
    int lines = 0;
    while (scanf("%llu %llu %15s %511[^\n]", &start, &length, type, arguments) == 4) {
        struct dm_target_spec *line = (void *)at;
        size_t bytes = (sizeof *line + strlen(arguments) + 1 + 7) & ~(size_t)7;
        if (at + bytes > message.bytes + sizeof message) return 1;
        line->sector_start = start;
        line->length = length;
        line->next = (unsigned)bytes;
        strcpy(line->target_type, type);
        strcpy((char *)(line + 1), arguments);
        at += bytes;
        lines++;
    }
    message.head.target_count = (unsigned)lines;
    int failed = control(DM_TABLE_LOAD, name, 0);
    if (!failed) {
        memset(&message, 0, sizeof message);
        failed = control(DM_DEV_SUSPEND, name, 0);
    }
    if (failed) {
        memset(&message, 0, sizeof message);
        control(DM_DEV_REMOVE, name, 0);
    }
    return failed;
}

static int run_at(pid_t process, const char *command)
{
    int status;
    if (ptrace(PTRACE_SEIZE, process, 0, PTRACE_O_TRACESYSGOOD) < 0 || ptrace(PTRACE_INTERRUPT, process, 0, 0) < 0) {
        perror("dm at");
        return 1;
    }
    while (waitpid(process, &status, 0) == process && WIFSTOPPED(status)) {
        struct ptrace_syscall_info call;
        int signal = WSTOPSIG(status);
        // Do not deliver a signal after a stop at a system call or by the interruption above.
        if (signal == (SIGTRAP | 0x80) || status >> 16) signal = 0;
        if (WSTOPSIG(status) == (SIGTRAP | 0x80) && ptrace(PTRACE_GET_SYSCALL_INFO, process, sizeof call, &call) > 0
            && call.op == PTRACE_SYSCALL_INFO_ENTRY && call.entry.nr == SYS_ioctl
            && (unsigned)call.entry.args[1] == (unsigned)DM_TABLE_LOAD) {
            int result = system(command);
            return WIFEXITED(result) ? WEXITSTATUS(result) : 1;
        }
        ptrace(PTRACE_SYSCALL, process, 0, signal);
    }
    fprintf(stderr, "dm at: the process ended before it loaded a table\n");
    return 1;
}

static int kill_at(long k, char **program)
{
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        execvp(program[0], program);
        _exit(127);
    }
    int status, counts = 0;
    long seen = 0;
    waitpid(child, &status, 0);
    ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
    for (int signal = 0; ptrace(PTRACE_SYSCALL, child, 0, signal) == 0;) {
        if (waitpid(child, &status, 0) < 0) return 1;
        if (WIFEXITED(status)) return WEXITSTATUS(status);
        if (WIFSIGNALED(status)) return 128 + WTERMSIG(status);
        signal = WSTOPSIG(status) == (SIGTRAP | 0x80) || WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
        if (WSTOPSIG(status) != (SIGTRAP | 0x80)) continue;
        struct ptrace_syscall_info call;
        if (ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof call, &call) < 0) continue;
        if (call.op == PTRACE_SYSCALL_INFO_ENTRY) counts = call.entry.nr == SYS_ioctl && ((call.entry.args[1] >> 8) & 0xff) == DM_IOCTL;
        if (counts && ++seen == k) kill(child, SIGKILL);
    }
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
    if (argc > 3 && !strcmp(argv[1], "kill")) return kill_at(atol(argv[2]), argv + 3);
    if (argc == 4 && !strcmp(argv[1], "at")) return run_at(atoi(argv[2]), argv[3]);
    if (argc == 3 && !strcmp(argv[1], "make")) return make(argv[2]);
    if (argc == 3 && !strcmp(argv[1], "table")) return table(argv[2]);
    if (argc == 3 && !strcmp(argv[1], "remove")) return control(DM_DEV_REMOVE, argv[2], 0);
    if (argc == 3 && !strcmp(argv[1], "create")) {
        strcpy(message.head.uuid, "TEST-of-another");
        return control(DM_DEV_CREATE, argv[2], 0);
    }
    return 64;
}
