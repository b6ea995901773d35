/*
 * A slower disk, preloaded into a broker (LD_PRELOAD): every fsync, fdatasync, and write to a file that was
 * opened with O_DSYNC or O_SYNC takes SLOW_SYNC_US microseconds more. Linux.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void take_time(void) {
    const char *text = getenv("SLOW_SYNC_US");
    long us = text ? atol(text) : 0;
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&t, NULL);
}
static int syncs(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags != -1 && (flags & O_DSYNC);
}

int fsync(int fd) { take_time(); return REAL(fsync)(fd); }
int fdatasync(int fd) { take_time(); return REAL(fdatasync)(fd); }
ssize_t write(int fd, const void *p, size_t n) {
    if (syncs(fd)) take_time();
    return REAL(write)(fd, p, n);
}
ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at) {
    if (syncs(fd)) take_time();
    return REAL(pwrite64)(fd, p, n, at);
}
ssize_t pwritev64(int fd, const struct iovec *p, int n, off64_t at) {
    if (syncs(fd)) take_time();
    return REAL(pwritev64)(fd, p, n, at);
}
