/*
 * The program's first own code, before the .NET runtime starts. build.sh compiles it; src/NativeAot.props links it in front of the runtime's main().
 * It keeps the arguments as the kernel passed them, so that file names stay bytes. It removes the variables that configure the runtime: the constants in
 * the binary are the ones that were tested. And where the runtime cannot start or go on (it returns -1, aborts or faults), the program ends with a
 * sentence and an exit code of the table, not with 255 or a signal.
 * Later it takes the signals that ask for an end: the runtime would make a pipe, a thread that reads it, and one more thread for every
 * signal that comes, and aborts where a system has no thread left.
 */
#define _GNU_SOURCE
#include <alloca.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

enum { INTERNAL = 70, OUT_OF_RESOURCES = 71 };

/* In bytes. The runtime maps the 64 MiB of src/Cli/Cli.csproj, 4 MiB for types, two stacks and some tables; the rest is for the first error's report. */
enum { ADDRESS_SPACE = 80 << 20, THREAD_STACK = 1 << 20, MAIN_STACK = 512 << 10 };

#define CANNOT_START "the .NET runtime cannot start: "

extern char **environ;

/* The runtime's main(), which the linker renames with --wrap=main. Returns -1 if the runtime cannot start, else the exit code of Program.Main. */
int __real_main(int argc, char **argv);
int __real_sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set);
int __wrap_sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set);
int __wrap_main(int argc, char **argv);
int snapuserd_argc(void);
const char *const *snapuserd_argv(void);
const char *const *snapuserd_environment(void);
int snapuserd_listen(int bell);
void snapuserd_forward(int child);
const atomic_int *snapuserd_stopped(void);

static int argument_count;
static char **arguments;
static volatile sig_atomic_t managed_code_runs;
static atomic_int stopped, handlers_running, bell_to_ring = -1, child_to_end;
static pid_t own_process;

int snapuserd_argc(void)
{
    managed_code_runs = 1; /* Program.Main asks first of all. */
    return argument_count;
}

const char *const *snapuserd_argv(void) { return (const char *const *)arguments; }
const char *const *snapuserd_environment(void) { return (const char *const *)environ; }
static void *nothing(void *argument) { return argument; }

static void print(int fd, const char *before, const char *sentence, const char *after)
{
    char line[512] = "";
    strncat(strncat(strncat(line, before, 100), sentence, 300), after, 100);
    if (write(fd, line, strlen(line)) < 0) return; /* Nobody can be told. */
}

/* Prints the sentence on standard error, and with --json the error object on standard output. Safe in a signal handler. */
static int report(int code, const char *sentence)
{
    int json = 0;
    for (int i = 1; i < argument_count; i++) json |= strcmp(arguments[i], "--json") == 0;
    const char *before = code == INTERNAL ? "{\"event\":\"error\",\"exit_code\":70,\"message\":\"" : "{\"event\":\"error\",\"exit_code\":71,\"message\":\"";
    if (json) print(1, before, sentence, "\"}\n");
    print(2, "snapuserd: ", sentence, "\n");
    return code;
}

static void on_fatal_signal(int number)
{
    if (managed_code_runs)
        _exit(report(INTERNAL, number == SIGSYS ? "a sandbox forbids a system call (SIGSYS)"
            : "the .NET runtime stopped (SIGABRT or a fault): a defect, or no memory is left; a merge goes on when the same command is run again"));
    _exit(report(OUT_OF_RESOURCES, CANNOT_START "no memory or address space, or a sandbox forbids a system call; try to raise the limit (ulimit -v)"));
}

static void on_stop(int number)
{
    const int error = errno;
    const uint64_t one = 1;
    if (getpid() != own_process) { /* A child between fork and exec: it ends, and its parent sees that. */
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    atomic_fetch_add(&handlers_running, 1);
    atomic_store(&stopped, 1);
    const int bell = atomic_load(&bell_to_ring), child = atomic_load(&child_to_end);
    if (bell >= 0 && write(bell, &one, sizeof one) < 0) errno = error; /* It was tried when it was made. */
    if (child > 0) kill(child, SIGTERM);
    atomic_fetch_sub(&handlers_running, 1);
    errno = error;
}

/* What a handler on another thread uses is not to be closed, or to become somebody else's, before that handler has ended. */
static void wait_for_handlers(void)
{
    while (atomic_load(&handlers_running) != 0) sched_yield();
}

/*
 * From now on SIGTERM, SIGINT and SIGHUP set what snapuserd_stopped() points to, and ring this eventfd unless it is -1. Signals that were
 * ignored at the start stay ignored. Returns 0 or a negative errno.
 */
int snapuserd_listen(int bell)
{
    static const int stops[] = { SIGTERM, SIGINT, SIGHUP };
    const struct sigaction action = { .sa_handler = on_stop, .sa_flags = SA_RESTART };
    struct sigaction before;
    own_process = getpid();
    atomic_store(&bell_to_ring, bell);
    wait_for_handlers();
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++)
        if (sigaction(stops[i], NULL, &before) != 0 ||
            (before.sa_handler != SIG_IGN && sigaction(stops[i], &action, NULL) != 0)) return -errno;
    return 0;
}

/* Those signals also end this child, which has not been collected; none from now on if it is 0. */
void snapuserd_forward(int child)
{
    atomic_store(&child_to_end, child);
    if (child > 0 && atomic_load(&stopped)) kill(child, SIGTERM);
    if (child <= 0) wait_for_handlers();
}

const atomic_int *snapuserd_stopped(void) { return &stopped; }

/* The runtime divides by the number of processors, which is 0 for it where a sandbox refuses this call, or the getpid before it. */
int __wrap_sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set)
{
    if (__real_sched_getaffinity(pid, size, set) == 0 || __real_sched_getaffinity(0, size, set) == 0) return 0;
    CPU_ZERO_S(size, set);
    CPU_SET_S(0, size, set);
    return 0;
}

int __wrap_main(int argc, char **argv)
{
    static const int fatal[] = { SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGSYS };
    const struct sigaction action = { .sa_handler = on_fatal_signal };
    struct rlimit stack;
    pthread_attr_t attributes;
    pthread_t thread;
    char **kept = environ;
    argument_count = argc;
    arguments = argv;
    for (char **variable = environ; variable && *variable; variable++)
        if (strncmp(*variable, "DOTNET_", 7) != 0 && strncmp(*variable, "COMPlus_", 8) != 0) *kept++ = *variable;
    if (kept) *kept = NULL;
    for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++) sigaction(fatal[i], &action, NULL);
    void *room = mmap(NULL, ADDRESS_SPACE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) return report(OUT_OF_RESOURCES, CANNOT_START "80 MiB of address space cannot be reserved; try to raise the limit (ulimit -v)");
    munmap(room, ADDRESS_SPACE);
    /* Small stacks and one malloc arena, whatever the limits are; and the main stack grows now, because later it cannot say that it could not. */
    mallopt(M_ARENA_MAX, 1);
    if (pthread_attr_init(&attributes) == 0 && pthread_attr_setstacksize(&attributes, THREAD_STACK) == 0) pthread_setattr_default_np(&attributes);
    if (getrlimit(RLIMIT_STACK, &stack) == 0 && stack.rlim_cur >= 2 * MAIN_STACK) *(volatile char *)alloca(MAIN_STACK) = 0;
    int result = __real_main(argc, argv);
    if (result != -1) return result;
    return report(OUT_OF_RESOURCES, pthread_create(&thread, NULL, nothing, NULL) == 0 ? CANNOT_START "no memory is left, or a sandbox forbids a system call"
        : CANNOT_START "no thread can be created; try to raise the limits (ulimit -u, pids.max of the cgroup), or allow clone in the sandbox");
}
