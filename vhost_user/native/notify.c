#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "native.h"

/* Notifiers belong to both ends: the peer can fill a counter, and can clear O_NONBLOCK on the open
   file description that both share, at any time. So no flag and no earlier poll() says that a write
   will not block. What never blocks:

   - for an eventfd, a completion of asynchronous I/O with IOCB_FLAG_RESFD: the kernel adds 1 itself,
     as it does for vhost-net and for KVM, and a full counter stays full. (pwritev2 with RWF_NOWAIT
     is not possible on an eventfd.) What completes is a read of no bytes.
   - for a pipe or a socket, which other systems use instead, pwritev2 with RWF_NOWAIT.
   - for every kind of them, preadv2 with RWF_NOWAIT. */

enum { SLOTS = 64 };

static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER;
static aio_context_t context;
static int source = -1;
static int started; /* 1: there is a context; -1: there will be none */

/* A context belongs to the address space: the child of a fork() has none. A fork() waits until no
   other thread makes one, so that the child knows what there is. */
static void lock(void) { pthread_mutex_lock(&starting); }
static void unlock(void) { pthread_mutex_unlock(&starting); }

static void forget(void) {
    if (started > 0)
        close(source);
    started = 0;
    context = 0;
    unlock();
}

static int start(void) {
    int state = __atomic_load_n(&started, __ATOMIC_ACQUIRE);
    if (state)
        return state;
    pthread_mutex_lock(&starting);
    state = started;
    if (!state) {
        static int once;
        if (!once++)
            pthread_atfork(lock, unlock, forget);
        source = memfd_create("vhost-nothing", MFD_CLOEXEC);
        state = source >= 0 && !syscall(SYS_io_setup, SLOTS, &context) ? 1 : -1;
        if (state < 0 && source >= 0)
            close(source);
        __atomic_store_n(&started, state, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&starting);
    return state;
}

static void reap(void) {
    struct io_event events[SLOTS];
    static const struct timespec none;
    syscall(SYS_io_getevents, context, 0, SLOTS, events, &none);
}

/* Adds 1 to each; returns to how many, and the errno of the one after these. */
static int add(const int *fds, int count, int *error) {
    struct iocb work[SLOTS], *list[SLOTS];
    static uint64_t nothing;
    if (count > SLOTS)
        count = SLOTS;
    for (int i = 0; i < count; i++) {
        work[i] = (struct iocb){.aio_lio_opcode = IOCB_CMD_PREAD,
                                .aio_fildes = (uint32_t)source,
                                .aio_buf = (uintptr_t)&nothing,
                                .aio_flags = IOCB_FLAG_RESFD,
                                .aio_resfd = (uint32_t)fds[i]};
        list[i] = &work[i];
    }
    /* all slots hold completions that no thread has reaped yet: EAGAIN */
    for (int tries = 0; tries < 1000; tries++) {
        long done = syscall(SYS_io_submit, context, (long)count, list);
        if (done > 0)
            return (int)done;
        *error = errno;
        if (*error != EAGAIN)
            return 0;
        reap();
    }
    return 0;
}

/* Writes 8 bytes if that does not block; no room for them means that it is readable. */
static int put(int fd) {
    uint64_t one = 1;
    struct iovec bytes = {&one, sizeof one};
    while (pwritev2(fd, &bytes, 1, -1, RWF_NOWAIT) < 0) {
        if (errno == EINTR)
            continue;
        return errno == EAGAIN ? 0 : errno;
    }
    return 0;
}

/* Without asynchronous I/O (a kernel without it, all contexts of the system in use) there is only
   the flag that the peer can clear. */
static int put_by_flag(int fd) {
    const uint64_t one = 1;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return errno;
    while (write(fd, &one, sizeof one) < 0) {
        if (errno == EINTR)
            continue;
        return errno == EAGAIN ? 0 : errno;
    }
    return 0;
}

int vu_signal_waits(void) { return start() < 0; }

int vu_signal(int fd) {
    int error = EINVAL;
    if (start() > 0 && add(&fd, 1, &error))
        return 0;
    if (error != EINVAL) /* but it says that this is no eventfd */
        return error;
    error = put(fd);
    return error == EOPNOTSUPP && started < 0 ? put_by_flag(fd) : error;
}

int vu_eventfd_signal(const int *fds, int count) {
    int first = 0;
    for (int i = 0; i < count;) {
        int error = EINVAL, done = start() > 0 ? add(fds + i, count - i, &error) : 0;
        if (!done) {
            error = vu_signal(fds[i]);
            first = first ? first : error;
            done = 1;
        }
        i += done;
    }
    return first;
}

/* Reads and resets a counter; its value is 0 where nothing was signalled. */
static int take(int fd, uint64_t *value) {
    struct iovec bytes = {value, sizeof *value};
    ssize_t done;
    *value = 0;
    while ((done = preadv2(fd, &bytes, 1, -1, RWF_NOWAIT)) < 0) {
        if (errno == EINTR)
            continue;
        return errno == EAGAIN ? 0 : errno;
    }
    /* bytes of a pipe have no meaning, and a part of them is an event as well */
    if (done < (ssize_t)sizeof *value || !*value)
        *value = 1;
    return done ? 0 : EPIPE;
}

int64_t vu_take(int fd) {
    uint64_t value;
    int error = take(fd, &value);
    if (error)
        return -error;
    return value > INT64_MAX ? INT64_MAX : (int64_t)value;
}

int vu_eventfd_drain(const int *fds, int count, uint64_t *values) {
    int first = 0;
    for (int i = 0; i < count; i++) {
        int error = take(fds[i], &values[i]);
        if (error) {
            values[i] = 0;
            first = first ? first : error;
        }
    }
    return first;
}
