#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "native.h"

#define PAGE_SHIFT 12

/* A full fence: orders a store before a later load, which x86 alone does not. */
void vu_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/* Makes `count` eventfds, or none: on failure those made so far are closed again. */
int vu_eventfd_create(int count, int flags, int *fds) {
    for (int i = 0; i < count; i++) {
        fds[i] = eventfd(0, flags);
        if (fds[i] < 0) {
            int error = errno;
            vu_close(fds, i);
            return error;
        }
    }
    return 0;
}

int vu_close(const int *fds, int count) {
    int first = 0;
    for (int i = 0; i < count; i++) /* the descriptor is closed after EINTR as well: no retry */
        if (close(fds[i]) < 0 && errno != EINTR && !first)
            first = errno;
    return first;
}

/* Sets the bits of the pages of [gpa, gpa + length), atomically: other threads and processes may set
   bits of the same byte. Returns EINVAL, and sets none, when the log is too short. */
int vu_log_mark(uint8_t *log, uint64_t log_bytes, uint64_t gpa, uint64_t length) {
    uint64_t last_byte = gpa + length - 1;
    if (length == 0)
        return 0;
    if (last_byte < gpa || (last_byte >> PAGE_SHIFT) / 8 >= log_bytes)
        return EINVAL;
    uint64_t page = gpa >> PAGE_SHIFT, last = last_byte >> PAGE_SHIFT;
    while (page <= last) {
        uint8_t bits = 0;
        uint64_t byte = page / 8;
        for (; page <= last && page / 8 == byte; page++)
            bits |= (uint8_t)(1u << (page % 8));
        __atomic_fetch_or(&log[byte], bits, __ATOMIC_SEQ_CST);
    }
    return 0;
}

/* Reads and clears the bits of `count` words, and stores them as runs (address, bytes), two words
   each; bit 0 is `first_page`. Stops when the runs of another word might not fit into `runs`.
   Returns how many words it has read, so that the caller can continue there. */
size_t vu_log_harvest(uint64_t *words, size_t count, uint64_t first_page, uint64_t *runs,
                      size_t max_runs, size_t *run_count) {
    size_t n = 0, i;
    for (i = 0; i < count && n + 32 <= max_runs; i++) {
        /* an exchange would allocate the page of a hole in a sparse log: read first */
        if (!__atomic_load_n(&words[i], __ATOMIC_RELAXED))
            continue;
        uint64_t taken = __atomic_exchange_n(&words[i], 0, __ATOMIC_SEQ_CST);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        taken = __builtin_bswap64(taken); /* the log is an array of bytes */
#endif
        uint64_t base = (first_page + i * 64) << PAGE_SHIFT;
        while (taken) {
            unsigned start = (unsigned)__builtin_ctzll(taken);
            uint64_t gaps = ~(taken >> start); /* its lowest bit is where the run ends */
            unsigned pages = gaps ? (unsigned)__builtin_ctzll(gaps) : 64;
            uint64_t gpa = base + ((uint64_t)start << PAGE_SHIFT);
            if (!n || runs[2 * n - 2] + runs[2 * n - 1] != gpa) {
                runs[2 * n] = gpa;
                runs[2 * n++ + 1] = 0;
            }
            runs[2 * n - 1] += (uint64_t)pages << PAGE_SHIFT;
            taken = start + pages < 64 ? taken >> (start + pages) << (start + pages) : 0;
        }
    }
    *run_count = n;
    return i;
}
