#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>

#include "clock.h"
#include "queue.h"

/* A split virtqueue from the device's side, for devices that serve many requests in one call.

   A guest may write its rings and tables at any time: each field is read once, and checked before it
   is used. Addresses are translated and checked for every descriptor. Nothing here reports an error:
   a chain that is not one of the usual kind stays in the ring, and vhost_user.virtqueue, which has
   the same rules in Python, takes it and says what is wrong. */

enum { F_NEXT = 1, F_WRITE = 2, F_INDIRECT = 4 };
enum { LOOKS = 100, LEAST_NS = 4000, MOST_NS = 32000 };
enum { AT_BATCH = 12, AT_USED = 14, AT_RING = 16 }; /* offsets in the inflight region of a ring */

struct descriptor {
    uint64_t gpa;
    uint32_t length;
    uint16_t flags, next;
};

/* What was copied is used from here on: the compiler must not read the original again. */
static void copy_once(void *to, const void *from, size_t bytes) {
    memcpy(to, from, bytes);
    __asm__ volatile("" ::: "memory");
}

static uint16_t avail_index(const vu_queue *q) {
    return __atomic_load_n(&q->avail[1], __ATOMIC_ACQUIRE);
}

/* The bytes of a range that lies in one region, or NULL. */
static uint8_t *translate(vu_queue *q, uint64_t gpa, uint64_t length) {
    const vu_region *r = &q->regions[q->region];
    if (gpa - r->start >= r->length) {
        uint64_t low = 0, high = q->region_count; /* the last region that starts at or below gpa */
        while (high - low > 1) {
            uint64_t middle = (low + high) / 2;
            if (q->regions[middle].start <= gpa)
                low = middle;
            else
                high = middle;
        }
        q->region = low;
        r = &q->regions[low];
        if (gpa - r->start >= r->length)
            return NULL;
    }
    return length <= r->length - (gpa - r->start) ? r->bytes + (gpa - r->start) : NULL;
}

/* Follows the chain of a head; its buffers, readable ones first. 0: it is not a usual one. */
static int follow(vu_queue *q, unsigned head, vu_chain *c) {
    uint8_t table[VU_CHAIN * sizeof(struct descriptor)];
    const uint8_t *from = q->desc;
    uint64_t size = q->size, index = head;
    c->head = head;
    c->count = c->readable = 0;
    for (unsigned steps = 0; steps <= VU_CHAIN; steps++) {
        struct descriptor d;
        copy_once(&d, from + index * sizeof d, sizeof d);
        if (d.flags & F_INDIRECT) {
            const uint8_t *bytes = translate(q, d.gpa, d.length);
            if (from == table || d.flags & F_NEXT || !bytes || !d.length || d.length % sizeof d ||
                d.length > sizeof table)
                return 0;
            copy_once(table, bytes, d.length);
            from = table, size = d.length / sizeof d, index = 0;
            continue;
        }
        uint8_t *bytes = translate(q, d.gpa, d.length);
        int writable = d.flags & F_WRITE;
        if (!bytes || !d.length || c->count == VU_CHAIN || (!writable && c->readable < c->count))
            return 0;
        if (writable && q->log && (d.gpa + d.length - 1) >> 15 >= q->log_bytes)
            return 0; /* beyond the log: a byte of it is for 32 KiB */
        c->buffers[c->count] = (vu_buffer){bytes, d.length};
        c->gpas[c->count++] = d.gpa;
        c->readable += !writable;
        if (!(d.flags & F_NEXT))
            return 1;
        if (d.next >= size)
            return 0;
        index = d.next;
    }
    return 0;
}

/* The next chain, which stays in the ring until vu_taken: one of VU_NONE, VU_USUAL, VU_UNUSUAL. */
int vu_next(vu_queue *q, vu_chain *c) {
    uint16_t index = avail_index(q), ahead = (uint16_t)(index - q->last_avail);
    if (!ahead)
        return VU_NONE;
    if (ahead > q->size)
        return VU_UNUSUAL;
    unsigned head =
        __atomic_load_n(&q->avail[2 + (q->last_avail & (q->size - 1))], __ATOMIC_RELAXED);
    return head < q->size && follow(q, head, c) && !vu_lost(q) ? VU_USUAL : VU_UNUSUAL;
}

static void put16(uint8_t *at, uint16_t value) { memcpy(at, &value, sizeof value); }

void vu_taken(vu_queue *q, unsigned head) {
    q->last_avail = (uint16_t)(q->last_avail + 1);
    if (q->inflight) {
        uint8_t *entry = q->inflight + AT_RING + 16 * head;
        memcpy(entry + 8, &q->inflight_count, sizeof q->inflight_count);
        q->inflight_count++;
        __atomic_store_n(entry, 1, __ATOMIC_RELEASE);
    }
}

void vu_dirty(vu_queue *q, uint64_t gpa, uint64_t length) {
    if (q->log)
        vu_log_mark(q->log, q->log_bytes, gpa, length);
}

static void dirty_used(vu_queue *q, uint64_t offset, uint64_t length) {
    if (q->used_log)
        vu_log_mark(q->used_log, q->log_bytes, q->used_gpa + offset, length);
}

/* Visible after vu_publish. No more than VU_BATCH of them may be pushed before that. */
void vu_push(vu_queue *q, unsigned head, uint32_t written) {
    unsigned slot = q->used_idx & (q->size - 1);
    uint32_t element[2] = {head, written};
    memcpy((uint8_t *)q->used + 4 + 8 * slot, element, sizeof element);
    if (q->inflight) {
        memcpy(q->inflight + AT_RING + 16 * head + 6, q->inflight + AT_BATCH, 2);
        put16(q->inflight + AT_BATCH, (uint16_t)head);
    }
    q->heads[(uint16_t)(q->used_idx - q->used_start)] = (uint16_t)head;
    q->used_idx = (uint16_t)(q->used_idx + 1);
    dirty_used(q, 4 + 8 * slot, 8);
}

/* Whether the driver wants an interrupt for what was pushed. */
int vu_publish(vu_queue *q) {
    uint16_t new = q->used_idx, old = q->used_start, count = (uint16_t)(new - old);
    if (!count)
        return 0;
    __atomic_store_n(&q->used[1], new, __ATOMIC_RELEASE);
    q->used_start = new;
    dirty_used(q, 0, 4);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (q->inflight) {
        for (unsigned i = 0; i < count; i++)
            q->inflight[AT_RING + 16 * q->heads[i]] = 0;
        put16(q->inflight + AT_USED, new);
    }
    if (q->call_next) {
        q->call_next = 0;
        return 1;
    }
    if (q->event_idx) {
        uint16_t event = __atomic_load_n(&q->avail[2 + q->size], __ATOMIC_RELAXED);
        return (uint16_t)(new - event - 1) < count;
    }
    return !(__atomic_load_n(&q->avail[0], __ATOMIC_RELAXED) & 1);
}

/* Publishes, and interrupts the driver if it wants that; 1: the caller has to. */
int vu_show(vu_queue *q, uint64_t *calls) {
    if (!vu_publish(q))
        return 0;
    if (q->call < 0 || vu_signal((int)q->call))
        return 1;
    ++*calls;
    return 0;
}

/* A driver that waits for each request makes the next one within microseconds: looking for it costs
   less than a kick. This ends when there is anything else to do. Returns whether there is more;
   otherwise a kick was asked for. */
int vu_wait(vu_queue *q) {
    struct epoll_event event;
    if (q->events < 0)
        return vu_arm(q);
    q->empty_since = now();
    while (now() - q->empty_since < q->wait_ns) {
        for (int i = 0; i < LOOKS; i++) {
            if (avail_index(q) != q->last_avail) {
                q->empty_since = 0;
                return 1;
            }
        }
        if (epoll_wait((int)q->events, &event, 1, 0))
            break;
    }
    return vu_arm(q);
}

/* A ring that was empty has been kicked. It is waited for the next time if that was soon: for twice
   as long as the last time. */
void vu_awaken(vu_queue *q) {
    if (!q->empty_since)
        return;
    int soon = now() - q->empty_since < MOST_NS;
    q->wait_ns = !soon ? 0 : q->wait_ns ? q->wait_ns * 2 : LEAST_NS;
    if (q->wait_ns > MOST_NS)
        q->wait_ns = MOST_NS;
    q->empty_since = 0;
}

/* Asks for a kick; whether there is more already. */
int vu_arm(vu_queue *q) {
    if (q->event_idx) {
        __atomic_store_n(&q->used[2 + 4 * q->size], q->last_avail, __ATOMIC_RELAXED);
        dirty_used(q, 4 + 8 * q->size, 2);
    } else if (q->used[0]) {
        q->used[0] = 0;
        dirty_used(q, 0, 2);
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return avail_index(q) != q->last_avail;
}
