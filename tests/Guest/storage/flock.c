/* flock sh|ex PATH: takes the lock for a moment, as udev does with whole disks, and does not wait for it. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

int main(int argc, char **argv)
{
    if (argc != 3) return 64;
    int fd = open(argv[2], O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 || flock(fd, (strcmp(argv[1], "ex") ? LOCK_SH : LOCK_EX) | LOCK_NB) < 0) {
        perror(argv[2]);
        return 1;
    }
    return 0;
}
