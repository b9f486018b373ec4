/*
 * A driver of split rings whose own work is small beside that of a back-end: a shared library for
 * bench/traffic.py, which maps guest memory, sets the rings up, and describes them here.
 *
 * Disks: each request has an indirect table, as Linux's driver uses it. The driver sleeps until a
 * ring's call eventfd is signalled, and handles all completions that it finds then. Network cards:
 * the driver polls, as programs that forward frames do, and asks for no interrupts.
 *
 * The functions return 0, or a negative code of enum failure.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_RINGS = 16, TIMEOUT_MS = 5000, BLOCK = 4096 };
enum { F_NEXT = 1, F_WRITE = 2, F_INDIRECT = 4 };
enum { BLK_IN = 0, BLK_OUT = 1 };
enum failure { TIMED_OUT = -1, BAD_COMPLETION = -2, BAD_STATUS = -3, BAD_DATA = -4, NO_KICK = -5 };

struct desc {
    uint64_t gpa;
    uint32_t length;
    uint16_t flags, next;
};

struct used_element {
    uint32_t head, written;
};

/* One ring as its driver sees it; bench/traffic.py has the same. Event index is negotiated. */
struct ring {
    struct desc *desc;
    uint16_t *avail;
    uint16_t *used;
    uint8_t *slots; /* of each descriptor: the buffers of its request */
    uint64_t slots_gpa, slot_bytes;
    int kick, call;
    uint16_t size, next, reaped;
    uint64_t kicks, calls; /* how many were written and read */
};

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

static uint16_t read_index(const uint16_t *ring) {
    return __atomic_load_n(&ring[1], __ATOMIC_ACQUIRE);
}

static uint8_t *slot(struct ring *r, unsigned head) { return r->slots + head * r->slot_bytes; }
static uint64_t slot_gpa(struct ring *r, unsigned head) {
    return r->slots_gpa + head * r->slot_bytes;
}

static void add(struct ring *r, unsigned head) {
    r->avail[2 + (r->next++ & (r->size - 1))] = (uint16_t)head;
}

/* Shows the device what was added, and kicks it if it wants that. */
static int publish(struct ring *r) {
    uint16_t old = r->avail[1], new = r->next;
    if (old == new)
        return 0;
    __atomic_store_n(&r->avail[1], new, __ATOMIC_RELEASE);
    fence();
    uint16_t event = r->used[2 + 4 * r->size];
    if ((uint16_t)(new - event - 1) >= (uint16_t)(new - old))
        return 0;
    uint64_t one = 1;
    r->kicks++;
    return write(r->kick, &one, sizeof one) == sizeof one ? 0 : NO_KICK;
}

static void want_call_at(struct ring *r, uint16_t index) {
    __atomic_store_n(&r->avail[2 + r->size], index, __ATOMIC_RELAXED);
}

static struct used_element *reap(struct ring *r) {
    struct used_element *elements = (struct used_element *)(r->used + 2);
    return &elements[r->reaped++ & (r->size - 1)];
}

/* Sleeps until a call eventfd is signalled; returns at once if a completion has come meanwhile. */
static int wait_for_calls(struct ring *rings, int count) {
    struct pollfd fds[MAX_RINGS];
    for (int i = 0; i < count; i++)
        want_call_at(&rings[i], rings[i].reaped);
    fence();
    for (int i = 0; i < count; i++) {
        if (read_index(rings[i].used) != rings[i].reaped)
            return 0;
        fds[i] = (struct pollfd){.fd = rings[i].call, .events = POLLIN};
    }
    if (poll(fds, (nfds_t)count, TIMEOUT_MS) <= 0)
        return TIMED_OUT;
    for (int i = 0; i < count; i++) {
        uint64_t value;
        if (fds[i].revents && read(fds[i].fd, &value, sizeof value) > 0)
            rings[i].calls++;
    }
    return 0;
}

/* A slot of a disk: the indirect table, the request's header, its status; data in the pages after. */
enum { HEADER_AT = 64, STATUS_AT = 128, DATA_AT = 4096 };

struct header {
    uint32_t type, reserved;
    uint64_t sector;
};

static void add_block(struct ring *r, unsigned head, unsigned type, uint32_t bytes,
                      uint64_t block) {
    uint8_t *at = slot(r, head);
    *(struct header *)(at + HEADER_AT) = (struct header){type, 0, block * (bytes / 512)};
    at[STATUS_AT] = 0xff;
    uint64_t stamp = block * (bytes / BLOCK);
    if (type == BLK_IN)
        memset(at + DATA_AT, 0xff, sizeof stamp);
    for (uint32_t done = 0; type == BLK_OUT && done < bytes; done += BLOCK, stamp++)
        memcpy(at + DATA_AT + done, &stamp, sizeof stamp);
    add(r, head);
}

static int check_block(struct ring *r, struct used_element done, unsigned type, uint32_t bytes) {
    if (done.head >= r->size || done.written != (type == BLK_IN ? bytes + 1 : 1))
        return BAD_COMPLETION;
    uint8_t *at = slot(r, done.head);
    uint64_t stamp, sector = ((struct header *)(at + HEADER_AT))->sector;
    if (at[STATUS_AT])
        return BAD_STATUS;
    memcpy(&stamp, at + DATA_AT, sizeof stamp);
    return stamp == sector / (BLOCK / 512) ? 0 : BAD_DATA;
}

/* What a run of requests has in common. */
struct work {
    unsigned type;
    uint32_t bytes;
    uint64_t blocks, random, left; /* blocks of the disk; requests to add */
};

static void add_random(struct ring *r, unsigned head, struct work *w) {
    w->random ^= w->random << 13, w->random ^= w->random >> 7, w->random ^= w->random << 17;
    w->left--;
    add_block(r, head, w->type, w->bytes, w->random % w->blocks);
}

static int begin(struct ring *r, unsigned depth, struct work *w) {
    for (unsigned head = 0; head < depth && w->left; head++) {
        struct desc *table = (struct desc *)slot(r, head);
        uint64_t gpa = slot_gpa(r, head);
        uint16_t data = F_NEXT | (w->type == BLK_IN ? F_WRITE : 0);
        table[0] = (struct desc){gpa + HEADER_AT, sizeof(struct header), F_NEXT, 1};
        table[1] = (struct desc){gpa + DATA_AT, w->bytes, data, 2};
        table[2] = (struct desc){gpa + STATUS_AT, 1, F_WRITE, 0};
        r->desc[head] = (struct desc){gpa, sizeof(struct desc) * 3, F_INDIRECT, 0};
        add_random(r, head, w);
    }
    return publish(r);
}

/* `requests` requests of `bytes` bytes at random blocks of a disk, `depth` in flight on each ring.
   Every 4096 bytes of the disk begin with their number. */
int run_disk(struct ring *rings, int count, int depth, int type, uint32_t bytes, uint64_t blocks,
             uint64_t requests, uint64_t *ns) {
    struct work w = {(unsigned)type, bytes, blocks, 88172645463325252u, requests};
    uint64_t started = now(), done = 0;
    int error = 0;
    for (int i = 0; i < count && !error; i++)
        error = begin(&rings[i], (unsigned)depth, &w);
    while (!error && done < requests) {
        uint64_t before = done;
        for (int i = 0; i < count && !error; i++) {
            struct ring *r = &rings[i];
            want_call_at(r, (uint16_t)(r->reaped - 1)); /* none, while completions are handled */
            for (uint16_t end = read_index(r->used); r->reaped != end && !error; done++) {
                struct used_element each = *reap(r);
                error = check_block(r, each, w.type, bytes);
                if (!error && w.left)
                    add_random(r, each.head, &w);
            }
            error = error ? error : publish(r);
        }
        if (!error && done == before && done < requests)
            error = wait_for_calls(rings, count);
    }
    *ns = now() - started;
    return error;
}

enum { NET_HEADER = 12, FRAME_AT = 64 };

static void post(struct ring *r, unsigned head, uint32_t length, unsigned flags) {
    r->desc[head] = (struct desc){slot_gpa(r, head) + FRAME_AT, length, (uint16_t)flags, 0};
    add(r, head);
}

/* `packets` frames of `bytes` bytes sent on rings[1], and received on rings[0] when the device has
   sent them back; at most `window` are on their way. */
int run_nic(struct ring *rings, int window, uint32_t bytes, uint64_t packets, uint64_t *ns) {
    struct ring *rx = &rings[0], *tx = &rings[1];
    uint64_t sent = 0, received = 0, started = now(), last = started;
    uint32_t length = bytes + NET_HEADER;
    for (unsigned head = 0; head < rx->size; head++)
        if ((uint16_t)(rx->next - rx->reaped) < rx->size)
            post(rx, head, (uint32_t)rx->slot_bytes - FRAME_AT, F_WRITE);
    int error = publish(rx);
    for (unsigned head = 0; head < (unsigned)window; head++) {
        uint8_t *frame = slot(tx, head) + FRAME_AT + NET_HEADER;
        memset(frame - NET_HEADER, 0, length);
        memcpy(frame, "\x52\x54\0\0\0\1\x52\x54\0\0\0\2\x88\xb5", 14);
    }
    unsigned free_heads[1024], free_count = (unsigned)window;
    for (unsigned head = 0; head < free_count; head++)
        free_heads[head] = head;
    while (!error && (received < packets || free_count < (unsigned)window)) {
        uint64_t before = received;
        want_call_at(rx, (uint16_t)(rx->reaped - 1));
        want_call_at(tx, (uint16_t)(tx->reaped - 1));
        for (uint16_t end = read_index(rx->used); rx->reaped != end;) {
            struct used_element each = *reap(rx);
            if (each.head >= rx->size || each.written != length)
                return BAD_COMPLETION;
            received++;
            post(rx, each.head, (uint32_t)rx->slot_bytes - FRAME_AT, F_WRITE);
        }
        for (uint16_t end = read_index(tx->used); tx->reaped != end;) {
            struct used_element each = *reap(tx);
            if (each.head >= (unsigned)window || free_count == (unsigned)window)
                return BAD_COMPLETION;
            free_heads[free_count++] = each.head;
        }
        while (free_count && sent < packets && sent - received < (uint64_t)window) {
            post(tx, free_heads[--free_count], length, 0);
            sent++;
        }
        error = publish(rx);
        error = error ? error : publish(tx);
        if (received != before)
            last = now();
        else if (now() - last > (uint64_t)TIMEOUT_MS * 1000000u)
            return TIMED_OUT;
    }
    *ns = now() - started;
    return error;
}
