/*
 * A disk that fails, and a record of what was asked of it: preloaded into a broker (LD_PRELOAD).
 *
 * Build: cc -O2 -shared -fPIC -o faults.so faults.c -ldl -lpthread
 *
 *   FAULTS_DIRECTORY  absolute path; only files below it are concerned
 *   FAULTS_FLAG       while this file exists, calls fail as it says: `ERRNO COUNTDOWN TORN`, where COUNTDOWN calls
 *                     still succeed, and with TORN=1 the first write that fails has written half of its bytes
 *   FAULTS_TRACE      what happened is appended to this file, see `record`
 *
 * LevelDB writes through stdio, whose own calls to write(2) cannot be interposed. A stream on a file of ours is
 * therefore a cookie stream, whose bytes come back to us; fileno(3) finds its descriptor.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define DESCRIPTORS_MAX 65536
#define STREAMS_MAX 256

/* For open(2): a plain file, or the directory itself. */
enum { NONE, DATA, DIRECTORY, SOCKET };

static char kinds[DESCRIPTORS_MAX];
static unsigned files[DESCRIPTORS_MAX];
static struct { FILE *stream; int fd; } streams[STREAMS_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *directory, *flag;
static int trace = -1;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_sendmsg)(int, const struct msghdr *, int);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_open)(const char *, int, ...);
static int (*real_close)(int);
static int (*real_rename)(const char *, const char *);
static int (*real_unlink)(const char *);
static FILE *(*real_fopen)(const char *, const char *);
static int (*real_fileno)(FILE *);
static int (*real_fclose)(FILE *);

__attribute__((constructor)) static void begin(void) {
  real_write = dlsym(RTLD_NEXT, "write");
  real_writev = dlsym(RTLD_NEXT, "writev");
  real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
  real_sendmsg = dlsym(RTLD_NEXT, "sendmsg");
  real_fsync = dlsym(RTLD_NEXT, "fsync");
  real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
  real_open = dlsym(RTLD_NEXT, "open64");
  real_close = dlsym(RTLD_NEXT, "close");
  real_rename = dlsym(RTLD_NEXT, "rename");
  real_unlink = dlsym(RTLD_NEXT, "unlink");
  real_fopen = dlsym(RTLD_NEXT, "fopen64");
  real_fileno = dlsym(RTLD_NEXT, "fileno");
  real_fclose = dlsym(RTLD_NEXT, "fclose");
  directory = getenv("FAULTS_DIRECTORY");
  flag = getenv("FAULTS_FLAG");
  const char *path = getenv("FAULTS_TRACE");
  if (path) trace = real_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

static int ours(const char *path) {
  return directory && path && strncmp(path, directory, strlen(directory)) == 0;
}

static const char *name_of(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

/*
 * One record: a line, then `size` bytes. With the lock held.
 *   O file name        created, or emptied         W file offset size   written (bytes follow)
 *   f file             a sync begins               F file               it succeeded
 *   R name name        renamed                     U name               unlinked
 *   S fd size          about to be sent to a socket (bytes follow)
 */
static void record(const void *bytes, size_t size, const char *format, ...) {
  char line[512];
  va_list arguments;
  if (trace < 0) return;
  va_start(arguments, format);
  int length = vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  struct iovec parts[] = {{line, length}, {(void *)bytes, size}};
  if (real_writev(trace, parts, size > 0 ? 2 : 1) != (ssize_t)(length + size)) abort();
}

/* The error with which the next call has to fail; 0 for none. */
static int fault(int *torn) {
  static int calls, failed;
  char text[64];
  int error = 0, countdown = 0, tear = 0;
  if (!flag) return 0;
  int fd = real_open(flag, O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    calls = failed = 0;
    return 0;
  }
  ssize_t length = read(fd, text, sizeof text - 1);
  real_close(fd);
  if (length <= 0) return 0;
  text[length] = 0;
  sscanf(text, "%d %d %d", &error, &countdown, &tear);
  if (calls++ < countdown) return 0;
  if (torn) *torn = tear && !failed;
  failed = 1;
  return error;
}

static int failing(void) {
  int error = fault(NULL);
  if (error) errno = error;
  return error;
}

static char kind(int fd) { return fd >= 0 && fd < DESCRIPTORS_MAX ? kinds[fd] : NONE; }

static void opened(int fd, const char *path, int fresh) {
  if (fd < 0 || fd >= DESCRIPTORS_MAX) return;
  struct stat found;
  if (fstat(fd, &found) != 0) return;
  kinds[fd] = S_ISDIR(found.st_mode) ? DIRECTORY : DATA;
  files[fd] = (unsigned)found.st_ino;
  if (fresh) record(NULL, 0, "O %u %s\n", files[fd], name_of(path));
}

static ssize_t put(int fd, const void *bytes, size_t size, off_t offset) {
  int torn = 0;
  pthread_mutex_lock(&lock);
  int error = fault(&torn);
  if (offset < 0) {
    struct stat found;
    int flags = fcntl(fd, F_GETFL);
    offset = lseek(fd, 0, SEEK_CUR);
    if ((flags & O_APPEND) && fstat(fd, &found) == 0) offset = found.st_size;
    if (error && torn) size /= 2;
    ssize_t written = error && !torn ? -1 : real_write(fd, bytes, size);
    if (written > 0) record(bytes, written, "W %u %lld %zd\n", files[fd], (long long)offset, written);
    pthread_mutex_unlock(&lock);
    if (!error) return written;
    errno = error;
    return -1;
  }
  ssize_t written = error ? -1 : real_pwrite(fd, bytes, size, offset);
  if (written > 0) record(bytes, written, "W %u %lld %zd\n", files[fd], (long long)offset, written);
  pthread_mutex_unlock(&lock);
  if (error) errno = error;
  return written;
}

static int is_socket(int fd) {
  struct stat found;
  if (trace < 0 || fd < 0 || fd >= DESCRIPTORS_MAX) return 0;
  if (kinds[fd] == NONE && fstat(fd, &found) == 0 && S_ISSOCK(found.st_mode)) kinds[fd] = SOCKET;
  return kinds[fd] == SOCKET;
}

static void sending(int fd, const struct iovec *parts, int count) {
  if (!is_socket(fd)) return;
  size_t size = 0;
  for (int index = 0; index < count; index++) size += parts[index].iov_len;
  char *bytes = malloc(size + 1), *end = bytes;
  for (int index = 0; index < count; index++) {
    memcpy(end, parts[index].iov_base, parts[index].iov_len);
    end += parts[index].iov_len;
  }
  pthread_mutex_lock(&lock);
  record(bytes, size, "S %d %zu\n", fd, size);
  pthread_mutex_unlock(&lock);
  free(bytes);
}

ssize_t write(int fd, const void *bytes, size_t size) {
  if (kind(fd) == DATA) return put(fd, bytes, size, -1);
  struct iovec part = {(void *)bytes, size};
  sending(fd, &part, 1);
  return real_write(fd, bytes, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  if (kind(fd) == DATA) return count > 0 ? put(fd, parts[0].iov_base, parts[0].iov_len, -1) : 0;
  sending(fd, parts, count);
  return real_writev(fd, parts, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off_t offset) {
  if (kind(fd) == DATA) return put(fd, bytes, size, offset);
  return real_pwrite(fd, bytes, size, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) { return pwrite64(fd, bytes, size, offset); }

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  sending(fd, message->msg_iov, message->msg_iovlen);
  return real_sendmsg(fd, message, flags);
}

static int sync_with(int (*sync)(int), int fd) {
  if (kind(fd) != DATA && kind(fd) != DIRECTORY) return sync(fd);
  pthread_mutex_lock(&lock);
  int error = failing();
  if (!error) record(NULL, 0, "f %u\n", files[fd]);
  pthread_mutex_unlock(&lock);
  if (error) {
    errno = error;
    return -1;
  }
  int result = sync(fd);
  if (result != 0) return result;
  pthread_mutex_lock(&lock);
  record(NULL, 0, "F %u\n", files[fd]);
  pthread_mutex_unlock(&lock);
  return 0;
}

int fsync(int fd) { return sync_with(real_fsync, fd); }

int fdatasync(int fd) { return sync_with(real_fdatasync, fd); }

int open64(const char *path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  if (!ours(path)) return real_open(path, flags, mode);
  pthread_mutex_lock(&lock);
  int fresh = (flags & O_TRUNC) || ((flags & O_CREAT) && access(path, F_OK) != 0);
  int error = fresh ? failing() : 0;
  int fd = error ? -1 : real_open(path, flags, mode);
  if (fd >= 0) opened(fd, path, fresh);
  pthread_mutex_unlock(&lock);
  if (error) errno = error;
  return fd;
}

int open(const char *path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  return open64(path, flags, mode);
}

int close(int fd) {
  if (fd >= 0 && fd < DESCRIPTORS_MAX) kinds[fd] = NONE;
  return real_close(fd);
}

int rename(const char *from, const char *to) {
  if (!ours(from)) return real_rename(from, to);
  pthread_mutex_lock(&lock);
  int result = failing() ? -1 : real_rename(from, to);
  if (result == 0) record(NULL, 0, "R %s %s\n", name_of(from), name_of(to));
  pthread_mutex_unlock(&lock);
  return result;
}

int unlink(const char *path) {
  if (!ours(path)) return real_unlink(path);
  pthread_mutex_lock(&lock);
  int result = real_unlink(path);
  if (result == 0) record(NULL, 0, "U %s\n", name_of(path));
  pthread_mutex_unlock(&lock);
  return result;
}

static ssize_t cookie_write(void *cookie, const char *bytes, size_t size) {
  ssize_t written = put((int)(long)cookie, bytes, size, -1);
  return written < 0 ? 0 : written;
}

static int cookie_close(void *cookie) { return close((int)(long)cookie); }

FILE *fopen64(const char *path, const char *mode) {
  if (!ours(path) || (mode[0] != 'w' && mode[0] != 'a')) return real_fopen(path, mode);
  int flags = O_WRONLY | O_CREAT | O_CLOEXEC | (mode[0] == 'w' ? O_TRUNC : O_APPEND);
  int fd = open64(path, flags, 0644);
  if (fd < 0) return NULL;
  cookie_io_functions_t functions = {.write = cookie_write, .close = cookie_close};
  FILE *stream = fopencookie((void *)(long)fd, mode, functions);
  if (!stream) abort();
  pthread_mutex_lock(&lock);
  int index = 0;
  while (index < STREAMS_MAX && streams[index].stream) index++;
  if (index == STREAMS_MAX) abort();
  streams[index].stream = stream;
  streams[index].fd = fd;
  pthread_mutex_unlock(&lock);
  return stream;
}

FILE *fopen(const char *path, const char *mode) { return fopen64(path, mode); }

int fileno(FILE *stream) {
  int fd = -1;
  pthread_mutex_lock(&lock);
  for (int index = 0; index < STREAMS_MAX && fd < 0; index++) {
    if (streams[index].stream == stream) fd = streams[index].fd;
  }
  pthread_mutex_unlock(&lock);
  return fd >= 0 ? fd : real_fileno(stream);
}

int fclose(FILE *stream) {
  pthread_mutex_lock(&lock);
  for (int index = 0; index < STREAMS_MAX; index++) {
    if (streams[index].stream == stream) streams[index].stream = NULL;
  }
  pthread_mutex_unlock(&lock);
  return real_fclose(stream);
}
