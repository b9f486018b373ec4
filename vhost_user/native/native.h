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
