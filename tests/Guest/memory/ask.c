/* ask SOCKET MESSAGE...: sends each message to the daemon (docs/daemon.md §3) on a connection of its own, and prints each reply. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    for (int i = 2; i < argc; i++) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        char answer[512];
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
        if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 || write(fd, argv[i], strlen(argv[i])) < 0) {
            perror(argv[1]);
            return 1;
        }
        ssize_t length = read(fd, answer, sizeof answer);
        printf("%.*s\n", length < 0 ? 0 : (int)length, answer);
        close(fd);
    }
    return 0;
}
