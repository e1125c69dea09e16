/*
 * refuse ERRNO CALL[,CALL...] PROGRAM ARGUMENT...: runs PROGRAM under a seccomp filter that fails the system calls with these numbers with
 * ERRNO, as a sandbox does. The filter allows the execve that starts PROGRAM: it recognises a sixth argument, which the kernel ignores.
 *
 * refuse map BYTES PROGRAM ARGUMENT...: fails every mmap of more than BYTES with ENOMEM, as a kernel with a small address space does.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

extern char **environ;

#define MAGIC 0x736e6170
#define FIELD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define FIELD_OF(number) (offsetof(struct seccomp_data, args) + 8 * (number))

static struct sock_filter code[512];
static unsigned short length;

static void add(struct sock_filter one)
{
    if (length == sizeof code / sizeof *code) abort();
    code[length++] = one;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: refuse ERRNO CALL,... PROGRAM ARGUMENT... | refuse map BYTES PROGRAM ARGUMENT...\n");
        return 64;
    }
    add((struct sock_filter)FIELD(nr));
    if (strcmp(argv[1], "map") == 0) {
        unsigned long long most = strtoull(argv[2], NULL, 10);
        add((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 5));
        add((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, FIELD_OF(1) + 4));
        add((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (unsigned)(most >> 32), 2, 0));
        add((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, FIELD_OF(1)));
        add((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (unsigned)most, 0, 1));
        add((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOMEM));
    } else {
        unsigned error = (unsigned)atoi(argv[1]) & SECCOMP_RET_DATA;
        for (char *call = strtok(argv[2], ","); call; call = strtok(NULL, ",")) {
            unsigned number = (unsigned)atoi(call);
            if (number == SYS_execve) {
                add((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 4));
                add((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, FIELD_OF(5)));
                add((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MAGIC, 1, 0));
                add((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error));
                add((struct sock_filter)FIELD(nr));
            } else {
                add((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1));
                add((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error));
            }
        }
    }
    add((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    struct sock_fprog filter = { length, code };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
        perror("refuse");
        return 126;
    }
    syscall(SYS_execve, argv[3], argv + 3, environ, 0, 0, MAGIC);
    return 127;
}
