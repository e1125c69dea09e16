/*
 * A judge of mapped devices that shares no code with the program, for guests without dmsetup:
 *
 *   dm table NAME        prints "SECTORS linear MAJOR:MINOR 0 ro|rw" of the active table, and " pending" if another one waits
 *   dm create NAME       a device without a table, whose identifier is somebody else's
 *   dm remove NAME
 *   dm kill K PROGRAM ARGUMENT...
 *                        runs PROGRAM and sends it SIGKILL around the calls that its main thread makes to the device mapper: K = 2n - 1 is before the n-th of them, K = 2n
 *                        behind it. Exits with 137 if it was killed, else as the program did.
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
    if (argc == 3 && !strcmp(argv[1], "table")) return table(argv[2]);
    if (argc == 3 && !strcmp(argv[1], "remove")) return control(DM_DEV_REMOVE, argv[2], 0);
    if (argc == 3 && !strcmp(argv[1], "create")) {
        strcpy(message.head.uuid, "TEST-of-another");
        return control(DM_DEV_CREATE, argv[2], 0);
    }
    return 64;
}
