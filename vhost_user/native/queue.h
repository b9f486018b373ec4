/* Split virtqueues by the batch: for the C parts only, as cffi does not need it. */
#ifndef QUEUE_H
#define QUEUE_H

#include "native.h"

enum { VU_CHAIN = 63, VU_BATCH = 64 }; /* buffers of a usual chain; requests of one call */
enum { VU_NONE, VU_USUAL, VU_UNUSUAL };

typedef struct vu_chain {
    unsigned head, count, readable; /* of `count` buffers, the first `readable` ones are readable */
    vu_buffer buffers[VU_CHAIN];
    uint64_t gpas[VU_CHAIN];
} vu_chain;

/* Memory was gone when it was accessed, since the caller has looked: what was read may be zeroes. */
static inline int vu_lost(const vu_queue *q) {
    return __atomic_load_n(&vu_losses, __ATOMIC_ACQUIRE) != q->losses;
}

int vu_next(vu_queue *q, vu_chain *c);
void vu_taken(vu_queue *q, unsigned head);
void vu_dirty(vu_queue *q, uint64_t gpa, uint64_t length);
void vu_push(vu_queue *q, unsigned head, uint32_t written);
int vu_publish(vu_queue *q);
int vu_arm(vu_queue *q);
int vu_show(vu_queue *q, uint64_t *calls);
int vu_wait(vu_queue *q);
void vu_awaken(vu_queue *q);

#endif
