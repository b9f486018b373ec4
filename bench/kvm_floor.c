/*
 * The floor of KVM's vCPUs: what pausing, saving, loading and resuming them costs in C.
 *
 *     kvm_floor VCPUS
 *
 * Each vCPU is halted, in KVM_RUN of a thread of its own, as those of an idle guest are.
 *   pause_ns   has all of them leave KVM_RUN, by a signal each,
 *   save_ns    reads the halted state and the local APIC of each, and its registers, which KVM
 *              has left in the page that it shares with each thread,
 *   load_ns    compares all of it with what KVM has, and would set what differs: nothing,
 *   resume_ns  wakes all threads, until each of them has entered KVM_RUN.
 * The medians of ROUNDS rounds are printed as one line of JSON. Status 1: it failed; 2: bad usage.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "floor.h"

enum { MAX_VCPUS = 1024, TIMEOUT_S = 60, SETTLE_NS = 2000000, STACK = 65536 };
enum { SYNCED = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS };
/* Guest memory: the page tables, which map the first 2 MiB, and the code. */
enum { MEMORY = 2 << 20, PML4 = 0x1000, PDPT = 0x2000, DIRECTORY = 0x3000, CODE = 0x8000 };
enum { PRESENT_WRITABLE = 3, LARGE_PAGE = 1 << 7 };

struct saved {
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_lapic_state lapic;
    struct kvm_vcpu_events events;
    struct kvm_mp_state mp;
};

struct vcpu {
    int fd;
    struct kvm_run *run;
    pthread_t thread;
    struct saved state, loaded;
};

static struct vcpu *vcpus;
static int count;
static _Atomic unsigned paused = 1, running, entered; /* futexes */

static int call(int fd, unsigned long request, void *argument, const char *what) {
    int result = ioctl(fd, request, argument);
    if (result < 0)
        die(what);
    return result;
}
#define CALL(fd, request, argument) call(fd, request, (void *)(argument), #request)

static void futex(_Atomic unsigned *word, int operation, unsigned value) {
    syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

static void await(_Atomic unsigned *word, unsigned wanted) {
    for (unsigned value; (value = atomic_load(word)) != wanted;)
        futex(word, FUTEX_WAIT, value);
}

static void on_signal(int number) { (void)number; }

static void *run(void *argument) {
    struct vcpu *vcpu = argument;
    for (;;) {
        while (atomic_load(&paused))
            futex(&paused, FUTEX_WAIT, 1);
        if (atomic_fetch_add(&entered, 1) + 1 == (unsigned)count)
            futex(&entered, FUTEX_WAKE, INT_MAX);
        while (ioctl(vcpu->fd, KVM_RUN, 0) == 0)
            if (vcpu->run->exit_reason != KVM_EXIT_INTR) {
                fprintf(stderr, "kvm_floor: exit %u\n", vcpu->run->exit_reason);
                exit(1);
            }
        if (errno != EINTR)
            die("KVM_RUN");
        if (atomic_fetch_sub(&running, 1) == 1)
            futex(&running, FUTEX_WAKE, INT_MAX);
    }
}

static uint64_t pause_all(void) {
    uint64_t start = now();
    atomic_store(&paused, 1);
    for (int i = 0; i < count; i++)
        vcpus[i].run->immediate_exit = 1;
    for (int i = 0; i < count; i++)
        pthread_kill(vcpus[i].thread, SIGUSR1);
    await(&running, 0);
    return now() - start;
}

static uint64_t save_all(void) {
    uint64_t start = now();
    for (int i = 0; i < count; i++) {
        struct saved *state = &vcpus[i].state;
        CALL(vcpus[i].fd, KVM_GET_MP_STATE, &state->mp);
        CALL(vcpus[i].fd, KVM_GET_LAPIC, &state->lapic);
        state->regs = vcpus[i].run->s.regs.regs;
        state->sregs = vcpus[i].run->s.regs.sregs;
        state->events = vcpus[i].run->s.regs.events;
    }
    return now() - start;
}

static uint64_t load_all(void) {
    for (int i = 0; i < count; i++)
        vcpus[i].loaded = vcpus[i].state;
    uint64_t start = now();
    for (int i = 0; i < count; i++)
        if (memcmp(&vcpus[i].loaded, &vcpus[i].state, sizeof vcpus[i].state))
            die("the state has changed");
    return now() - start;
}

static uint64_t resume_all(void) {
    for (int i = 0; i < count; i++)
        vcpus[i].run->immediate_exit = 0;
    atomic_store(&entered, 0);
    atomic_store(&running, (unsigned)count);
    uint64_t start = now();
    atomic_store(&paused, 0);
    futex(&paused, FUTEX_WAKE, INT_MAX);
    await(&entered, (unsigned)count);
    return now() - start;
}

/* A vCPU in long mode, whose next instruction halts it. */
static void begin(struct vcpu *vcpu, int index, struct kvm_cpuid2 *cpuid) {
    struct kvm_segment code = {.limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1};
    struct kvm_segment data = {.limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1};
    struct kvm_regs regs = {.rip = CODE, .rflags = 2};
    struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_RUNNABLE};
    struct kvm_sregs sregs;
    for (unsigned k = 0; k < cpuid->nent; k++) {
        struct kvm_cpuid_entry2 *entry = &cpuid->entries[k];
        if (entry->function == 1) {
            entry->ecx |= 1u << 21; /* x2APIC */
            entry->ebx = (entry->ebx & 0xffffffu) | ((unsigned)index & 0xff) << 24;
        } else if (entry->function == 0xb || entry->function == 0x1f) {
            entry->edx = (unsigned)index;
        }
    }
    CALL(vcpu->fd, KVM_SET_CPUID2, cpuid);
    CALL(vcpu->fd, KVM_GET_SREGS, &sregs);
    code.l = code.g = data.db = data.g = 1;
    sregs.cr3 = PML4;
    sregs.cr4 = 1u << 5;
    sregs.cr0 = 0x80000033u;
    sregs.efer = 1u << 8 | 1u << 10;
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.apic_base = 0xfee00c00u | (index ? 0 : 0x100u);
    CALL(vcpu->fd, KVM_SET_SREGS, &sregs);
    CALL(vcpu->fd, KVM_SET_REGS, &regs);
    CALL(vcpu->fd, KVM_SET_MP_STATE, &mp);
    vcpu->run->kvm_valid_regs = SYNCED;
}

static void make(void) {
    static const uint8_t halt[] = {0xf4, 0xeb, 0xfd}; /* hlt; jmp to it */
    struct kvm_enable_cap x2apic = {
        .cap = KVM_CAP_X2APIC_API,
        .args = {KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK},
    };
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof *cpuid + 256 * sizeof *cpuid->entries);
    uint8_t *memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region region = {.memory_size = MEMORY,
                                                 .userspace_addr = (uintptr_t)memory};
    pthread_attr_t small;
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0 || !cpuid || memory == MAP_FAILED)
        die("/dev/kvm");
    if ((CALL(kvm, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS) & SYNCED) != SYNCED) {
        errno = ENOTSUP;
        die("KVM_CAP_SYNC_REGS");
    }
    int vm = CALL(kvm, KVM_CREATE_VM, 0), size = CALL(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    CALL(vm, KVM_SET_TSS_ADDR, 0xfffbd000);
    CALL(vm, KVM_CREATE_IRQCHIP, 0);
    CALL(vm, KVM_ENABLE_CAP, &x2apic);
    CALL(vm, KVM_SET_USER_MEMORY_REGION, &region);
    cpuid->nent = 256;
    CALL(kvm, KVM_GET_SUPPORTED_CPUID, cpuid);
    *(uint64_t *)(memory + PML4) = PDPT | PRESENT_WRITABLE;
    *(uint64_t *)(memory + PDPT) = DIRECTORY | PRESENT_WRITABLE;
    *(uint64_t *)(memory + DIRECTORY) = PRESENT_WRITABLE | LARGE_PAGE;
    memcpy(memory + CODE, halt, sizeof halt);
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, STACK);
    for (int i = 0; i < count; i++) {
        vcpus[i].fd = CALL(vm, KVM_CREATE_VCPU, (uintptr_t)i);
        vcpus[i].run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpus[i].fd, 0);
        if (vcpus[i].run == MAP_FAILED)
            die("mmap");
        begin(&vcpus[i], i, cpuid);
    }
    for (int i = 0; i < count; i++)
        if (pthread_create(&vcpus[i].thread, &small, run, &vcpus[i]))
            die("pthread_create");
}

int main(int argc, char **argv) {
    static uint64_t pauses[ROUNDS], saves[ROUNDS], loads[ROUNDS], resumes[ROUNDS];
    struct timespec settle = {.tv_nsec = SETTLE_NS};
    struct sigaction action = {.sa_handler = on_signal};
    count = argc == 2 ? atoi(argv[1]) : 0;
    if (count < 1 || count > MAX_VCPUS) {
        fprintf(stderr, "usage: kvm_floor VCPUS (1 to %d)\n", MAX_VCPUS);
        return 2;
    }
    vcpus = calloc((size_t)count, sizeof *vcpus);
    if (!vcpus)
        die("calloc");
    sigaction(SIGUSR1, &action, NULL);
    alarm(TIMEOUT_S); /* ends a wait that never returns */
    make();
    resume_all();
    for (int round = 0; round < ROUNDS; round++) {
        nanosleep(&settle, NULL); /* all of them are halted */
        pauses[round] = pause_all();
        saves[round] = save_all();
        loads[round] = load_all();
        resumes[round] = resume_all();
    }
    printf("{\"vcpus\": %d, \"rounds\": %d, \"pause_ns\": %llu, \"save_ns\": %llu, "
           "\"load_ns\": %llu, \"resume_ns\": %llu}\n",
           count, ROUNDS, median(pauses), median(saves), median(loads), median(resumes));
    return 0;
}
