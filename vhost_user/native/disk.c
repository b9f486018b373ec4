#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

#include "queue.h"

/* Reads and writes of a virtio block device, many in one call (virtio 1.3, 5.2.6). What has another
   layout than drivers use, is not in the page cache, or fails, is left to backends.blk_device. */

enum { SECTOR = 512, T_IN = 0, T_OUT = 1, S_OK = 0, S_IOERR = 1 };
enum { REQUESTS, BYTES_READ, BYTES_WRITTEN, CALLS = 8 };

_Static_assert(sizeof(struct iovec) == sizeof(vu_buffer) &&
                   offsetof(struct iovec, iov_len) == offsetof(vu_buffer, length),
               "a buffer is a struct iovec");

struct header {
    uint32_t type, reserved;
    uint64_t sector;
};

/* Takes a read out of the ring, and completes it: all that the driver may write to has been. */
static void complete_read(vu_queue *q, vu_chain *c, uint64_t length) {
    vu_taken(q, c->head);
    *c->buffers[c->count - 1].bytes = S_OK;
    for (unsigned i = 1; i < c->count; i++)
        vu_dirty(q, c->gpas[i], c->buffers[i].length);
    vu_push(q, c->head, (uint32_t)length + 1);
}

static void complete_write(vu_queue *q, uint64_t head, uint8_t *status, uint64_t gpa, int failed) {
    *status = failed ? S_IOERR : S_OK;
    vu_dirty(q, gpa, 1);
    vu_push(q, (unsigned)head, 1);
}

static void collect(vu_disk *disk, vu_chain *c, uint64_t offset) {
    vu_disk_write *w = &disk->writes[disk->write_count++];
    w->offset = offset;
    w->head = c->head;
    w->status = c->buffers[c->count - 1].bytes;
    w->status_gpa = c->gpas[c->count - 1];
    w->count = c->count - 2;
    memcpy(w->buffers, c->buffers + 1, w->count * sizeof *w->buffers);
}

/* Whether it is a read or write of the disk as drivers make them; its header. */
static int usual(vu_queue *q, vu_disk *disk, vu_chain *c, struct header *header, uint64_t *length) {
    if (c->count < 3 || c->buffers[0].length != sizeof *header ||
        c->buffers[c->count - 1].length != 1)
        return 0;
    memcpy(header, c->buffers[0].bytes, sizeof *header);
    __asm__ volatile("" ::: "memory"); /* it is not read again */
    *length = 0;
    for (unsigned i = 1; i < c->count - 1; i++)
        *length += c->buffers[i].length;
    return (header->type == T_IN ? c->readable == 1
                                 : header->type == T_OUT && c->readable == c->count - 1) &&
           *length % SECTOR == 0 && *length <= disk->largest && *length <= disk->bytes &&
           header->sector <= (disk->bytes - *length) / SECTOR && !vu_lost(q);
}

/* Serves the next request; 0: it stays in the ring. */
static int serve(vu_queue *q, vu_disk *disk, vu_chain *c, uint64_t *length) {
    struct header header;
    if (!usual(q, disk, c, &header, length))
        return 0;
    int fd = (int)disk->fd, count = (int)c->count - 2, reads = header.type == T_IN;
    int64_t flags = reads ? disk->read_flags : disk->write_flags;
    off_t offset = (off_t)(header.sector * SECTOR);
    if (flags < 0 && (reads || !disk->writes))
        return 0;
    if (flags >= 0) {
        const struct iovec *data = (const struct iovec *)(c->buffers + 1);
        ssize_t done = reads ? preadv2(fd, data, count, offset, (int)flags)
                             : pwritev2(fd, data, count, offset, (int)flags);
        if (done != (ssize_t)*length)
            return 0;
    }
    if (reads) {
        complete_read(q, c, *length);
    } else {
        vu_taken(q, c->head);
        if (flags < 0)
            collect(disk, c, (uint64_t)offset);
        else
            complete_write(q, c->head, c->buffers[c->count - 1].bytes, c->gpas[c->count - 1], 0);
    }
    disk->counters[REQUESTS]++;
    disk->counters[reads ? BYTES_READ : BYTES_WRITTEN] += *length;
    return 1;
}

/* Serves a ring until `budget` requests or `bytes` bytes are done, or the next request is not one
   for here. Requests that were collected in `disk->writes` are in flight; the driver sees all
   others. Returns VU_SERVED_* bits. */
int vu_disk_serve(vu_queue *q, vu_disk *disk, int budget, uint64_t bytes) {
    vu_chain c;
    int notify = 0, result = VU_SERVED_SOME, left = budget < VU_BATCH ? budget : VU_BATCH;
    vu_awaken(q);
    for (uint64_t moved = 0, length; left && moved < bytes; left--) {
        int kind = vu_next(q, &c);
        if (kind == VU_NONE) {
            notify |= vu_show(q, &disk->counters[CALLS]);
            /* the caller has something to do */
            if (notify || disk->write_count ? vu_arm(q) : vu_wait(q))
                continue;
            result = VU_SERVED_ALL;
            break;
        }
        if (kind != VU_USUAL || !serve(q, disk, &c, &length)) {
            result = 0;
            break;
        }
        moved += length;
    }
    notify |= vu_show(q, &disk->counters[CALLS]);
    return result | (notify ? VU_SERVED_NOTIFY : 0);
}

static int write_all(vu_disk_write *w, int fd) {
    vu_buffer *at = w->buffers;
    uint64_t count = w->count, offset = w->offset;
    for (;;) {
        ssize_t done = pwritev(fd, (struct iovec *)at, (int)count, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done ? errno : EIO;
        offset += (uint64_t)done;
        for (; count && (size_t)done >= at->length; count--, at++)
            done -= (ssize_t)at->length;
        if (!count)
            return 0;
        at->bytes += done;
        at->length -= (size_t)done;
    }
}

/* Does what was collected; may block. Nothing of the ring is accessed. */
void vu_disk_write_all(int fd, vu_disk_write *writes, uint64_t count, uint64_t losses) {
    for (vu_disk_write *w = writes; w < writes + count; w++) {
        /* the data may be zeroes of a lost page */
        int lost = __atomic_load_n(&vu_losses, __ATOMIC_ACQUIRE) != losses;
        w->error = lost ? EFAULT : (uint64_t)write_all(w, fd);
        for (uint64_t i = 0; w->error == EFAULT && i < w->count; i++)
            vu_look(w->buffers[i].bytes, w->buffers[i].length);
    }
}

/* Completes what was written; whether the driver wants an interrupt, and twice the failures. */
int vu_disk_written(vu_queue *q, vu_disk_write *writes, uint64_t count) {
    int failures = 0;
    for (vu_disk_write *w = writes; w < writes + count; w++) {
        complete_write(q, w->head, w->status, w->status_gpa, w->error != 0);
        failures += w->error != 0;
    }
    return 2 * failures + vu_publish(q);
}
