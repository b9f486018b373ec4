/* What the compiled extension offers. cffi reads this file as it is: declarations only. */

/* memory */
void vu_fence(void);

/* many descriptors in one call: all are tried, whichever fail; the result is 0 or the errno of the
   first failure */
int vu_eventfd_create(int count, int flags, int *fds);
int vu_eventfd_signal(const int *fds, int count);
int vu_eventfd_drain(const int *fds, int count, uint64_t *values);
int vu_close(const int *fds, int count);

/* one notifier, without ever waiting: 0 or an errno; its value (0: there is no event) or minus an
   errno, EPIPE where its other end is closed; whether the kernel lacks what that needs */
int vu_signal(int fd);
int64_t vu_take(int fd);
int vu_signal_waits(void);

/* shared memory of other processes: a file that shrinks loses pages, and ends no process */
typedef struct vu_mapping {
    uintptr_t start, end; /* what is mapped, whole pages of `granule` bytes */
    uint8_t *bytes;       /* the first one that was asked for */
    uint64_t granule;
    int lost; /* pages were gone when they were accessed */
    struct vu_mapping *next;
} vu_mapping;
vu_mapping *vu_map(int fd, uint64_t offset, uint64_t size, int *error);
void vu_unmap(vu_mapping *mapping);
void vu_look(const uint8_t *bytes, size_t length);
extern uint64_t vu_losses; /* how often that has happened, in all mappings */

/* dirty log: one bit per 4096-byte page */
int vu_log_mark(uint8_t *log, uint64_t log_bytes, uint64_t gpa, uint64_t length);
size_t vu_log_harvest(uint64_t *words, size_t count, uint64_t first_page, uint64_t *runs,
                      size_t max_runs, size_t *run_count);

/* userfaultfd: a descriptor, or minus an errno; 0 or an errno; read a byte of each page */
int vu_uffd_open(int fails);
int vu_uffd_watch(int fd, uint64_t address, uint64_t length);
int vu_uffd_unwatch(int fd, uint64_t address, uint64_t length);
int vu_present(const uint8_t *bytes, size_t length, size_t page);
void vu_touch(const uint8_t *bytes, size_t length, size_t page);

/* SHA-256: `count` blocks of 64 bytes */
void vu_sha256_blocks(uint32_t *state, const uint8_t *data, size_t count);

/* Split virtqueues, many requests in one call. What is unusual stays in the ring, for Python. The
   structs are memory of Python (vhost_user/virtqueue/batch.py), which has the same fields. */
typedef struct vu_region {
    uint64_t start, length; /* guest-physical addresses */
    uint8_t *bytes;
} vu_region;
typedef struct vu_buffer { /* struct iovec */
    uint8_t *bytes;
    size_t length;
} vu_buffer;
typedef struct vu_queue {
    uint64_t size, event_idx;
    const uint8_t *desc;
    uint16_t *avail, *used;
    const vu_region *regions; /* sorted, at least one */
    uint64_t region_count, region;
    uint8_t *inflight;       /* NULL: nothing is recorded */
    uint8_t *log, *used_log; /* NULL: buffers, or the used ring, are not logged */
    uint64_t log_bytes, used_gpa;
    uint64_t losses; /* vu_losses when they were last looked at */
    int64_t call, events; /* descriptors: to interrupt the driver; what else the caller waits for */
    uint64_t wait_ns, empty_since;
    uint64_t last_avail, used_idx, used_start, call_next, inflight_count;
    uint16_t heads[64]; /* pushed and not published */
} vu_queue;

/* what a call has done: the ring is empty and armed; there may be more; or, neither: the next
   request is not one for here. And whether the driver wants an interrupt of a ring */
enum { VU_SERVED_ALL = 1, VU_SERVED_SOME = 2, VU_SERVED_NOTIFY = 4, VU_SERVED_NOTIFY_OTHER = 8 };
typedef struct vu_disk_write {
    uint64_t offset, head, status_gpa;
    uint8_t *status;
    uint64_t error, count;
    vu_buffer buffers[62];
} vu_disk_write;
typedef struct vu_disk {
    int64_t fd, read_flags, write_flags; /* flags below 0: such calls may block, and are not made */
    uint64_t bytes, largest; /* of the disk; of a request */
    uint64_t *counters; /* requests, bytes read, bytes written (backends.stats) */
    vu_disk_write *writes; /* where writes are collected; or NULL */
    uint64_t write_count;
} vu_disk;
int vu_disk_serve(vu_queue *queue, vu_disk *disk, int budget, uint64_t bytes);
void vu_disk_write_all(int fd, vu_disk_write *writes, uint64_t count, uint64_t losses);
int vu_disk_written(vu_queue *queue, vu_disk_write *writes, uint64_t count);

/* NICs */
typedef struct vu_nic {
    uint64_t header_bytes, shortest, longest; /* of a virtio header; of a frame with it */
    uint64_t *counters; /* backends.stats */
    uint8_t header[16]; /* of frames that come back */
} vu_nic;
int vu_nic_return(vu_queue *tx, vu_queue *rx, const vu_nic *nic, int budget, uint64_t bytes);

/* Streams between unix sockets: the usual pieces are forwarded as they come, with their
   descriptors, and recorded. `log` has records one after the other, each with the bytes and, when
   these were not sent, the descriptors behind it */
typedef struct vu_record {
    uint64_t time; /* when it was read, CLOCK_MONOTONIC, nanoseconds */
    uint64_t next; /* where the next record begins in the log */
    int32_t source;
    int32_t fd_count; /* -1: not all of them could be received, and none is left */
    uint32_t size, sent; /* bytes */
} vu_record;
typedef struct vu_relay {
    int64_t epoll;
    const int32_t *sinks; /* by descriptor, where it leads; -1: it is left to Python */
    uint64_t sink_count;
    uint64_t spin_ns, longest_ns; /* without a piece until the call returns; of a call */
    uint8_t *log;
    uint64_t log_bytes, used;
} vu_relay;
void vu_relay_run(vu_relay *relay);
