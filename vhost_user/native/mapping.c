#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

#include "native.h"

/* A file that another process gave us may shrink at any time, and an access to a page that is not
   in it any more is a SIGBUS, which ends the process. For mappings that were made here the handler
   puts a page of this process in the place of the one that was accessed, and counts the loss. The
   access is repeated and sees zeroes. Who mapped the file compares `vu_losses` with what it was, and
   fails whatever uses the mapping. Pages that are gone and were not accessed stay as they are, so
   that system calls of other threads return EFAULT there, and write no zeroes to a disk. The same
   holds for pages that are missing in a postcopy (uffd.c).

   The alternatives cost more where nothing is wrong: a copy through pread() or process_vm_readv()
   for each access is a system call for each ring index (about 300 ns instead of 30), and a jump out
   of the handler is not possible in the middle of the interpreter. */

#define HUGETLBFS 0x958458f6

enum { CHUNK = 1024, CHUNKS = 128 };

static pthread_mutex_t changing = PTHREAD_MUTEX_INITIALIZER;
/* Never freed, so that the handler can look at them without a lock. */
static vu_mapping *chunks[CHUNKS];
static vu_mapping *unused;
static struct sigaction before;

uint64_t vu_losses;

static vu_mapping *find(uintptr_t address) {
    for (int i = 0; i < CHUNKS; i++) {
        vu_mapping *chunk = __atomic_load_n(&chunks[i], __ATOMIC_ACQUIRE);
        if (!chunk)
            break;
        for (int n = 0; n < CHUNK; n++) {
            /* another thread may reuse the entry: its end is written before its start */
            uintptr_t start = __atomic_load_n(&chunk[n].start, __ATOMIC_ACQUIRE);
            uintptr_t end = __atomic_load_n(&chunk[n].end, __ATOMIC_ACQUIRE);
            if (start && start <= address && address < end &&
                start == __atomic_load_n(&chunk[n].start, __ATOMIC_ACQUIRE))
                return &chunk[n];
        }
    }
    return NULL;
}

static void lose(vu_mapping *mapping) {
    __atomic_store_n(&mapping->lost, 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&vu_losses, 1, __ATOMIC_SEQ_CST);
}

static int replace(uintptr_t start, uintptr_t end) {
    return mmap((void *)start, end - start, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED;
}

/* Only system calls and atomic operations: this may interrupt anything. */
static void on_sigbus(int number, siginfo_t *info, void *unused_context) {
    int saved = errno;
    (void)unused_context;
    /* by the kernel, not by kill(), and for want of a page: a misaligned access would repeat itself */
    if (info->si_code > 0 && info->si_code != BUS_ADRALN) {
        uintptr_t address = (uintptr_t)info->si_addr;
        vu_mapping *found = find(address);
        if (found) {
            uintptr_t page = address - (address - found->start) % found->granule;
            lose(found); /* before the zeroes can be seen */
            /* a page more is two mappings more, of which the process may have no more left */
            if (replace(page, page + found->granule) || replace(found->start, found->end)) {
                errno = saved;
                return;
            }
        }
    }
    /* Not ours: as without this handler. A fault repeats itself, what was sent does not. */
    sigaction(number, &before, NULL);
    if (info->si_code <= 0)
        raise(number);
    errno = saved;
}

/* A fork() waits until no other thread holds the lock: the child would not have that thread. */
static void lock(void) { pthread_mutex_lock(&changing); }
static void unlock(void) { pthread_mutex_unlock(&changing); }

static int install(void) {
    static int installed;
    if (installed)
        return 0;
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    int error = pthread_atfork(lock, unlock, unlock);
    if (error)
        return error;
    if (sigaction(SIGBUS, &action, &before))
        return errno;
    installed = 1;
    return 0;
}

/* An entry that is not used, with `changing` held. */
static vu_mapping *take_entry(void) {
    for (int i = 0; !unused && i < CHUNKS; i++) {
        if (chunks[i])
            continue;
        vu_mapping *chunk = calloc(CHUNK, sizeof *chunk);
        if (!chunk)
            return NULL;
        for (int n = 0; n < CHUNK; n++) {
            chunk[n].next = unused;
            unused = &chunk[n];
        }
        __atomic_store_n(&chunks[i], chunk, __ATOMIC_RELEASE);
    }
    vu_mapping *entry = unused;
    if (entry)
        unused = entry->next;
    return entry;
}

static void give_entry(vu_mapping *entry) {
    pthread_mutex_lock(&changing);
    entry->next = unused;
    unused = entry;
    pthread_mutex_unlock(&changing);
}

/* A system call has returned EFAULT for these bytes: count the loss, if it is one. */
void vu_look(const uint8_t *bytes, size_t length) {
    vu_mapping *found = find((uintptr_t)bytes);
    if (!found || !length)
        return;
    uintptr_t first = (uintptr_t)bytes / found->granule * found->granule;
    /* EFAULT: there is a page that cannot be; EINVAL: a kernel before 5.14, which cannot tell */
    if (madvise((void *)first, (uintptr_t)bytes + length - first, MADV_POPULATE_READ) &&
        (errno == EFAULT || errno == EINVAL))
        lose(found);
}

vu_mapping *vu_map(int fd, uint64_t offset, uint64_t size, int *error) {
    struct statfs system;
    uint64_t granule = (uint64_t)sysconf(_SC_PAGESIZE);
    /* a file of huge pages is mapped and unmapped by the huge page */
    if (!fstatfs(fd, &system) && system.f_type == HUGETLBFS)
        granule = (uint64_t)system.f_bsize;
    uint64_t skipped = offset % granule, length = size + skipped;
    if (!size || length < size || length > INT64_MAX - granule) {
        *error = EINVAL;
        return NULL;
    }
    length = (length + granule - 1) / granule * granule;
    pthread_mutex_lock(&changing);
    *error = install();
    vu_mapping *entry = *error ? NULL : take_entry();
    pthread_mutex_unlock(&changing);
    if (!entry) {
        *error = *error ? *error : ENOMEM;
        return NULL;
    }
    uint8_t *start =
        mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(offset - skipped));
    if (start == MAP_FAILED) {
        *error = errno;
        give_entry(entry);
        return NULL;
    }
    entry->bytes = start + skipped;
    entry->granule = granule;
    entry->lost = 0;
    __atomic_store_n(&entry->end, (uintptr_t)start + length, __ATOMIC_RELEASE);
    __atomic_store_n(&entry->start, (uintptr_t)start, __ATOMIC_RELEASE);
    return entry;
}

void vu_unmap(vu_mapping *mapping) {
    uintptr_t start = mapping->start, end = mapping->end;
    __atomic_store_n(&mapping->start, 0, __ATOMIC_SEQ_CST);
    munmap((void *)start, end - start);
    give_entry(mapping);
}
