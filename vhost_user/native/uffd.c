#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "native.h"

/* A userfaultfd for missing pages of shared memory: an access waits for the page, or fails
   (SIGBUS; EFAULT in a system call). System calls fault there as well, so UFFD_USER_MODE_ONLY is not
   enough. */
int vu_uffd_open(int fails) {
#ifdef SYS_userfaultfd
    struct uffdio_api api = {.api = UFFD_API, .features = fails ? UFFD_FEATURE_SIGBUS : 0};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    if (ioctl(fd, UFFDIO_API, &api)) {
        int error = errno;
        close(fd);
        return -error;
    }
    if (api.features & UFFD_FEATURE_MISSING_SHMEM)
        return fd;
    close(fd);
    return -EOPNOTSUPP;
#else
    (void)fails;
    return -ENOSYS;
#endif
}

/* From now on an access to a missing page of the range waits until the page has been copied, or
   fails. */
int vu_uffd_watch(int fd, uint64_t address, uint64_t length) {
    struct uffdio_register range = {.range = {.start = address, .len = length},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
    return ioctl(fd, UFFDIO_REGISTER, &range) ? errno : 0;
}

/* Accesses to the range neither wait nor fail any more; the threads that wait are woken. */
int vu_uffd_unwatch(int fd, uint64_t address, uint64_t length) {
    struct uffdio_range range = {.start = address, .len = length};
    return ioctl(fd, UFFDIO_UNREGISTER, &range) ? errno : 0;
}

/* Whether all pages of [bytes, bytes + length) are in memory, so that an access does not wait. */
int vu_present(const uint8_t *bytes, size_t length, size_t page) {
    unsigned char resident[1024];
    uintptr_t at = (uintptr_t)bytes / page * page, end = (uintptr_t)bytes + length;
    while (at < end) {
        size_t pages = (end - at + page - 1) / page;
        if (pages > sizeof resident)
            pages = sizeof resident;
        if (mincore((void *)at, pages * page, resident))
            return 0;
        for (size_t i = 0; i < pages; i++)
            if (!(resident[i] & 1))
                return 0;
        at += pages * page;
    }
    return 1;
}

/* Returns when all pages of [bytes, bytes + length) are present. */
void vu_touch(const uint8_t *bytes, size_t length, size_t page) {
    const volatile uint8_t *end = bytes + length, *at = bytes;
    while (at < end) {
        (void)*at;
        at += page - (uintptr_t)at % page;
    }
}
