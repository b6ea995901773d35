/* What a process and its descendants used, from /proc; and what this one used. */
#ifndef USAGE_H
#define USAGE_H
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>
#include "bytes.h"

struct usage { uint64_t cpu_us, rss_kb, reads, writes; unsigned procs; };

/*
 * Adds the process's system calls that read and that wrote, of files too: read(), write() and their kin, which both
 * libuv and Mosquitto use on sockets. send() and recv() are not counted by the kernel.
 */
static void add_io(struct usage *u, long pid) {
    char path[64], text[512];
    unsigned long long reads, writes;
    snprintf(path, sizeof path, "/proc/%ld/io", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    ssize_t len = read(fd, text, sizeof text - 1);
    close(fd);
    if (len <= 0) return;
    text[len] = 0;
    char *p = strstr(text, "syscr:");
    if (!p || sscanf(p, "syscr: %llu syscw: %llu", &reads, &writes) != 2) return;
    u->reads += reads;
    u->writes += writes;
}

/* CPU time, resident memory and system calls of process `broker` and all its descendants; nothing for 0. */
static struct usage broker_usage(long broker) {
    struct entry { long pid, ppid; uint64_t ticks, pages; bool in; } *e = NULL;
    size_t n = 0, cap = 0;
    struct usage u = {0};
    if (!broker) return u;
    DIR *d = opendir("/proc");
    struct dirent *de;
    while (d && (de = readdir(d))) {
        if (!isdigit((unsigned char)de->d_name[0])) continue;
        char path[300], text[1024];
        snprintf(path, sizeof path, "/proc/%s/stat", de->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) continue;
        ssize_t len = read(fd, text, sizeof text - 1);
        close(fd);
        if (len <= 0) continue;
        text[len] = 0;
        char *p = strrchr(text, ')'); /* the command's name may hold anything, so start after it */
        unsigned long ut, st;
        long ppid, rss;
        if (!p || sscanf(p + 1, " %*c %ld %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d"
                                " %*d %*d %*u %*u %ld", &ppid, &ut, &st, &rss) != 4) continue;
        if (n == cap) e = xrealloc(e, (cap = cap ? cap * 2 : 256) * sizeof *e);
        long pid = atol(de->d_name);
        e[n++] = (struct entry){pid, ppid, ut + st, (uint64_t)(rss > 0 ? rss : 0), pid == broker};
    }
    if (d) closedir(d);
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; !e[i].in && j < n; j++)
                if (e[j].in && e[j].pid == e[i].ppid) e[i].in = more = true;
    }
    for (size_t i = 0; i < n; i++)
        if (e[i].in) {
            /* The process's CPU clock is user + system time too, but not cut to ticks of 10 ms. */
            clockid_t clock;
            struct timespec t;
            if (!clock_getcpuclockid((pid_t)e[i].pid, &clock) && !clock_gettime(clock, &t))
                u.cpu_us += (uint64_t)t.tv_sec * 1000000ull + (uint64_t)t.tv_nsec / 1000;
            else
                u.cpu_us += e[i].ticks * (1000000ull / (uint64_t)sysconf(_SC_CLK_TCK));
            u.rss_kb += e[i].pages * (uint64_t)sysconf(_SC_PAGESIZE) / 1024;
            add_io(&u, e[i].pid);
            u.procs++;
        }
    free(e);
    return u;
}

static uint64_t own_cpu_us(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (uint64_t)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1000000ull +
           (uint64_t)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
}

#endif
