/* Holds a thread at its next store to a page, as if the scheduler had chosen that moment. Another
   thread's store continues at once, and opens the page. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static uintptr_t page;
static size_t bytes;
static pid_t free_thread;
static struct sigaction before;
static _Atomic int held, released;

static void on_fault(int number, siginfo_t *info, void *context) {
    const struct timespec moment = {.tv_nsec = 100000};
    (void)context;
    if ((uintptr_t)info->si_addr - page >= bytes) {
        sigaction(number, &before, NULL);
        return;
    }
    if (gettid() != free_thread) {
        atomic_store(&held, 1);
        while (!atomic_load(&released))
            nanosleep(&moment, NULL);
    }
    mprotect((void *)page, bytes, PROT_READ | PROT_WRITE);
}

/* The thread that calls this is not held itself. */
int hold(uintptr_t start, size_t size) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    page = start, bytes = size, free_thread = gettid();
    atomic_store(&held, 0);
    atomic_store(&released, 0);
    return sigaction(SIGSEGV, &action, &before) || mprotect((void *)start, size, PROT_READ);
}

int is_held(void) { return atomic_load(&held); }

void release(void) {
    atomic_store(&released, 1);
    sigaction(SIGSEGV, &before, NULL);
}
