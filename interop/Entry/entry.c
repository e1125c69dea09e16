/*
 * The program's first own code, which runs before the .NET runtime. build.sh compiles it; src/NativeAot.props links it before the runtime's
 * main(). It keeps the arguments as the kernel passed them, so that file names stay bytes. It removes the variables that configure the
 * runtime: only the settings in the binary were tested. If the runtime cannot start or continue (it returns -1, aborts or faults), the
 * program ends with a message and an exit code of docs/exit-codes.md, not with 255 or a signal.
 */
#define _GNU_SOURCE
#include <alloca.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

enum { INTERNAL = 70, OUT_OF_RESOURCES = 71 };

/*
 * In bytes. The runtime maps the 111 MiB of src/Collector.props, 4 MiB for types, two stacks and some tables; the rest is for the first
 * error's report.
 */
enum { ADDRESS_SPACE = 127 << 20, THREAD_STACK = 1 << 20, MAIN_STACK = 512 << 10 };

#define CANNOT_START "the .NET runtime cannot start: "

extern char **environ;

/*
 * The runtime's main(), which the linker renames with --wrap=main. Returns -1 if the runtime cannot start, else the exit code of
 * Program.Main.
 */
int __real_main(int argc, char **argv);
int __wrap_main(int argc, char **argv);
int snapuserd_argc(void);
const char *const *snapuserd_argv(void);
const char *const *snapuserd_environment(void);

static int argument_count;
static char **arguments;
static volatile sig_atomic_t managed_code_runs;

int snapuserd_argc(void)
{
    managed_code_runs = 1; /* Program.Main calls this first. */
    return argument_count;
}

const char *const *snapuserd_argv(void) { return (const char *const *)arguments; }
const char *const *snapuserd_environment(void) { return (const char *const *)environ; }
static void *nothing(void *argument) { return argument; }

static void print(int fd, const char *before, const char *sentence, const char *after)
{
    char line[512] = "";
    strncat(strncat(strncat(line, before, 100), sentence, 300), after, 100);
    if (write(fd, line, strlen(line)) < 0) return; /* There is no place to report this. */
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
            : "the .NET runtime stopped (SIGABRT or a fault): a defect, or no memory is left; run the same command again to continue a merge"));
    _exit(report(OUT_OF_RESOURCES, CANNOT_START "no memory or address space, or a sandbox forbids a system call; try to raise the limit (ulimit -v)"));
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
    void *reserved = mmap(NULL, ADDRESS_SPACE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) return report(OUT_OF_RESOURCES, CANNOT_START "127 MiB of address space cannot be reserved; try to raise the limit (ulimit -v)");
    munmap(reserved, ADDRESS_SPACE);
    /* Small stacks and one malloc arena, whatever the limits are. The main stack grows now, because a later failure cannot be reported. */
    mallopt(M_ARENA_MAX, 1);
    if (pthread_attr_init(&attributes) == 0 && pthread_attr_setstacksize(&attributes, THREAD_STACK) == 0) pthread_setattr_default_np(&attributes);
    if (getrlimit(RLIMIT_STACK, &stack) == 0 && stack.rlim_cur >= 2 * MAIN_STACK) *(volatile char *)alloca(MAIN_STACK) = 0;
    int result = __real_main(argc, argv);
    if (result != -1) return result;
    return report(OUT_OF_RESOURCES, pthread_create(&thread, NULL, nothing, NULL) == 0 ? CANNOT_START "no memory is left, or a sandbox forbids a system call"
        : CANNOT_START "no thread can be created; try to raise the limits (ulimit -u, pids.max of the cgroup), or allow clone in the sandbox");
}
