/* What the .NET runtime takes for granted, and a sandbox may refuse. The linker lets these stand in for the C library's own (--wrap). */
#define _GNU_SOURCE
#include <sched.h>

int __real_sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set);
int __wrap_sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set);

/* The runtime divides by the number of processors, which is 0 for it where a sandbox refuses this call, or the getpid before it. */
int __wrap_sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set)
{
    if (__real_sched_getaffinity(pid, size, set) == 0 || __real_sched_getaffinity(0, size, set) == 0) return 0;
    CPU_ZERO_S(size, set);
    CPU_SET_S(0, size, set);
    return 0;
}
