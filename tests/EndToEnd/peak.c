/*
 * peak PROGRAM ARGUMENT...: runs PROGRAM, and prints its peak of resident memory in KiB, from the rusage of wait4, as the last line on
 * standard error. The exit code is that of PROGRAM, or 128 plus the number of the signal. A process inherits the peak of the process that
 * forked it; this one is small.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: peak PROGRAM ARGUMENT...\n");
        return 64;
    }
    pid_t child = fork();
    if (child == 0) {
        execv(argv[1], argv + 1);
        _exit(127);
    }
    int status;
    struct rusage usage;
    if (child < 0 || wait4(child, &status, 0, &usage) != child) {
        perror("peak");
        return 126;
    }
    fprintf(stderr, "%ld\n", usage.ru_maxrss);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
