/*
 * peak PROGRAM ARGUMENT...: runs PROGRAM, and says in a last line on standard error how many KiB it had in memory at its peak, by the rusage of wait4.
 * Exits as the program did, or with 128 and the number of the signal. A process inherits the peak of the one it was forked from: this one is small.
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
