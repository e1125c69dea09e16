/*
 * The program's first own code, before the .NET runtime starts. build.sh compiles it, src/NativeAot.props links it in front of the runtime's main().
 *
 * It keeps the arguments as the kernel passed them, so that file names stay bytes, and removes the variables that configure the runtime: the constants
 * in the binary are the ones that were tested, and a DOTNET_GCHeapHardLimit in a user's environment must not stop a merge.
 */
#include <string.h>
#include <unistd.h>

extern char **environ;

/* The runtime's main(), which the linker renames with --wrap=main. It returns -1 if the runtime cannot start, else the exit code of Program.Main. */
int __real_main(int argc, char **argv);
int __wrap_main(int argc, char **argv);

int snapuserd_argc(void);
const char *const *snapuserd_argv(void);
const char *const *snapuserd_environment(void);

static int argument_count;
static char **arguments;

int snapuserd_argc(void)
{
    return argument_count;
}

const char *const *snapuserd_argv(void)
{
    return (const char *const *)arguments;
}

const char *const *snapuserd_environment(void)
{
    return (const char *const *)environ;
}

static void drop_runtime_variables(void)
{
    char **kept = environ;
    for (char **variable = environ; *variable; variable++)
        if (strncmp(*variable, "DOTNET_", 7) != 0 && strncmp(*variable, "COMPlus_", 8) != 0) *kept++ = *variable;
    *kept = NULL;
}

int __wrap_main(int argc, char **argv)
{
    argument_count = argc;
    arguments = argv;
    if (environ) drop_runtime_variables();
    return __real_main(argc, argv);
}
