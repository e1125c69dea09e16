/*
 * killstop before|after SOCKET PROXY PROCESS: listens at PROXY and forwards every connection to SOCKET. When the first client requests
 * "stop", PROCESS gets SIGKILL: either before the request is forwarded, or after its reply, which is not passed back. The client's
 * connection ends in both cases. Runs until it is killed.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct sockaddr_un at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    return address;
}

static int killed;

static void kill_it(pid_t process, const char *moment)
{
    killed = 1;
    kill(process, SIGKILL);
    fprintf(stderr, "killed %s\n", moment);
}

static void pass(int client, const char *socket_path, int before, pid_t process)
{
    struct sockaddr_un address = at(socket_path);
    int server = socket(AF_UNIX, SOCK_STREAM, 0), stopping = 0;
    if (connect(server, (struct sockaddr *)&address, sizeof address) == 0) {
        struct pollfd both[] = {{client, POLLIN, 0}, {server, POLLIN, 0}};
        char bytes[4096];
        while (poll(both, 2, -1) >= 0) {
            int from = both[0].revents ? 0 : 1;
            ssize_t got = read(both[from].fd, bytes, sizeof bytes);
            if (got <= 0) break;
            int stop = from == 0 && !killed && memmem(bytes, got, "stop", 4);
            if (stop && before) {
                kill_it(process, "before");
                break;
            }
            stopping |= stop;
            if (from == 1 && stopping) {
                kill_it(process, "after");
                break;
            }
            if (send(both[1 - from].fd, bytes, got, MSG_NOSIGNAL) != got) break;
        }
    }
    close(server);
    close(client);
}

int main(int argc, char **argv)
{
    if (argc != 5) return 64;
    struct sockaddr_un address = at(argv[3]);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 8) < 0) {
        perror(argv[3]);
        return 1;
    }
    for (;;) {
        int client = accept(listener, NULL, NULL);
        if (client >= 0) pass(client, argv[2], strcmp(argv[1], "before") == 0, atoi(argv[4]));
    }
}
