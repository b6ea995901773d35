/*
 * A disk that fails, and a record of what was asked of it: preloaded into a broker (LD_PRELOAD).
 *
 * Build: cc -O2 -shared -fPIC -o faults.so faults.c -ldl -lpthread
 *
 *   FAULTS_DIRECTORY  absolute path; only it and what is below it are concerned
 *   FAULTS_FLAG       while this file exists, calls fail as it says: `ERRNO COUNTDOWN TORN`, where COUNTDOWN calls
 *                     still succeed, and with TORN=1 the first write that fails has written half of its bytes
 *   FAULTS_TRACE      what happened is appended to this file, see `record`
 *
 * LevelDB writes through stdio, whose own calls to write(2) cannot be interposed. A stream on a file of ours is
 * therefore a cookie stream, whose bytes come back to us; fileno(3) finds its descriptor. libuv closes files by
 * syscall(2), not by close(2); without noticing that, we would take the socket that gets the number next for the file.
 *
 * A file that is mapped and changed, or a call without the C library, is not seen here. `disk.mjs` notices it when it
 * compares the files with the trace.
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

/* Kinds of descriptors; NONE if the file is not ours, or not known yet. */
enum { NONE, DATA, DIRECTORY, SOCKET };

static char kinds[DESCRIPTORS_MAX];
static unsigned long long files[DESCRIPTORS_MAX];
static struct { FILE *stream; int fd; } streams[STREAMS_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *directory, *flag;
static int trace = -1;
/* How many syncs began. */
static unsigned syncs;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off_t);
static ssize_t (*real_sendmsg)(int, const struct msghdr *, int);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_open)(const char *, int, ...);
static int (*real_close)(int);
static long (*real_syscall)(long, ...);
static int (*real_rename)(const char *, const char *);
static int (*real_link)(const char *, const char *);
static int (*real_unlink)(const char *);
static int (*real_mkdir)(const char *, mode_t);
static int (*real_rmdir)(const char *);
static FILE *(*real_fopen)(const char *, const char *);
static FILE *(*real_fdopen)(int, const char *);
static int (*real_fileno)(FILE *);
static int (*real_fclose)(FILE *);

static void find(void) {
  real_write = dlsym(RTLD_NEXT, "write");
  real_writev = dlsym(RTLD_NEXT, "writev");
  real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
  real_pwritev = dlsym(RTLD_NEXT, "pwritev64");
  real_sendmsg = dlsym(RTLD_NEXT, "sendmsg");
  real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
  real_fsync = dlsym(RTLD_NEXT, "fsync");
  real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
  real_open = dlsym(RTLD_NEXT, "open64");
  real_close = dlsym(RTLD_NEXT, "close");
  real_syscall = dlsym(RTLD_NEXT, "syscall");
  real_rename = dlsym(RTLD_NEXT, "rename");
  real_link = dlsym(RTLD_NEXT, "link");
  real_unlink = dlsym(RTLD_NEXT, "unlink");
  real_mkdir = dlsym(RTLD_NEXT, "mkdir");
  real_rmdir = dlsym(RTLD_NEXT, "rmdir");
  real_fopen = dlsym(RTLD_NEXT, "fopen64");
  real_fdopen = dlsym(RTLD_NEXT, "fdopen");
  real_fileno = dlsym(RTLD_NEXT, "fileno");
  real_fclose = dlsym(RTLD_NEXT, "fclose");
  directory = getenv("FAULTS_DIRECTORY");
  flag = getenv("FAULTS_FLAG");
  const char *path = getenv("FAULTS_TRACE");
  if (path) trace = real_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

/* Other libraries begin before this one does, and call it. */
__attribute__((constructor)) static void begin(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, find);
}

static int ours(const char *path) {
  begin();
  if (!directory || !path) return 0;
  size_t length = strlen(directory);
  return strncmp(path, directory, length) == 0 && (path[length] == '/' || path[length] == 0);
}

/* The path below the directory; "." for itself. */
static const char *name_of(const char *path) {
  const char *name = path + strlen(directory);
  while (*name == '/') name++;
  return *name ? name : ".";
}

/*
 * One record: a line, then `size` bytes. With the lock held.
 *   O file name        created, or emptied; afterwards       E file name         opened as it is
 *   W file offset size about to be written (bytes follow)    T file size         about to get that length
 *   M name             about to be made, a directory         U name              about to be removed
 *   R name name        about to be renamed                   L name name         about to get a second name
 *   X size             of the record before, only so many bytes happened; 0: nothing
 *   f sync file        a sync begins                         F sync              it succeeded
 *   S fd size          about to be sent to a socket (bytes follow)
 * Each call is recorded before it is made: when the process is killed, at most the last record did not happen.
 */
static void record(const void *bytes, size_t size, const char *format, ...) {
  char line[512];
  va_list arguments;
  if (trace < 0) return;
  int before = errno;
  va_start(arguments, format);
  int length = vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (length >= (int)sizeof line) abort();
  struct iovec parts[] = {{line, length}, {(void *)bytes, size}};
  if (real_writev(trace, parts, size > 0 ? 2 : 1) != (ssize_t)(length + size)) abort();
  errno = before;
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

static char kind(int fd) {
  begin();
  return fd >= 0 && fd < DESCRIPTORS_MAX ? kinds[fd] : NONE;
}

static void opened(int fd, const char *path, int fresh) {
  struct stat found;
  if (fd >= DESCRIPTORS_MAX || fstat(fd, &found) != 0) abort();
  kinds[fd] = S_ISDIR(found.st_mode) ? DIRECTORY : DATA;
  files[fd] = found.st_ino;
  record(NULL, 0, "%c %llu %s\n", fresh ? 'O' : 'E', files[fd], name_of(path));
}

/* Where the next write goes. Ends the process when the descriptor is not the file that was opened under it. */
static off_t position(int fd) {
  struct stat found;
  if (fstat(fd, &found) != 0 || !S_ISREG(found.st_mode) || found.st_ino != files[fd]) {
    dprintf(2, "faults: the descriptor %d was closed and taken again unseen\n", fd);
    abort();
  }
  return fcntl(fd, F_GETFL) & O_APPEND ? found.st_size : lseek(fd, 0, SEEK_CUR);
}

/* With the lock held: notes that a write to a file opened with O_DSYNC has returned, and is on the disk. */
static void written_through(int fd) {
  unsigned number = ++syncs;
  record(NULL, 0, "f %u %llu\n", number, files[fd]);
  record(NULL, 0, "F %u\n", number);
}

/* `offset` is -1 for the file's own position. */
static ssize_t put(int fd, const void *bytes, size_t size, off_t offset) {
  int torn = 0;
  pthread_mutex_lock(&lock);
  int error = fault(&torn);
  off_t next = position(fd);
  if (error) size = torn ? size / 2 : 0;
  ssize_t written = 0;
  if (size > 0) {
    record(bytes, size, "W %llu %lld %zu\n", files[fd], (long long)(offset < 0 ? next : offset), size);
    written = offset < 0 ? real_write(fd, bytes, size) : real_pwrite(fd, bytes, size, offset);
    if (written != (ssize_t)size) record(NULL, 0, "X %zd\n", written < 0 ? 0 : written);
    if (written == (ssize_t)size && !error && fcntl(fd, F_GETFL) & O_DSYNC) written_through(fd);
  }
  pthread_mutex_unlock(&lock);
  if (!error) return written;
  errno = error;
  return -1;
}

static ssize_t put_all(int fd, const struct iovec *parts, int count, off_t offset) {
  ssize_t total = 0;
  for (int index = 0; index < count; index++) {
    ssize_t written = put(fd, parts[index].iov_base, parts[index].iov_len, offset < 0 ? -1 : offset + total);
    if (written < 0) return total > 0 ? total : -1;
    total += written;
    if (written < (ssize_t)parts[index].iov_len) break;
  }
  return total;
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
  if (kind(fd) == DATA) return put_all(fd, parts, count, -1);
  sending(fd, parts, count);
  return real_writev(fd, parts, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off_t offset) {
  if (kind(fd) == DATA) return put(fd, bytes, size, offset);
  return real_pwrite(fd, bytes, size, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) { return pwrite64(fd, bytes, size, offset); }

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset) {
  if (kind(fd) == DATA) return put_all(fd, parts, count, offset);
  return real_pwritev(fd, parts, count, offset);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
  return pwritev64(fd, parts, count, offset);
}

/* With the lock held: notes that nothing came of the last record when `result` is -1, and returns it. */
static int outcome(int result) {
  if (result != 0) record(NULL, 0, "X 0\n");
  return result;
}

int ftruncate64(int fd, off_t size) {
  if (kind(fd) != DATA) return real_ftruncate(fd, size);
  pthread_mutex_lock(&lock);
  position(fd);
  int result = -1;
  if (!failing()) {
    record(NULL, 0, "T %llu %lld\n", files[fd], (long long)size);
    result = outcome(real_ftruncate(fd, size));
  }
  pthread_mutex_unlock(&lock);
  return result;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  begin();
  sending(fd, message->msg_iov, message->msg_iovlen);
  return real_sendmsg(fd, message, flags);
}

static int sync_with(int (*sync)(int), int fd) {
  if (kind(fd) != DATA && kind(fd) != DIRECTORY) return sync(fd);
  pthread_mutex_lock(&lock);
  int error = failing();
  unsigned number = ++syncs;
  if (!error) record(NULL, 0, "f %u %llu\n", number, files[fd]);
  pthread_mutex_unlock(&lock);
  if (error) {
    errno = error;
    return -1;
  }
  int result = sync(fd);
  if (result != 0) return result;
  pthread_mutex_lock(&lock);
  record(NULL, 0, "F %u\n", number);
  pthread_mutex_unlock(&lock);
  return 0;
}

int fsync(int fd) {
  begin();
  return sync_with(real_fsync, fd);
}

int fdatasync(int fd) {
  begin();
  return sync_with(real_fdatasync, fd);
}

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
  if (kind(fd) != NONE) kinds[fd] = NONE;
  return real_close(fd);
}

long syscall(long number, ...) {
  long words[6];
  va_list arguments;
  va_start(arguments, number);
  for (int index = 0; index < 6; index++) words[index] = va_arg(arguments, long);
  va_end(arguments);
  begin();
  if (number == SYS_close) return close((int)words[0]);
  // Through its rings files are changed without any call that could be seen here.
  if (number == SYS_io_uring_setup) {
    errno = ENOSYS;
    return -1;
  }
  return real_syscall(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}

int rename(const char *from, const char *to) {
  if (!ours(from) || !ours(to)) return real_rename(from, to);
  pthread_mutex_lock(&lock);
  int result = -1;
  if (!failing()) {
    record(NULL, 0, "R %s %s\n", name_of(from), name_of(to));
    result = outcome(real_rename(from, to));
  }
  pthread_mutex_unlock(&lock);
  return result;
}

int link(const char *from, const char *to) {
  if (!ours(from) || !ours(to)) return real_link(from, to);
  pthread_mutex_lock(&lock);
  int result = -1;
  if (!failing()) {
    record(NULL, 0, "L %s %s\n", name_of(from), name_of(to));
    result = outcome(real_link(from, to));
  }
  pthread_mutex_unlock(&lock);
  return result;
}

int mkdir(const char *path, mode_t mode) {
  if (!ours(path)) return real_mkdir(path, mode);
  pthread_mutex_lock(&lock);
  int result = -1;
  if (!failing()) {
    record(NULL, 0, "M %s\n", name_of(path));
    result = outcome(real_mkdir(path, mode));
  }
  pthread_mutex_unlock(&lock);
  return result;
}

/* Removing needs no space, and never fails. */
static int removed(int (*call)(const char *), const char *path) {
  if (!ours(path)) return call(path);
  pthread_mutex_lock(&lock);
  record(NULL, 0, "U %s\n", name_of(path));
  int result = outcome(call(path));
  pthread_mutex_unlock(&lock);
  return result;
}

int unlink(const char *path) {
  begin();
  return removed(real_unlink, path);
}

int rmdir(const char *path) {
  begin();
  return removed(real_rmdir, path);
}

static ssize_t cookie_write(void *cookie, const char *bytes, size_t size) {
  ssize_t written = put((int)(long)cookie, bytes, size, -1);
  return written < 0 ? 0 : written;
}

static int cookie_close(void *cookie) { return close((int)(long)cookie); }

static FILE *stream_on(int fd, const char *mode) {
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

FILE *fopen64(const char *path, const char *mode) {
  if (!ours(path) || (mode[0] != 'w' && mode[0] != 'a')) return real_fopen(path, mode);
  int flags = O_WRONLY | O_CREAT | O_CLOEXEC | (mode[0] == 'w' ? O_TRUNC : O_APPEND);
  int fd = open64(path, flags, 0644);
  return fd < 0 ? NULL : stream_on(fd, mode);
}

FILE *fopen(const char *path, const char *mode) { return fopen64(path, mode); }

FILE *fdopen(int fd, const char *mode) {
  return kind(fd) == DATA && mode[0] != 'r' ? stream_on(fd, mode) : real_fdopen(fd, mode);
}

int fileno(FILE *stream) {
  int fd = -1;
  begin();
  pthread_mutex_lock(&lock);
  for (int index = 0; index < STREAMS_MAX && fd < 0; index++) {
    if (streams[index].stream == stream) fd = streams[index].fd;
  }
  pthread_mutex_unlock(&lock);
  return fd >= 0 ? fd : real_fileno(stream);
}

int fclose(FILE *stream) {
  begin();
  pthread_mutex_lock(&lock);
  for (int index = 0; index < STREAMS_MAX; index++) {
    if (streams[index].stream == stream) streams[index].stream = NULL;
  }
  pthread_mutex_unlock(&lock);
  return real_fclose(stream);
}
