/*
 * The floor: what the vhost-user protocol itself costs, and nothing else.
 *
 *     floor SOCKETSxRINGS [SOCKETSxRINGS ...]
 *
 * Back-ends are forked processes, two of them, that share the sockets. A front-end on one thread
 *   lockstep_ns  stops all rings with one GET_VRING_BASE after the other,
 *   inflight_ns  stops them with all requests in flight,
 *   activate_ns  hands them over: SET_VRING_BASE, SET_VRING_ADDR and SET_VRING_ENABLE of each, the
 *                last one of each socket acknowledged, all in flight,
 *   start_ns     starts them: SET_VRING_BASE and a kick each, until each ring's call eventfd is
 *                signalled.
 * The medians of ROUNDS rounds are printed as one line of JSON. Status 1: it failed; 2: bad usage.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "floor.h"

enum { SET_VRING_ADDR = 9, SET_VRING_BASE = 10, GET_VRING_BASE = 11, SET_VRING_ENABLE = 18 };
enum { VERSION = 1, REPLY = 4, NEED_REPLY = 8 };
enum { MAX_SOCKETS = 1024, MAX_RINGS = 256, BACKENDS = 2, EVENTS = 256 };
enum { HEADER = 12, INBOX = 32768, TIMEOUT_S = 60, RING_TIMEOUT_MS = 5000 };

/* Header and "vring state" payload (vhost-user, "Header" and "A vring state description"). An
   acknowledgement, a header and a u64, is as long. */
struct state {
    uint32_t request, flags, size, index, num;
};

/* Header and "vring address" payload (vhost-user, "A vring address description"). */
struct addr {
    uint32_t request, flags, size, index, ring_flags;
    uint64_t desc, used, avail, log;
} __attribute__((packed));

/* The state that is transferred for one ring. */
struct activation {
    struct state base;
    struct addr addr;
    struct state enable;
} __attribute__((packed));

struct device {
    int front, back, rings;
    int kick[MAX_RINGS], call[MAX_RINGS];
    uint32_t base[MAX_RINGS];
    size_t have; /* bytes of inbox that are not a complete message yet */
    char *inbox;
};

static struct device *devices;
static int sockets, total_rings;

static void write_all(int fd, const void *data, size_t size) {
    for (const char *at = data; size;) {
        ssize_t n = write(fd, at, size);
        if (n <= 0)
            die("write");
        at += n;
        size -= (size_t)n;
    }
}

static void read_all(int fd, void *data, size_t size) {
    if (recv(fd, data, size, MSG_WAITALL) != (ssize_t)size)
        die("recv");
}

static void signal_fd(int fd) {
    uint64_t one = 1;
    write_all(fd, &one, sizeof one);
}

static void watch(int epoll, int fd, uint64_t tag) {
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = tag};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
        die("epoll_ctl");
}

/* Back-end: handles the complete messages of the inbox, with one write for all replies. */
static void answer(struct device *device) {
    struct state in, out[INBOX / sizeof(struct state)];
    size_t at = 0, replies = 0;
    while (device->have - at >= sizeof in) {
        memcpy(&in, device->inbox + at, sizeof in);
        if (device->have - at < HEADER + in.size)
            break;
        at += HEADER + in.size;
        if (in.request == SET_VRING_BASE)
            device->base[in.index % MAX_RINGS] = in.num;
        if (in.request == GET_VRING_BASE)
            in.num = device->base[in.index % MAX_RINGS];
        else if (in.flags & NEED_REPLY)
            in.index = in.num = 0; /* success */
        else
            continue;
        in.flags = VERSION | REPLY;
        out[replies++] = in;
    }
    memmove(device->inbox, device->inbox + at, device->have - at);
    device->have -= at;
    if (replies)
        write_all(device->back, out, replies * sizeof *out);
}

/* Back-end: replies to requests, and signals call for each kick, until the front-end disconnects. */
static void serve(int which) {
    struct epoll_event events[EVENTS];
    int epoll = epoll_create1(0);
    for (int d = which; d < sockets; d += BACKENDS) {
        devices[d].inbox = malloc(INBOX);
        if (!devices[d].inbox)
            die("malloc");
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
            ssize_t size = read(device->back, device->inbox + device->have, INBOX - device->have);
            if (size <= 0)
                _exit(0);
            device->have += (size_t)size;
            answer(device);
        }
    }
}

static struct state state(uint32_t request, int ring, uint32_t num) {
    return (struct state){request, VERSION, 8, (uint32_t)ring, num};
}

static uint64_t stop_lockstep(void) {
    uint64_t start = now();
    for (int d = 0; d < sockets; d++)
        for (int r = 0; r < devices[d].rings; r++) {
            struct state m = state(GET_VRING_BASE, r, 0);
            write_all(devices[d].front, &m, sizeof m);
            read_all(devices[d].front, &m, sizeof m);
        }
    return now() - start;
}

static void send_all(uint32_t request) {
    struct state batch[MAX_RINGS];
    for (int d = 0; d < sockets; d++) {
        for (int r = 0; r < devices[d].rings; r++)
            batch[r] = state(request, r, 7);
        write_all(devices[d].front, batch, (size_t)devices[d].rings * sizeof *batch);
    }
}

static uint64_t stop_in_flight(void) {
    struct state batch[MAX_RINGS];
    uint64_t start = now();
    send_all(GET_VRING_BASE);
    for (int d = 0; d < sockets; d++)
        read_all(devices[d].front, batch, (size_t)devices[d].rings * sizeof *batch);
    return now() - start;
}

static uint64_t activate(void) {
    struct activation batch[MAX_RINGS];
    struct state ack;
    uint64_t start = now();
    for (int d = 0; d < sockets; d++) {
        for (int r = 0; r < devices[d].rings; r++) {
            batch[r].base = state(SET_VRING_BASE, r, 7);
            batch[r].addr = (struct addr){.request = SET_VRING_ADDR,
                                          .flags = VERSION,
                                          .size = sizeof(struct addr) - HEADER,
                                          .index = (uint32_t)r,
                                          .desc = (uint64_t)r << 12};
            batch[r].enable = state(SET_VRING_ENABLE, r, 1);
        }
        batch[devices[d].rings - 1].enable.flags |= NEED_REPLY;
        write_all(devices[d].front, batch, (size_t)devices[d].rings * sizeof *batch);
    }
    for (int d = 0; d < sockets; d++)
        read_all(devices[d].front, &ack, sizeof ack);
    return now() - start;
}

static uint64_t start_all(int epoll) {
    struct epoll_event events[EVENTS];
    uint64_t start = now();
    send_all(SET_VRING_BASE);
    for (int d = 0; d < sockets; d++)
        for (int r = 0; r < devices[d].rings; r++)
            signal_fd(devices[d].kick[r]);
    for (int called = 0; called < total_rings;) {
        int n = epoll_wait(epoll, events, EVENTS, RING_TIMEOUT_MS);
        if (n <= 0)
            die("the call eventfd of a ring was not signalled");
        for (int i = 0; i < n; i++, called++) {
            uint64_t count;
            if (read(events[i].data.fd, &count, sizeof count) < 0)
                die("read");
        }
    }
    return now() - start;
}

static void add_device(int rings) {
    struct device *device = &devices[sockets++];
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
        die("socketpair");
    device->front = pair[0];
    device->back = pair[1];
    device->rings = rings;
    total_rings += rings;
    for (int r = 0; r < rings; r++) {
        device->kick[r] = eventfd(0, EFD_NONBLOCK);
        device->call[r] = eventfd(0, EFD_NONBLOCK);
        if (device->kick[r] < 0 || device->call[r] < 0)
            die("eventfd");
    }
}

static void add_devices(const char *shape) {
    int count, rings, end = 0;
    if (sscanf(shape, "%dx%d%n", &count, &rings, &end) != 2 || shape[end] || rings < 1 ||
        rings > MAX_RINGS || count < 1 || count > MAX_SOCKETS - sockets) {
        fprintf(stderr,
                "floor: %s is not a shape: write SOCKETSxRINGS, %d sockets with %d rings at "
                "the most\n",
                shape, MAX_SOCKETS, MAX_RINGS);
        exit(2);
    }
    while (count--)
        add_device(rings);
}

static int fork_backends(void) {
    int count = sockets < BACKENDS ? sockets : BACKENDS;
    pid_t parent = getpid();
    for (int which = 0; which < count; which++) {
        pid_t pid = fork();
        if (pid < 0)
            die("fork");
        if (!pid) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent)
                _exit(1);
            for (int d = 0; d < sockets; d++)
                close(devices[d].front);
            serve(which);
        }
    }
    return count;
}

int main(int argc, char **argv) {
    static uint64_t lockstep[ROUNDS], inflight[ROUNDS], activation[ROUNDS], start[ROUNDS];
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
    alarm(TIMEOUT_S); /* ends a wait that never returns */
    int backends = fork_backends();
    int epoll = epoll_create1(0);
    for (int d = 0; d < sockets; d++) {
        close(devices[d].back);
        for (int r = 0; r < devices[d].rings; r++)
            watch(epoll, devices[d].call[r], (uint64_t)devices[d].call[r]);
    }
    for (int round = 0; round < ROUNDS; round++) {
        lockstep[round] = stop_lockstep();
        inflight[round] = stop_in_flight();
        activation[round] = activate();
        start[round] = start_all(epoll);
    }
    printf("{\"sockets\": %d, \"rings\": %d, \"rounds\": %d, \"lockstep_ns\": %llu, "
           "\"inflight_ns\": %llu, \"activate_ns\": %llu, \"start_ns\": %llu}\n",
           sockets, total_rings, ROUNDS, median(lockstep), median(inflight), median(activation),
           median(start));
    for (int d = 0; d < sockets; d++)
        close(devices[d].front);
    while (backends--)
        wait(NULL);
    return 0;
}
