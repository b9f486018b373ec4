#include <stdint.h>
#include <string.h>

#include "queue.h"

/* A NIC whose frames come back to it: from a transmit ring to a receive ring of the same guest, many
   in one call (virtio 1.3, 5.1.6). backends.net_device does the same in Python. */

enum { PACKETS_TX = 5, PACKETS_RX, PACKETS_DROPPED };

static uint64_t total(const vu_chain *c) {
    uint64_t length = 0;
    for (unsigned i = 0; i < c->count; i++)
        length += c->buffers[i].length;
    return length;
}

struct cursor {
    const vu_buffer *at;
    uint64_t done; /* bytes of it */
};

/* Appends bytes to buffers that have room for them. */
static void put(struct cursor *to, const uint8_t *bytes, uint64_t length) {
    while (length) {
        uint64_t room = to->at->length - to->done, n = length < room ? length : room;
        memmove(to->at->bytes + to->done, bytes, n); /* a driver may have them overlap */
        bytes += n, length -= n, to->done += n;
        if (to->done == to->at->length)
            to->at++, to->done = 0;
    }
}

/* The NIC's header, and then the frame without its own. */
static void copy(const vu_chain *to, const vu_nic *nic, const vu_chain *from) {
    struct cursor at = {to->buffers, 0};
    uint64_t skip = nic->header_bytes;
    put(&at, nic->header, skip);
    for (const vu_buffer *in = from->buffers; in < from->buffers + from->count; in++) {
        uint64_t skipped = skip < in->length ? skip : in->length;
        put(&at, in->bytes + skipped, in->length - skipped);
        skip -= skipped;
    }
}

/* Sends frames back until `budget` frames or `bytes` bytes are done, or the next one is not one for
   here. Returns VU_SERVED_* bits. */
int vu_nic_return(vu_queue *tx, vu_queue *rx, const vu_nic *nic, int budget, uint64_t bytes) {
    vu_chain from, to;
    int result = VU_SERVED_SOME, left = budget < VU_BATCH ? budget : VU_BATCH;
    for (uint64_t moved = 0, length; left && moved < bytes; left--, moved += length) {
        int kind = vu_next(tx, &from), target = VU_NONE;
        length = 0;
        if (kind == VU_NONE) {
            if (vu_arm(tx))
                continue;
            result = VU_SERVED_ALL;
            break;
        }
        length = kind == VU_USUAL && from.readable == from.count ? total(&from) : 0;
        if (length < nic->shortest || length > nic->longest ||
            (target = vu_next(rx, &to)) == VU_UNUSUAL ||
            (target == VU_USUAL && (to.readable || total(&to) < length))) {
            result = 0;
            break;
        }
        if (target == VU_USUAL) {
            copy(&to, nic, &from);
            if (vu_lost(tx)) { /* the frame may be zeroes */
                result = 0;
                break;
            }
            vu_taken(rx, to.head);
            for (uint64_t i = 0, rest = length, n; rest; i++, rest -= n) {
                n = rest < to.buffers[i].length ? rest : to.buffers[i].length;
                vu_dirty(rx, to.gpas[i], n);
            }
            vu_push(rx, to.head, (uint32_t)length);
        }
        vu_taken(tx, from.head);
        vu_push(tx, from.head, 0);
        nic->counters[PACKETS_TX]++;
        nic->counters[target == VU_USUAL ? PACKETS_RX : PACKETS_DROPPED]++;
    }
    result |= vu_publish(tx) ? VU_SERVED_NOTIFY : 0;
    return result | (vu_publish(rx) ? VU_SERVED_NOTIFY_OTHER : 0);
}
