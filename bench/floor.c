/*
 * The floor: what the vhost-user protocol itself costs, and nothing else.
 *
 *     floor SOCKETSxRINGS [SOCKETSxRINGS ...]
 *
 * Back-ends are forked processes, two of them, that share the sockets. A front-end on one thread
 *   lockstep_ns  stops all rings with one GET_VRING_BASE after the other,
 *   inflight_ns  stops them with all requests in flight,
 *   start_ns     starts them: SET_VRING_BASE and a kick each, until each ring has called back.
 * The median of ROUNDS rounds is printed as one line of JSON.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SET_VRING_BASE = 10, GET_VRING_BASE = 11, VERSION = 1, REPLY = 4 };
enum { MAX_SOCKETS = 1024, MAX_RINGS = 256, BACKENDS = 2, ROUNDS = 21, EVENTS = 256 };

/* Header and "vring state" payload (vhost-user, "Header" and "A vring state description"). */
struct message {
    uint32_t request, flags, size, index, num;
};

struct device {
    int front, back, rings;
    int kick[MAX_RINGS], call[MAX_RINGS];
};

static struct device *devices;
static int sockets, total_rings;

static void die(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void write_all(int fd, const void *data, size_t size)
{
    for (const char *at = data; size;) {
        ssize_t n = write(fd, at, size);
        if (n <= 0)
            die("write");
        at += n;
        size -= (size_t)n;
    }
}

static void signal_fd(int fd)
{
    uint64_t one = 1;
    write_all(fd, &one, sizeof one);
}

static void watch(int epoll, int fd, uint64_t tag)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = tag};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
        die("epoll_ctl");
}

/* A back-end: answers GET_VRING_BASE, takes SET_VRING_BASE, and calls for every kick. */
static void serve(int which)
{
    static uint32_t base[MAX_SOCKETS][MAX_RINGS];
    struct epoll_event events[EVENTS];
    int epoll = epoll_create1(0);
    for (int d = which; d < sockets; d += BACKENDS) {
        watch(epoll, devices[d].back, (uint64_t)d << 32 | UINT32_MAX);
        for (int r = 0; r < devices[d].rings; r++)
            watch(epoll, devices[d].kick[r], (uint64_t)d << 32 | (uint32_t)r);
    }
    for (;;) {
        int n = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct device *device = &devices[events[i].data.u64 >> 32];
            uint32_t ring = (uint32_t)events[i].data.u64;
            if (ring != UINT32_MAX) {
                uint64_t count;
                if (read(device->kick[ring], &count, sizeof count) > 0)
                    signal_fd(device->call[ring]);
                continue;
            }
            struct message in[MAX_RINGS], out[MAX_RINGS];
            ssize_t size = read(device->back, in, sizeof in);
            if (size <= 0)
                _exit(0);
            int replies = 0;
            for (int m = 0; m < (int)(size / (ssize_t)sizeof *in); m++) {
                uint32_t *mine = &base[events[i].data.u64 >> 32][in[m].index % MAX_RINGS];
                if (in[m].request == SET_VRING_BASE) {
                    *mine = in[m].num;
                } else {
                    out[replies] = in[m];
                    out[replies].flags = VERSION | REPLY;
                    out[replies++].num = *mine;
                }
            }
            if (replies)
                write_all(device->back, out, (size_t)replies * sizeof *out);
        }
    }
}

static struct message message(uint32_t request, int ring, uint32_t num)
{
    return (struct message){request, VERSION, 8, (uint32_t)ring, num};
}

static uint64_t stop_lockstep(void)
{
    uint64_t start = now();
    for (int d = 0; d < sockets; d++)
        for (int r = 0; r < devices[d].rings; r++) {
            struct message m = message(GET_VRING_BASE, r, 0);
            write_all(devices[d].front, &m, sizeof m);
            if (recv(devices[d].front, &m, sizeof m, MSG_WAITALL) != sizeof m)
                die("recv");
        }
    return now() - start;
}

static void send_all(uint32_t request)
{
    struct message batch[MAX_RINGS];
    for (int d = 0; d < sockets; d++) {
        for (int r = 0; r < devices[d].rings; r++)
            batch[r] = message(request, r, 7);
        write_all(devices[d].front, batch, (size_t)devices[d].rings * sizeof *batch);
    }
}

static uint64_t stop_in_flight(void)
{
    uint64_t start = now();
    send_all(GET_VRING_BASE);
    for (int d = 0; d < sockets; d++) {
        struct message batch[MAX_RINGS];
        size_t size = (size_t)devices[d].rings * sizeof *batch;
        if (recv(devices[d].front, batch, size, MSG_WAITALL) != (ssize_t)size)
            die("recv");
    }
    return now() - start;
}

static uint64_t start_all(int epoll)
{
    struct epoll_event events[EVENTS];
    uint64_t start = now();
    send_all(SET_VRING_BASE);
    for (int d = 0; d < sockets; d++)
        for (int r = 0; r < devices[d].rings; r++)
            signal_fd(devices[d].kick[r]);
    for (int called = 0; called < total_rings;) {
        int n = epoll_wait(epoll, events, EVENTS, 5000);
        if (n <= 0)
            die("a ring never called back");
        for (int i = 0; i < n; i++, called++) {
            uint64_t count;
            if (read(events[i].data.fd, &count, sizeof count) < 0)
                die("read");
        }
    }
    return now() - start;
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static uint64_t median(uint64_t *values)
{
    qsort(values, ROUNDS, sizeof *values, ascending);
    return values[ROUNDS / 2];
}

static void add_devices(const char *shape)
{
    int count, rings;
    if (sscanf(shape, "%dx%d", &count, &rings) != 2 || rings < 1 || rings > MAX_RINGS ||
        count < 0 || sockets + count > MAX_SOCKETS) {
        fprintf(stderr, "floor: %s is no shape: write SOCKETSxRINGS\n", shape);
        exit(2);
    }
    for (; count; count--, sockets++, total_rings += rings) {
        struct device *device = &devices[sockets];
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
            die("socketpair");
        device->front = pair[0];
        device->back = pair[1];
        device->rings = rings;
        for (int r = 0; r < rings; r++) {
            device->kick[r] = eventfd(0, EFD_NONBLOCK);
            device->call[r] = eventfd(0, EFD_NONBLOCK);
            if (device->call[r] < 0)
                die("eventfd");
        }
    }
}

int main(int argc, char **argv)
{
    static uint64_t lockstep[ROUNDS], inflight[ROUNDS], start[ROUNDS];
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    devices = calloc(MAX_SOCKETS, sizeof *devices);
    if (argc < 2 || !devices) {
        fprintf(stderr, "usage: floor SOCKETSxRINGS [SOCKETSxRINGS ...]\n");
        return 2;
    }
    for (int i = 1; i < argc; i++)
        add_devices(argv[i]);
    for (int which = 0; which < BACKENDS; which++) {
        pid_t pid = fork();
        if (pid < 0)
            die("fork");
        if (!pid) {
            for (int d = 0; d < sockets; d++)
                close(devices[d].front);
            serve(which);
        }
    }
    int epoll = epoll_create1(0);
    for (int d = 0; d < sockets; d++) {
        close(devices[d].back);
        for (int r = 0; r < devices[d].rings; r++)
            watch(epoll, devices[d].call[r], (uint64_t)devices[d].call[r]);
    }
    for (int round = 0; round < ROUNDS; round++) {
        lockstep[round] = stop_lockstep();
        inflight[round] = stop_in_flight();
        start[round] = start_all(epoll);
    }
    printf("{\"sockets\": %d, \"rings\": %d, \"lockstep_ns\": %llu, \"inflight_ns\": %llu, "
           "\"start_ns\": %llu}\n",
           sockets, total_rings, (unsigned long long)median(lockstep),
           (unsigned long long)median(inflight), (unsigned long long)median(start));
    for (int d = 0; d < sockets; d++)
        close(devices[d].front);
    for (int which = 0; which < BACKENDS; which++)
        wait(NULL);
    return 0;
}
