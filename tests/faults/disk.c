/* A disk that fails when it is told to, and writes down all that reaches it.

   Loaded with LD_PRELOAD, it stands between SQLite (and Python) and libc, for the files of one
   database. What it is to do it reads from memory that it shares with the test (`disk.py`), so
   that operations are counted over all processes. It allocates nothing and takes no locks. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, TRUNCATE = 2, SYNC = 4, CREATE = 8, UNLINK = 16, SYNC_DIRECTORY = 32,
       OPEN = 64, LOCK = 128, RENAME = 256, MARK = 512, FORGET = 1024 };

/* As `disk.Control` has it. */
struct control {
    _Atomic uint64_t count;     /* operations of the kinds in `counted`, so far */
    uint64_t from, until;       /* those in [from, until) fail, counted from 1 */
    uint32_t counted, error;
    char database[1024];        /* files whose path begins so; "" turns everything off */
    char record[1024];          /* where to write down what is done; "" for nowhere */
    char marks[1024];           /* what is written to this file is written down, too */
};

/* As `disk._HEADER` has it; the name follows, and what was written. */
struct header {
    uint32_t kind, name_length;
    uint64_t inode, offset, length;
};

enum place { ELSEWHERE, FILE_OF_OURS, DIRECTORY, MARKS };
enum { DESCRIPTORS = 4096 };

static struct control *control;
static struct { unsigned char place; uint64_t inode; } opened[DESCRIPTORS];

/* The function of this name that libc has. */
#define NEXT(name) ({                                     \
    static typeof(&name) next;                            \
    if (!next)                                            \
        next = (typeof(&name)) dlsym(RTLD_NEXT, #name);   \
    next;                                                 \
})

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("DISK_CONTROL");
    int fd = path ? NEXT(open)(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *found = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (found != MAP_FAILED)
        control = found;
    NEXT(close)(fd);
}

static enum place place_of(const char *path)
{
    if (!control || !control->database[0])
        return ELSEWHERE;
    size_t length = strlen(control->database);
    if (!strncmp(path, control->database, length))
        return FILE_OF_OURS;
    if (!strcmp(path, control->marks))
        return MARKS;
    const char *slash = strrchr(control->database, '/');
    size_t parent = slash ? (size_t) (slash - control->database) : 0;
    return strlen(path) == parent && !strncmp(path, control->database, parent) ? DIRECTORY
                                                                             : ELSEWHERE;
}

static int is(int fd, enum place place)
{
    return fd >= 0 && fd < DESCRIPTORS && opened[fd].place == place && control &&
           control->database[0];
}

/* Whether an operation is to fail; errno is set then. */
static int fails(uint32_t kind)
{
    if (!(control->counted & kind))
        return 0;
    uint64_t number = atomic_fetch_add(&control->count, 1) + 1;
    if (number < control->from || number >= control->until)
        return 0;
    errno = (int) control->error;
    return 1;
}

/* One record, whole, behind those of all other processes. Done after the deed, which is exact, as
   the writers of a database go one at a time. */
static void record(uint32_t kind, uint64_t inode, const char *name, uint64_t offset,
                   uint64_t length, const void *data)
{
    if (!control->record[0])
        return;
    int saved = errno;
    struct header header = {kind, (uint32_t) strlen(name), inode, offset, length};
    struct iovec parts[] = {{&header, sizeof header}, {(void *) name, header.name_length},
                            {(void *) data, data ? length : 0}};
    int fd = NEXT(open)(control->record, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || writev(fd, parts, 3) < 0)
        abort();
    NEXT(close)(fd);
    errno = saved;
}

static int open_any(const char *path, int flags, mode_t mode, int directory)
{
    enum place place = place_of(path);
    struct stat status;
    int makes = place == FILE_OF_OURS && (flags & O_CREAT) && stat(path, &status);
    int changes = (flags & O_ACCMODE) != O_RDONLY;
    if (place == FILE_OF_OURS && (makes ? fails(CREATE) : changes && fails(OPEN)))
        return -1;
    int fd = NEXT(openat64)(directory, path, flags, mode);
    if (fd < 0 || fd >= DESCRIPTORS)
        return fd;
    opened[fd].place = place;
    if (place == FILE_OF_OURS && !fstat(fd, &status)) {
        opened[fd].inode = status.st_ino;
        if (makes)
            record(CREATE, status.st_ino, path, 0, 0, NULL);
    }
    return fd;
}

/* The mode that follows the flags, if they have one follow. */
#define MODE(flags) ({                                    \
    mode_t mode = 0;                                      \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                \
        va_list rest;                                     \
        va_start(rest, flags);                            \
        mode = va_arg(rest, mode_t);                      \
        va_end(rest);                                     \
    }                                                     \
    mode;                                                 \
})

int open(const char *path, int flags, ...)
{
    return open_any(path, flags, MODE(flags), AT_FDCWD);
}

int open64(const char *path, int flags, ...)
{
    return open_any(path, flags, MODE(flags), AT_FDCWD);
}

int openat(int directory, const char *path, int flags, ...)
{
    return open_any(path, flags, MODE(flags), directory);
}

int openat64(int directory, const char *path, int flags, ...)
{
    return open_any(path, flags, MODE(flags), directory);
}

int close(int fd)
{
    if (fd >= 0 && fd < DESCRIPTORS)
        opened[fd].place = ELSEWHERE;
    return NEXT(close)(fd);
}

int close_range(unsigned first, unsigned last, int flags)
{
    for (unsigned fd = first; fd <= last && fd < DESCRIPTORS; fd++)
        opened[fd].place = ELSEWHERE;
    return NEXT(close_range)(first, last, flags);
}

/* A write that fails has got half of it done, as when the disk becomes full amidst it. */
static ssize_t write_any(int fd, const void *data, size_t length, off64_t offset)
{
    int failing = fails(WRITE), error = errno;
    if (failing)
        length /= 2;
    ssize_t done = offset < 0 ? NEXT(write)(fd, data, length)
                              : NEXT(pwrite64)(fd, data, length, offset);
    if (done > 0)
        record(WRITE, opened[fd].inode, "", offset < 0 ? lseek64(fd, 0, SEEK_CUR) - done : offset,
               (uint64_t) done, data);
    if (failing) {
        errno = error;
        return -1;
    }
    return done;
}

ssize_t write(int fd, const void *data, size_t length)
{
    if (is(fd, MARKS))
        record(MARK, 0, "", 0, length, data);
    return is(fd, FILE_OF_OURS) ? write_any(fd, data, length, -1) : NEXT(write)(fd, data, length);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)
{
    return is(fd, FILE_OF_OURS) ? write_any(fd, data, length, offset)
                                : NEXT(pwrite)(fd, data, length, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset)
{
    return is(fd, FILE_OF_OURS) ? write_any(fd, data, length, offset)
                                : NEXT(pwrite64)(fd, data, length, offset);
}

int ftruncate64(int fd, off64_t length)
{
    if (!is(fd, FILE_OF_OURS))
        return NEXT(ftruncate64)(fd, length);
    if (fails(TRUNCATE))
        return -1;
    int result = NEXT(ftruncate64)(fd, length);
    if (!result)
        record(TRUNCATE, opened[fd].inode, "", (uint64_t) length, 0, NULL);
    return result;
}

int ftruncate(int fd, off_t length)
{
    return ftruncate64(fd, length);
}

static int sync_any(int fd, int (*sync_it)(int))
{
    int directory = is(fd, DIRECTORY);
    if (!directory && !is(fd, FILE_OF_OURS))
        return sync_it(fd);
    uint32_t kind = directory ? SYNC_DIRECTORY : SYNC;
    if (fails(kind)) {
        if (!directory)
            record(FORGET, opened[fd].inode, "", 0, 0, NULL);
        return -1;
    }
    int result = sync_it(fd);
    if (!result)
        record(kind, opened[fd].inode, "", 0, 0, NULL);
    return result;
}

int fsync(int fd)
{
    return sync_any(fd, NEXT(fsync));
}

int fdatasync(int fd)
{
    return sync_any(fd, NEXT(fdatasync));
}

int unlinkat(int directory, const char *path, int flags)
{
    if (place_of(path) != FILE_OF_OURS)
        return NEXT(unlinkat)(directory, path, flags);
    if (fails(UNLINK))
        return -1;
    int result = NEXT(unlinkat)(directory, path, flags);
    if (!result)
        record(UNLINK, 0, path, 0, 0, NULL);
    return result;
}

int unlink(const char *path)
{
    return unlinkat(AT_FDCWD, path, 0);
}

int rename(const char *from, const char *to)
{
    if (place_of(from) != FILE_OF_OURS)
        return NEXT(rename)(from, to);
    if (fails(RENAME))
        return -1;
    int result = NEXT(rename)(from, to);
    if (!result)
        record(RENAME, 0, from, 0, strlen(to), to);
    return result;
}

/* Locks that another program seems to hold. */
int fcntl64(int fd, int command, ...)
{
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (is(fd, FILE_OF_OURS) && command == F_SETLK &&
        ((struct flock *) argument)->l_type != F_UNLCK && fails(LOCK))
        return -1;
    return NEXT(fcntl64)(fd, command, argument);
}
