/* See kvm.h. A vCPU's thread runs in vk_run, without the interpreter's lock; a pause signals all
 * threads before it waits for the first.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "kvm.h"

/* Interrupts KVM_RUN; its handler does nothing. */
#define KICK_SIGNAL (SIGRTMIN + 3)
#define CPUID_ENTRIES 256
/* The minimum (kernel/sched/syscalls.c). */
#define SLICE_NS 100000u
#define SYNCED (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS)
/* Address of KVM's TSS pages: at the end of the hole below 4 GiB. */
#define TSS_ADDRESS 0xfffbd000ul
#define X2APIC_BASE 0xfee00000ul
#define APIC_ENABLED 0x800u
#define APIC_X2 0x400u
#define APIC_BSP 0x100u

/* All state of a vCPU that its guest can change. */
typedef struct {
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_lapic_state lapic;
    struct kvm_vcpu_events events;
    struct kvm_mp_state mp;
    uint32_t reserved;
} vcpu_state;

typedef struct {
    int fd;
    struct kvm_run *run;
    _Atomic int inside;
    _Atomic unsigned round; /* `round` of the machine when it last entered */
    _Atomic pid_t thread;
    _Atomic int ended; /* its thread is to end, or has ended */
    int counted; /* it is counted in ended_threads */
    int known;  /* `state` equals the kernel's */
    int synced; /* the run page has the registers of the last exit */
    vcpu_state state;
} vcpu;

struct vk_machine {
    int kvm, fd;
    size_t run_size;
    uint32_t count;
    vcpu *vcpus;
    int sync; /* KVM leaves the registers in the run page at each exit */
    _Atomic int paused;
    _Atomic int stopping;
    _Atomic unsigned changes; /* a futex: vCPUs wait here for the end of a pause, or their own */
    _Atomic unsigned running; /* a futex: number of vCPUs that are inside */
    _Atomic unsigned round; /* number of resumes */
    _Atomic unsigned entered; /* a futex: number of vCPUs that entered since the last resume */
    _Atomic unsigned ended_threads; /* vCPUs whose threads have ended: they count as entered */
};

static int failed(void) { return errno ? -errno : -EIO; }

/* NULL: the machine is closed, or has no such vCPU. */
static vcpu *vcpu_of(const vk_machine *m, uint32_t index) {
    return m != NULL && index < m->count ? &m->vcpus[index] : NULL;
}

static int no_vcpu(const vk_machine *m) { return m == NULL ? -EBADF : -EINVAL; }

/* Whether KVM_RUN returns at once. Two threads write this, in an order that matters. */
static void exit_at_once(vcpu *v, int on) {
    __atomic_store_n(&v->run->immediate_exit, (uint8_t)on, __ATOMIC_SEQ_CST);
}

static long futex(void *word, int op, unsigned value, const struct timespec *timeout) {
    return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, timeout, NULL, 0);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Wait until the word is `wanted`, or with `at_least` not below; -ETIMEDOUT after the deadline. */
static int await(_Atomic unsigned *word, unsigned wanted, int at_least, uint64_t deadline) {
    for (;;) {
        unsigned value = atomic_load(word);
        uint64_t now;
        struct timespec left;
        if (at_least ? value >= wanted : value == wanted)
            return 0;
        now = now_ns();
        if (now >= deadline)
            return -ETIMEDOUT;
        left.tv_sec = (time_t)((deadline - now) / 1000000000u);
        left.tv_nsec = (long)((deadline - now) % 1000000000u);
        futex(word, FUTEX_WAIT, value, &left);
    }
}

static void on_kick(int number) { (void)number; }

/* -- /dev/kvm */

int vk_api(void) {
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC), version;
    if (fd < 0)
        return failed();
    version = ioctl(fd, KVM_GET_API_VERSION, 0);
    version = version < 0 ? failed() : version;
    close(fd);
    return version;
}

int vk_capability(int number) {
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC), value;
    if (fd < 0)
        return failed();
    value = ioctl(fd, KVM_CHECK_EXTENSION, number);
    value = value < 0 ? failed() : value;
    close(fd);
    return value;
}

/* -- the machine. A closed one is NULL: every call fails or does nothing. */

vk_machine *vk_open(int *error) {
    vk_machine *m = calloc(1, sizeof *m);
    struct sigaction action;
    int size;
    if (m == NULL) {
        *error = -ENOMEM;
        return NULL;
    }
    m->fd = -1;
    atomic_store(&m->paused, 1);
    memset(&action, 0, sizeof action);
    action.sa_handler = on_kick;
    sigaction(KICK_SIGNAL, &action, NULL);
    m->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (m->kvm < 0)
        goto fail;
    m->fd = ioctl(m->kvm, KVM_CREATE_VM, 0);
    if (m->fd < 0 || ioctl(m->fd, KVM_SET_TSS_ADDR, TSS_ADDRESS) < 0 ||
        ioctl(m->fd, KVM_CREATE_IRQCHIP, 0) < 0)
        goto fail;
    size = ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < 0)
        goto fail;
    m->run_size = (size_t)size;
    *error = 0;
    return m;
fail:
    *error = failed();
    vk_close(m);
    return NULL;
}

void vk_close(vk_machine *m) {
    uint32_t i;
    if (m == NULL)
        return;
    for (i = 0; i < m->count; i++) {
        munmap(m->vcpus[i].run, m->run_size);
        close(m->vcpus[i].fd);
    }
    free(m->vcpus);
    if (m->fd >= 0)
        close(m->fd);
    if (m->kvm >= 0)
        close(m->kvm);
    free(m);
}

int vk_memory(vk_machine *m, uint32_t slot, uint64_t gpa, uint64_t size, void *host, int log) {
    if (m == NULL)
        return -EBADF;
    struct kvm_userspace_memory_region region = {
        .slot = slot,
        .flags = log ? KVM_MEM_LOG_DIRTY_PAGES : 0,
        .guest_phys_addr = gpa,
        .memory_size = size,
        .userspace_addr = (uint64_t)(uintptr_t)host,
    };
    return ioctl(m->fd, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? failed() : 0;
}

int vk_dirty_log(vk_machine *m, uint32_t slot, void *bitmap) {
    if (m == NULL)
        return -EBADF;
    struct kvm_dirty_log log = {.slot = slot};
    log.dirty_bitmap = bitmap;
    return ioctl(m->fd, KVM_GET_DIRTY_LOG, &log) < 0 ? failed() : 0;
}

int vk_ioeventfds(vk_machine *m, const struct kvm_ioeventfd *list, size_t count, int assign,
                  size_t *done) {
    if (m == NULL)
        return -EBADF;
    for (*done = 0; *done < count; ++*done) {
        struct kvm_ioeventfd request = list[*done];
        if (!assign)
            request.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
        if (ioctl(m->fd, KVM_IOEVENTFD, &request) < 0)
            return failed();
    }
    return 0;
}

int vk_irqfds(vk_machine *m, const vk_irqfd *list, size_t count, int assign, size_t *done) {
    if (m == NULL)
        return -EBADF;
    for (*done = 0; *done < count; ++*done) {
        struct kvm_irqfd request = {
            .fd = (uint32_t)list[*done].fd,
            .gsi = list[*done].gsi,
            .flags = assign ? 0 : KVM_IRQFD_FLAG_DEASSIGN,
        };
        if (ioctl(m->fd, KVM_IRQFD, &request) < 0)
            return failed();
    }
    return 0;
}

int vk_routes(vk_machine *m, const vk_route *list, size_t count) {
    if (m == NULL)
        return -EBADF;
    struct kvm_irq_routing *table =
        calloc(1, sizeof *table + count * sizeof(struct kvm_irq_routing_entry));
    size_t i;
    int result;
    if (table == NULL)
        return -ENOMEM;
    for (i = 0; i < count; i++) {
        struct kvm_irq_routing_entry *entry = &table->entries[table->nr];
        if (!list[i].vector)
            continue;
        table->nr++;
        entry->gsi = (uint32_t)i;
        entry->type = KVM_IRQ_ROUTING_MSI;
        /* Physical destination; bits 8 and up of an x2APIC identifier are in address_hi. */
        entry->u.msi.address_lo = (uint32_t)X2APIC_BASE | (list[i].apic & 0xff) << 12;
        entry->u.msi.address_hi = list[i].apic & ~0xffu;
        entry->u.msi.data = list[i].vector;
    }
    result = ioctl(m->fd, KVM_SET_GSI_ROUTING, table) < 0 ? failed() : 0;
    free(table);
    return result;
}

int vk_interrupt(vk_machine *m, uint32_t index, uint32_t vector) {
    if (m == NULL)
        return -EBADF;
    struct kvm_msi msi = {
        .address_lo = (uint32_t)X2APIC_BASE | (index & 0xff) << 12,
        .address_hi = index & ~0xffu,
        .data = vector,
    };
    return ioctl(m->fd, KVM_SIGNAL_MSI, &msi) < 0 ? failed() : 0;
}

void vk_take(void *words, uint64_t *taken, size_t count) {
    size_t i;
    for (i = 0; i < count; i++)
        taken[i] = atomic_exchange((_Atomic uint64_t *)words + i, 0);
}

void vk_put_back(void *words, const uint64_t *taken, size_t count) {
    size_t i;
    for (i = 0; i < count; i++)
        atomic_fetch_or((_Atomic uint64_t *)words + i, taken[i]);
}

/* -- vCPUs */

static int set_cpuid(vk_machine *m) {
    struct kvm_cpuid2 *table =
        calloc(1, sizeof *table + CPUID_ENTRIES * sizeof(struct kvm_cpuid_entry2));
    uint32_t i, k;
    int result = 0;
    if (table == NULL)
        return -ENOMEM;
    table->nent = CPUID_ENTRIES;
    if (ioctl(m->kvm, KVM_GET_SUPPORTED_CPUID, table) < 0)
        result = failed();
    for (i = 0; result == 0 && i < m->count; i++) {
        for (k = 0; k < table->nent; k++) {
            struct kvm_cpuid_entry2 *entry = &table->entries[k];
            if (entry->function == 1) {
                entry->ecx |= 1u << 21; /* x2APIC */
                entry->ebx = (entry->ebx & 0x00ffffffu) | (i & 0xff) << 24;
            } else if (entry->function == 0xb || entry->function == 0x1f) {
                entry->edx = i; /* the x2APIC identifier */
            }
        }
        if (ioctl(m->vcpus[i].fd, KVM_SET_CPUID2, table) < 0)
            result = failed();
    }
    free(table);
    return result;
}

int vk_vcpus(vk_machine *m, uint32_t count) {
    if (m == NULL)
        return -EBADF;
    /* APIC identifiers above 254 need this. */
    struct kvm_enable_cap x2apic = {
        .cap = KVM_CAP_X2APIC_API,
        .args = {KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK},
    };
    int synced, error;
    uint32_t i;
    if (m->vcpus != NULL || !count)
        return -EINVAL;
    if (ioctl(m->fd, KVM_ENABLE_CAP, &x2apic) < 0)
        return failed();
    m->vcpus = calloc(count, sizeof *m->vcpus);
    if (m->vcpus == NULL)
        return -ENOMEM;
    synced = ioctl(m->kvm, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS);
    m->sync = synced > 0 && (synced & SYNCED) == SYNCED;
    for (i = 0; i < count; i++) {
        vcpu *v = &m->vcpus[i];
        void *run;
        v->fd = ioctl(m->fd, KVM_CREATE_VCPU, (unsigned long)i);
        if (v->fd < 0)
            return failed();
        run = mmap(NULL, m->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
        if (run == MAP_FAILED) {
            error = failed();
            close(v->fd);
            return error;
        }
        v->run = run;
        if (m->sync)
            v->run->kvm_valid_regs = SYNCED;
        m->count = i + 1; /* the others do not exist, whatever fails */
    }
    return set_cpuid(m);
}

int vk_begin(vk_machine *m, uint32_t index, const vk_start *start) {
    vcpu *v = vcpu_of(m, index);
    if (v == NULL)
        return no_vcpu(m);
    struct kvm_segment code = {
        .limit = ~0u, .selector = start->code, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
    struct kvm_segment data = {
        .limit = ~0u, .selector = start->data, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
    struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_RUNNABLE};
    struct kvm_regs regs = {.rip = start->rip, .rsp = start->rsp, .rdi = start->rdi, .rflags = 2};
    struct kvm_sregs sregs;
    v->known = v->synced = 0;
    if (ioctl(v->fd, KVM_GET_SREGS, &sregs) < 0)
        return failed();
    sregs.cr3 = start->cr3;
    sregs.cr4 = 1u << 5;               /* PAE */
    sregs.cr0 = 0x80000033u;           /* paging, protection, numeric errors */
    sregs.efer = 1u << 8 | 1u << 10;   /* long mode, enabled and active */
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.gs.base = start->gs;
    sregs.gdt.base = start->gdt;
    sregs.gdt.limit = start->gdt_limit;
    sregs.idt.base = start->idt;
    sregs.idt.limit = start->idt_limit;
    sregs.apic_base = X2APIC_BASE | APIC_ENABLED | APIC_X2 | (index == 0 ? APIC_BSP : 0);
    if (ioctl(v->fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(v->fd, KVM_SET_REGS, &regs) < 0 ||
        ioctl(v->fd, KVM_SET_MP_STATE, &mp) < 0)
        return failed();
    return 0;
}

/* The vCPU leaves guest code; the last one wakes the thread that pauses. */
static void leave(vk_machine *m, vcpu *v) {
    atomic_store(&v->inside, 0);
    if (atomic_fetch_sub(&m->running, 1) == 1 && atomic_load(&m->paused))
        futex(&m->running, FUTEX_WAKE, INT_MAX, NULL);
}

/* Count a vCPU that enters for the first time since the last resume. */
static void count_entry(vk_machine *m, vcpu *v) {
    unsigned round = atomic_load(&m->round);
    if (atomic_exchange(&v->round, round) != round &&
        atomic_fetch_add(&m->entered, 1) + 1 >= m->count)
        futex(&m->entered, FUTEX_WAKE, INT_MAX, NULL);
}

static int ends(vk_machine *m, vcpu *v) {
    return atomic_load(&m->stopping) || atomic_load(&v->ended);
}

/* Enter guest code; 0 when the vCPU's thread is to end. */
static int enter(vk_machine *m, vcpu *v) {
    for (;;) {
        /* Read first, so that a change after any of the reads below ends the wait. */
        unsigned seen = atomic_load(&m->changes);
        if (ends(m, v))
            return 0;
        exit_at_once(v, 0);
        atomic_fetch_add(&m->running, 1);
        atomic_store(&v->inside, 1);
        /* A pause, a stop or an end writes its flag before it reads `inside`: one of the two
         * threads sees the other. */
        if (!atomic_load(&m->paused) && !ends(m, v)) {
            count_entry(m, v);
            return 1;
        }
        leave(m, v);
        futex(&m->changes, FUTEX_WAIT, seen, NULL);
    }
}

/* Have the vCPUs that wait in `enter` look again. */
static void announce_change(vk_machine *m) {
    atomic_fetch_add(&m->changes, 1);
    futex(&m->changes, FUTEX_WAKE, INT_MAX, NULL);
}

static void describe_failure(vcpu *v, int error, vk_exit *out) {
    struct kvm_regs regs;
    out->reason = VK_FAILED;
    out->kernel_reason = error ? 0 : v->run->exit_reason;
    out->detail = error ? (uint32_t)error : v->run->internal.suberror;
    if (ioctl(v->fd, KVM_GET_REGS, &regs) == 0)
        out->rip = regs.rip;
}

/* Whether KVM_RUN returned for a write that no ioeventfd takes. */
static int describe_write(const struct kvm_run *run, vk_exit *out) {
    if (run->exit_reason == KVM_EXIT_MMIO && run->mmio.is_write) {
        out->address = run->mmio.phys_addr;
        out->length = run->mmio.len;
        memcpy(&out->value, run->mmio.data, out->length);
    } else if (run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_OUT) {
        out->address = run->io.port;
        out->length = run->io.size;
        memcpy(&out->value, (const char *)run + run->io.data_offset, out->length);
    } else {
        return 0;
    }
    out->reason = VK_WRITE;
    return 1;
}

/* After a pause a vCPU has to run soon, for microseconds. The scheduler runs a thread with short
 * slices sooner (since Linux 6.12; older kernels ignore the request).
 */
static void ask_for_short_slices(void) {
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attributes = {.size = 48, .runtime = SLICE_NS};
    syscall(SYS_sched_setattr, 0, &attributes, 0);
}

int vk_run(vk_machine *m, uint32_t index, vk_exit *out) {
    vcpu *v = vcpu_of(m, index);
    if (v == NULL)
        return no_vcpu(m);
    memset(out, 0, sizeof *out);
    if (!atomic_load(&v->thread))
        ask_for_short_slices();
    atomic_store(&v->thread, (pid_t)syscall(SYS_gettid));
    /* After a write it is still inside: entering again completes the write. */
    while (atomic_load(&v->inside) || enter(m, v)) {
        int error = ioctl(v->fd, KVM_RUN, 0) < 0 ? errno : 0;
        v->known = 0;
        v->synced = m->sync;
        if (error == EINTR || error == EAGAIN || (!error && v->run->exit_reason == KVM_EXIT_INTR)) {
            leave(m, v);
            continue;
        }
        if (error || !describe_write(v->run, out))
            describe_failure(v, error, out);
        return 0;
    }
    out->reason = VK_STOPPED;
    return 0;
}

void vk_thread_ends(vk_machine *m, uint32_t index) {
    vcpu *v = vcpu_of(m, index);
    if (v == NULL)
        return;
    atomic_store(&v->ended, 1);
    if (atomic_load(&v->inside))
        leave(m, v);
    if (!v->counted) {
        v->counted = 1;
        atomic_fetch_add(&m->ended_threads, 1);
        count_entry(m, v);
    }
}

void vk_end(vk_machine *m, uint32_t index) {
    vcpu *v = vcpu_of(m, index);
    if (v == NULL)
        return;
    atomic_store(&v->ended, 1);
    exit_at_once(v, 1);
    if (atomic_load(&v->inside))
        syscall(SYS_tgkill, getpid(), atomic_load(&v->thread), KICK_SIGNAL);
    announce_change(m);
}

static void kick_inside(vk_machine *m) {
    pid_t process = getpid();
    uint32_t i;
    for (i = 0; i < m->count; i++)
        exit_at_once(&m->vcpus[i], 1);
    for (i = 0; i < m->count; i++)
        if (atomic_load(&m->vcpus[i].inside))
            syscall(SYS_tgkill, process, atomic_load(&m->vcpus[i].thread), KICK_SIGNAL);
}

int vk_pause(vk_machine *m, uint64_t timeout_ns) {
    if (m == NULL)
        return 0;
    atomic_store(&m->paused, 1);
    kick_inside(m);
    return await(&m->running, 0, 0, now_ns() + timeout_ns);
}

int vk_resume(vk_machine *m, uint64_t timeout_ns) {
    if (m == NULL)
        return 0;
    if (!atomic_load(&m->paused))
        return 0;
    atomic_store(&m->entered, atomic_load(&m->ended_threads));
    atomic_fetch_add(&m->round, 1);
    atomic_store(&m->paused, 0);
    announce_change(m);
    return await(&m->entered, m->count, 1, now_ns() + timeout_ns);
}

void vk_stop(vk_machine *m) {
    if (m == NULL)
        return;
    atomic_store(&m->stopping, 1);
    kick_inside(m);
    atomic_store(&m->paused, 0);
    announce_change(m);
}

/* -- state. The vCPUs are paused. */

size_t vk_state_size(void) { return sizeof(vcpu_state); }

/* Read the registers, which change only while the vCPU runs. */
static int read_registers(vcpu *v, vcpu_state *s) {
    if (v->synced) {
        s->regs = v->run->s.regs.regs;
        s->sregs = v->run->s.regs.sregs;
        s->events = v->run->s.regs.events;
        return 0;
    }
    return ioctl(v->fd, KVM_GET_REGS, &s->regs) < 0 || ioctl(v->fd, KVM_GET_SREGS, &s->sregs) < 0 ||
           ioctl(v->fd, KVM_GET_VCPU_EVENTS, &s->events) < 0;
}

/* An interrupt may change the local APIC and the halted state at any time: they are always read. */
int vk_save(vk_machine *m, uint32_t index, void *state) {
    vcpu *v = vcpu_of(m, index);
    if (v == NULL)
        return no_vcpu(m);
    vcpu_state *s = &v->state;
    v->known = 0;
    memset(s, 0, sizeof *s);
    if (ioctl(v->fd, KVM_GET_MP_STATE, &s->mp) < 0 || ioctl(v->fd, KVM_GET_LAPIC, &s->lapic) < 0 ||
        read_registers(v, s))
        return failed();
    v->known = 1;
    memcpy(state, s, sizeof *s);
    return 0;
}

#define SET(part, request)                                                                         \
    if (!v->known || memcmp(&v->state.part, &s->part, sizeof s->part) != 0) {                      \
        if (ioctl(v->fd, request, &s->part) < 0)                                                   \
            return failed();                                                                       \
        ++*set;                                                                                    \
    }

/* Set the parts that differ from the kernel's. SREGS enables the x2APIC, so it is the first. */
static int write_state(vcpu *v, vcpu_state *s, uint32_t *set) {
    v->synced = 0;
    SET(sregs, KVM_SET_SREGS)
    SET(regs, KVM_SET_REGS)
    SET(lapic, KVM_SET_LAPIC)
    SET(events, KVM_SET_VCPU_EVENTS)
    SET(mp, KVM_SET_MP_STATE)
    v->state = *s;
    v->known = 1;
    return 0;
}

int vk_load(vk_machine *m, uint32_t index, const void *state, uint32_t *set) {
    vcpu *v = vcpu_of(m, index);
    if (v == NULL)
        return no_vcpu(m);
    vcpu_state s;
    int error;
    memcpy(&s, state, sizeof s);
    error = write_state(v, &s, set);
    if (error)
        v->known = 0;
    return error;
}
