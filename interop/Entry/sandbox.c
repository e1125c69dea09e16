/* Calls that the .NET runtime relies on, and a sandbox may refuse. The linker replaces the C library's own by these (--wrap). */
#define _GNU_SOURCE
#include <sched.h>

int __real_sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set);
int __wrap_sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set);

/* The runtime divides by the number of processors, which it takes as 0 if a sandbox refuses this call, or the getpid before it. */
int __wrap_sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set)
{
    if (__real_sched_getaffinity(pid, size, set) == 0 || __real_sched_getaffinity(0, size, set) == 0) return 0;
    CPU_ZERO_S(size, set);
    CPU_SET_S(0, size, set);
    return 0;
}
