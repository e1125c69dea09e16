/*
 * Handles the signals that request an end: SIGTERM, SIGINT and SIGHUP. The .NET runtime would make a pipe, a thread that reads it, and
 * another thread for every signal, and it aborts if the system has no thread left.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <unistd.h>

int snapuserd_listen(int event);
void snapuserd_forward(int child);
const atomic_int *snapuserd_stopped(void);

static atomic_int stopped, handlers_running, event_to_signal = -1, child_to_end;
static pid_t own_process;

static void on_stop(int number)
{
    const int error = errno;
    const uint64_t one = 1;
    if (getpid() != own_process) { /* A child between fork and exec: the signal ends it, and its parent notices. */
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    atomic_fetch_add(&handlers_running, 1);
    atomic_store(&stopped, 1);
    const int event = atomic_load(&event_to_signal), child = atomic_load(&child_to_end);
    if (event >= 0 && write(event, &one, sizeof one) < 0) errno = error; /* Cannot fail: WakeUp tested the eventfd. */
    if (child > 0) kill(child, SIGTERM);
    atomic_fetch_sub(&handlers_running, 1);
    errno = error;
}

/* The caller must not close or reuse an object that a handler on another thread uses until that handler has ended. */
static void wait_for_handlers(void)
{
    while (atomic_load(&handlers_running) != 0) sched_yield();
}

/*
 * From now on SIGTERM, SIGINT and SIGHUP set the flag that snapuserd_stopped() points to, and add 1 to this eventfd unless it is -1.
 * Signals that were ignored at the start stay ignored. Returns 0 or a negative errno.
 */
int snapuserd_listen(int event)
{
    static const int stops[] = { SIGTERM, SIGINT, SIGHUP };
    const struct sigaction action = { .sa_handler = on_stop, .sa_flags = SA_RESTART };
    struct sigaction before;
    own_process = getpid();
    atomic_store(&event_to_signal, event);
    wait_for_handlers();
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++)
        if (sigaction(stops[i], NULL, &before) != 0 ||
            (before.sa_handler != SIG_IGN && sigaction(stops[i], &action, NULL) != 0)) return -errno;
    return 0;
}

/* From now on those signals also send SIGTERM to this child, which must not have been reaped yet; 0: to none. */
void snapuserd_forward(int child)
{
    atomic_store(&child_to_end, child);
    if (child > 0 && atomic_load(&stopped)) kill(child, SIGTERM);
    if (child <= 0) wait_for_handlers();
}

const atomic_int *snapuserd_stopped(void) { return &stopped; }
