/*
 * A file system with missing features: it passes every operation through to a folder, except chosen ones, which fail or return false
 * results.
 *
 *   lackingfs FOLDER MOUNTPOINT [RULE ...] -- PROGRAM [ARGUMENT ...]
 *
 * Mounts it in a mount namespace of its own, runs PROGRAM, and ends with its exit code (128 and the signal, if one ended it). A RULE is
 *   OPERATION=ERRNO      every call fails with this error
 *   OPERATION=ERRNO@N    only the N-th call does, counted from 1;  OPERATION=ERRNO+N  the N-th and all after it
 * with the operations of the table below, and
 *   read=short, write=short    a call moves at most 4096 bytes
 *   read=odd, write=odd        a call moves at most 1000 bytes
 *   lseek=hole                 there is no data at all;   lseek=data     there are no holes
 *   lseek=first                SEEK_DATA and SEEK_HOLE return 0, which is before the requested start
 *   lseek=beyond               they return an offset beyond the end
 *   lseek=turn                 calls alternate: a true result, then "no data"
 *   statfs=none                all counts are 0;          statfs=full    nothing is free
 *   stat=dense                 files have no st_blocks and no st_blksize
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 31
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <fuse_lowlevel.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

enum op { READ, WRITE, OPEN, DIRECT, CREATE, FSYNC, FSYNCDIR, OPENDIR, FALLOCATE, LSEEK, FTRUNCATE, CHOWN, CHMOD, RENAME, UNLINK, FLOCK, STATFS, STAT, OPS };
static const char *const names[OPS] = {"read", "write", "open", "direct", "create", "fsync", "fsyncdir", "opendir", "fallocate", "lseek",
                                       "ftruncate", "chown", "chmod", "rename", "unlink", "flock", "statfs", "stat"};
static struct { int error, only, from, calls; const char *word; } rules[OPS];
static char root[4096];

/* 0, or the negative errno with which this call of OP must fail. */
static int lacks(enum op op)
{
    int call = ++rules[op].calls;
    if (!rules[op].error || (rules[op].only && call != rules[op].only) || call < rules[op].from) return 0;
    return -rules[op].error;
}

static int is(enum op op, const char *word) { return rules[op].word && !strcmp(rules[op].word, word); }

static const char *at(const char *path)
{
    static char full[8192];
    snprintf(full, sizeof full, "%s%s", root, path);
    return full;
}

static int done(int result) { return result < 0 ? -errno : result; }

static int do_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
    int e = lacks(STAT);
    if (e) return e;
    int result = done(fi ? fstat((int)fi->fh, st) : lstat(at(path), st));
    if (is(STAT, "dense")) st->st_blocks = 0, st->st_blksize = 0;
    return result;
}

static int do_open(const char *path, struct fuse_file_info *fi)
{
    int e = lacks(OPEN);
    if (!e && (fi->flags & O_DIRECT)) e = lacks(DIRECT);
    if (e) return e;
    int fd = open(at(path), fi->flags & ~(O_DIRECT | O_APPEND));
    fi->fh = (uint64_t)fd;
    fi->direct_io = 1;
    return fd < 0 ? -errno : 0;
}

static int do_create(const char *path, mode_t mode, struct fuse_file_info *fi)
{
    int e = lacks(CREATE);
    if (e) return e;
    int fd = open(at(path), fi->flags & ~O_DIRECT, mode);
    fi->fh = (uint64_t)fd;
    fi->direct_io = 1;
    return fd < 0 ? -errno : 0;
}

static size_t cut(enum op op, size_t size)
{
    size_t most = is(op, "short") ? 4096 : is(op, "odd") ? 1000 : size;
    return size < most ? size : most;
}

static int do_read(const char *path, char *to, size_t size, off_t offset, struct fuse_file_info *fi)
{
    (void)path;
    int e = lacks(READ);
    return e ? e : done((int)pread((int)fi->fh, to, cut(READ, size), offset));
}

static int do_write(const char *path, const char *from, size_t size, off_t offset, struct fuse_file_info *fi)
{
    (void)path;
    int e = lacks(WRITE);
    return e ? e : done((int)pwrite((int)fi->fh, from, cut(WRITE, size), offset));
}

static off_t do_lseek(const char *path, off_t offset, int whence, struct fuse_file_info *fi)
{
    (void)path;
    int e = lacks(LSEEK);
    if (e) return e;
    struct stat st;
    fstat((int)fi->fh, &st);
    if (is(LSEEK, "hole") || (is(LSEEK, "turn") && rules[LSEEK].calls % 2 == 0)) return whence == SEEK_DATA ? -ENXIO : offset;
    if (is(LSEEK, "data")) return whence == SEEK_DATA ? offset : st.st_size;
    if (is(LSEEK, "first")) return 0;
    if (is(LSEEK, "beyond")) return st.st_size + (1 << 30);
    off_t result = lseek((int)fi->fh, offset, whence);
    return result < 0 ? -errno : result;
}

static int do_statfs(const char *path, struct statvfs *st)
{
    int e = lacks(STATFS);
    if (e) return e;
    int result = done(statvfs(at(path), st));
    if (is(STATFS, "none")) memset(st, 0, sizeof *st);
    if (is(STATFS, "full")) st->f_bfree = st->f_bavail = 0;
    return result;
}

static int do_truncate(const char *path, off_t size, struct fuse_file_info *fi)
{
    int e = lacks(FTRUNCATE);
    return e ? e : done(fi ? ftruncate((int)fi->fh, size) : truncate(at(path), size));
}

static int do_chmod(const char *path, mode_t mode, struct fuse_file_info *fi)
{
    (void)fi;
    int e = lacks(CHMOD);
    return e ? e : done(chmod(at(path), mode));
}

static int do_chown(const char *path, uid_t uid, gid_t gid, struct fuse_file_info *fi)
{
    (void)fi;
    int e = lacks(CHOWN);
    return e ? e : done(lchown(at(path), uid, gid));
}

static int do_rename(const char *from, const char *to, unsigned int flags)
{
    int e = lacks(RENAME);
    char old[8192];
    snprintf(old, sizeof old, "%s", at(from));
    return e ? e : done(renameat2(AT_FDCWD, old, AT_FDCWD, at(to), flags));
}

static int do_unlink(const char *path)
{
    int e = lacks(UNLINK);
    return e ? e : done(unlink(at(path)));
}

static int do_fallocate(const char *path, int mode, off_t offset, off_t length, struct fuse_file_info *fi)
{
    (void)path;
    int e = lacks(FALLOCATE);
    return e ? e : done(fallocate((int)fi->fh, mode, offset, length));
}

static int do_fsync(const char *path, int data, struct fuse_file_info *fi)
{
    (void)path;
    int e = lacks(FSYNC);
    return e ? e : done(data ? fdatasync((int)fi->fh) : fsync((int)fi->fh));
}

static int do_fsyncdir(const char *path, int data, struct fuse_file_info *fi)
{
    (void)path, (void)data, (void)fi;
    return lacks(FSYNCDIR);
}

static int do_opendir(const char *path, struct fuse_file_info *fi)
{
    (void)path, (void)fi;
    return lacks(OPENDIR);
}

static int do_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *fi, enum fuse_readdir_flags flags)
{
    (void)offset, (void)fi, (void)flags;
    DIR *folder = opendir(at(path));
    if (!folder) return -errno;
    for (struct dirent *entry; (entry = readdir(folder));) fill(buffer, entry->d_name, NULL, 0, 0);
    closedir(folder);
    return 0;
}

static int do_flock(const char *path, struct fuse_file_info *fi, int operation)
{
    (void)path;
    int e = lacks(FLOCK);
    return e ? e : done(flock((int)fi->fh, operation));
}

static int do_release(const char *path, struct fuse_file_info *fi)
{
    (void)path;
    close((int)fi->fh);
    return 0;
}

/* No caching: each call arrives here. */
static void *do_init(struct fuse_conn_info *connection, struct fuse_config *config)
{
    (void)connection;
    config->attr_timeout = config->entry_timeout = config->negative_timeout = 0;
    return NULL;
}

static const struct fuse_operations operations = {
    .init = do_init, .getattr = do_getattr, .open = do_open, .create = do_create, .read = do_read, .write = do_write, .lseek = do_lseek,
    .statfs = do_statfs, .truncate = do_truncate, .chmod = do_chmod, .chown = do_chown, .rename = do_rename, .unlink = do_unlink,
    .fallocate = do_fallocate, .fsync = do_fsync, .fsyncdir = do_fsyncdir, .opendir = do_opendir, .readdir = do_readdir, .flock = do_flock,
    .release = do_release,
};

static void die(const char *what)
{
    fprintf(stderr, "lackingfs: %s: %s\n", what, strerror(errno));
    exit(125);
}

static void parse(char *rule)
{
    char *value = strchr(rule, '=');
    for (int op = 0; value && op < OPS; op++) {
        if (strlen(names[op]) != (size_t)(value - rule) || strncmp(rule, names[op], strlen(names[op]))) continue;
        char *rest;
        rules[op].error = (int)strtol(++value, &rest, 10);
        if (rest == value) rules[op].word = value;
        else if (*rest == '@') rules[op].only = atoi(rest + 1);
        else if (*rest == '+') rules[op].from = atoi(rest + 1);
        return;
    }
    fprintf(stderr, "lackingfs: bad rule %s\n", rule);
    exit(125);
}

int main(int argc, char **argv)
{
    if (argc < 4 || !realpath(argv[1], root)) die("usage: lackingfs FOLDER MOUNTPOINT [RULE ...] -- PROGRAM [ARGUMENT ...]");
    int next = 3;
    for (; next < argc && strcmp(argv[next], "--"); next++) parse(argv[next]);
    if (next + 1 >= argc) die("no program");
    if (unshare(CLONE_NEWNS) < 0) die("unshare");
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) die("making mounts private");

    char *none[] = {argv[0], NULL};
    struct fuse_args arguments = FUSE_ARGS_INIT(1, none);
    struct fuse *fuse = fuse_new(&arguments, &operations, sizeof operations, NULL);
    if (!fuse || fuse_mount(fuse, argv[2]) != 0) die("mounting");

    pid_t server = fork();
    if (server == 0) {
        umask(0);
        _exit(fuse_loop(fuse));
    }
    close(fuse_session_fd(fuse_get_session(fuse)));
    pid_t program = fork();
    if (program == 0) {
        execvp(argv[next + 1], argv + next + 1);
        die(argv[next + 1]);
    }
    int status;
    while (waitpid(program, &status, 0) < 0)
        if (errno != EINTR) die("waiting");
    umount2(argv[2], MNT_DETACH);
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
