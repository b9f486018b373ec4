/* A guest without an operating system, which drives one virtio PCI device of any class.
 *
 * QEMU's firmware qboot loads it by Multiboot (-kernel); it knows no devices, so that none is used
 * before this guest. It takes the first virtio device on bus 0, accepts VERSION_1, indirect descriptors and EVENT_IDX, and gives each ring that
 * the device has a request that fits its class. A request that is completed is made available
 * again. Between two looks at the rings the CPU halts until the next tick of the timer.
 */
#include <stdint.h>

#define SIZE 16 /* descriptors of a ring, at most */
#define RINGS 8 /* rings that are used, at most */
#define ALIGNED __attribute__((aligned(4096)))

enum { ID_CONSOLE_BASE = 0x1000, ID_BASE = 0x1040, VENDOR = 0x1af4 };
enum { F_INDIRECT = 28, F_EVENT_IDX = 29, F_VERSION_1 = 32 };
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8 };
enum { CAP_VENDOR = 9, CFG_COMMON = 1, CFG_NOTIFY = 2 };
enum { NEXT = 1, WRITE = 2 };
#define WINDOW 0xf0000000u /* of the device's registers: addresses that q35 has for PCI */

/* virtio 1.3, 4.1.4.3 */
struct common {
    uint32_t device_feature_select, device_feature, driver_feature_select, driver_feature;
    uint16_t config_msix_vector, num_queues;
    uint8_t device_status, config_generation;
    uint16_t queue_select, queue_size, queue_msix_vector, queue_enable, queue_notify_off;
    uint32_t desc, desc_high, avail, avail_high, used, used_high;
} __attribute__((packed));

/* A ring of fewer descriptors has its event index behind its last element, too. */
struct ring {
    struct {
        uint64_t addr;
        uint32_t len;
        uint16_t flags, next;
    } desc[SIZE];
    struct {
        uint16_t flags, idx, ring[SIZE + 1]; /* used_event is the last one */
    } avail;
    struct {
        uint16_t flags, idx;
        struct {
            uint32_t id, len;
        } ring[SIZE + 1]; /* avail_event is in the last one */
    } used ALIGNED;
} ALIGNED;

/* The request of a ring: readable bytes, of which the first are listed, and writable bytes. */
struct request {
    uint16_t device, ring;
    uint32_t readable, writable;
    uint32_t words[12];
};

static const struct request requests[] = {
    {1, 0, 0, 1536, {0}},                           /* net: a frame to be received */
    /* net: a frame of 60 bytes to all, behind a header of 12 */
    {1, 1, 72, 0, {0, 0, 0, 0xffffffff, 0x0002ffff, 0, 0xb588}},
    /* scsi: INQUIRY */
    {8, 2, 51, 144, {0x00400001, 0, 0, 0, 0x12000000, 36u << 24}},
    {19, 0, 0, 256, {0}},                            /* vsock: a packet to be received */
    {19, 1, 44, 0, {3, 0, 2, 0, 1024, 1024, 0, 1}},  /* vsock: a request to the host, port 1024 */
    {26, 1, 56, 80, {56, 26, 1, 0, 0, 0, 0, 0, 0, 0, 7, 31}}, /* fs: FUSE_INIT, version 7.31 */
    {34, 0, 8, 5, {0x50 << 1, 2}},                   /* i2c: a read */
    {41, 0, 8, 2, {2}},                              /* gpio: get direction of line 0 */
};

static struct ring rings[RINGS];
static uint8_t readable[RINGS][SIZE][128] ALIGNED, writable[RINGS][SIZE][1536] ALIGNED;
static volatile struct common *common;
static volatile uint16_t *doorbells[RINGS];
static uint16_t seen[RINGS];
static int event_idx;

static void out8(uint16_t port, uint8_t value) {
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static uint32_t pci(int device, int at) {
    uint32_t value, address = 0x80000000u | device << 11 | (at & 0xfc);
    __asm__ volatile("outl %0, %1" : : "a"(address), "Nd"((uint16_t)0xcf8));
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"((uint16_t)0xcfc));
    return value >> (at & 3) * 8;
}

static void pci_write(int device, int at, uint32_t value) {
    pci(device, at);
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"((uint16_t)0xcfc));
}

/* Fills a ring with requests of this device, and the available ring with all of them. */
static void fill(int device, int index, int size) {
    static const struct request any = {0, 0, 0, 64, {0}};
    const struct request *request = &any;
    struct ring *ring = &rings[index];
    int parts, head;
    for (unsigned i = 0; i < sizeof requests / sizeof *requests; i++) {
        if (requests[i].device == device && requests[i].ring == index)
            request = &requests[i];
    }
    parts = !!request->readable + !!request->writable;
    for (head = 0; head + parts <= size; head += parts) {
        int at = head;
        if (request->readable) {
            uint32_t *words = (uint32_t *)readable[index][head];
            for (unsigned i = 0; i < 12; i++)
                words[i] = request->words[i];
            ring->desc[at].addr = (uintptr_t)words;
            ring->desc[at].len = request->readable;
            ring->desc[at].flags = request->writable ? NEXT : 0;
            ring->desc[at].next = at + 1;
            at++;
        }
        if (request->writable) {
            ring->desc[at].addr = (uintptr_t)writable[index][head];
            ring->desc[at].len = request->writable;
            ring->desc[at].flags = WRITE;
        }
        ring->avail.ring[ring->avail.idx++] = head;
    }
}

/* Notifies the device of what was made available since `old`, unless it asks not to. */
static void kick(int index, int size, uint16_t old) {
    volatile struct ring *ring = &rings[index];
    uint16_t new = ring->avail.idx;
    int needed = !(ring->used.flags & 1);
    __sync_synchronize();
    if (event_idx) {
        uint16_t event = ring->used.ring[size].id;
        needed = (uint16_t)(new - event - 1) < (uint16_t)(new - old);
    }
    if (needed && new != old)
        *doorbells[index] = index;
}

/* Makes available again what was completed. */
static void look(int index, int size) {
    volatile struct ring *ring = &rings[index];
    uint16_t old = ring->avail.idx;
    for (;;) {
        while (seen[index] != ring->used.idx) {
            ring->avail.ring[ring->avail.idx % size] = ring->used.ring[seen[index]++ % size].id;
            __sync_synchronize();
            ring->avail.idx++;
        }
        ring->avail.ring[size] = seen[index];
        __sync_synchronize();
        if (seen[index] == ring->used.idx)
            break;
    }
    kick(index, size, old);
}

static int find(void) {
    for (int device = 0; device < 32; device++) {
        uint32_t id = pci(device, 0);
        if ((id & 0xffff) == VENDOR && id >> 16 >= ID_CONSOLE_BASE && id >> 16 < ID_BASE + 64)
            return device;
    }
    return -1;
}

/* The class, from the id of the device or, of a transitional one, from that of its subsystem. */
static int class_of(int device) {
    uint32_t id = pci(device, 0) >> 16;
    return id >= ID_BASE ? id - ID_BASE : pci(device, 0x2c) >> 16;
}

/* The address of a 64-bit BAR, which the firmware may have left to the guest. */
static uint32_t base_of(int device, int bar) {
    int at = 0x10 + 4 * bar;
    if (!(pci(device, at) & ~15u)) {
        pci_write(device, at, WINDOW);
        pci_write(device, at + 4, 0);
    }
    return pci(device, at) & ~15u;
}

static uint32_t capability(int device, uint32_t type, int *at) {
    for (*at = pci(device, 0x34) & 0xff; *at; *at = pci(device, *at + 1) & 0xff) {
        if ((pci(device, *at) & 0xff) == CAP_VENDOR && (pci(device, *at + 3) & 0xff) == type) {
            return base_of(device, pci(device, *at + 4) & 0xff) + pci(device, *at + 8);
        }
    }
    return 0;
}

static void start(void) {
    int device = find(), class, at, count, sizes[RINGS];
    uint32_t doorbell, step, low;
    if (device < 0)
        return;
    class = class_of(device);
    pci_write(device, 4, pci(device, 4) | 6); /* memory, bus master */
    common = (volatile struct common *)capability(device, CFG_COMMON, &at);
    doorbell = capability(device, CFG_NOTIFY, &at);
    step = pci(device, at + 16);
    common->device_status = 0;
    while (common->device_status)
        ;
    common->device_status = ACKNOWLEDGE | DRIVER;
    common->device_feature_select = 0;
    low = common->device_feature & (1u << F_INDIRECT | 1u << F_EVENT_IDX);
    event_idx = low >> F_EVENT_IDX & 1;
    common->driver_feature_select = 0;
    common->driver_feature = low;
    common->driver_feature_select = 1;
    common->driver_feature = 1u << (F_VERSION_1 - 32);
    common->device_status = ACKNOWLEDGE | DRIVER | FEATURES_OK;
    if (!(common->device_status & FEATURES_OK))
        return;
    count = common->num_queues < RINGS ? common->num_queues : RINGS;
    if (class == 1)
        count = 2; /* the others of a NIC belong to features that are not accepted */
    for (int i = 0; i < count; i++) {
        common->queue_select = i;
        sizes[i] = common->queue_size < SIZE ? common->queue_size : SIZE;
        common->queue_size = sizes[i];
        common->desc = (uintptr_t)rings[i].desc;
        common->avail = (uintptr_t)&rings[i].avail;
        common->used = (uintptr_t)&rings[i].used;
        common->desc_high = common->avail_high = common->used_high = 0;
        doorbells[i] = (volatile uint16_t *)(doorbell + common->queue_notify_off * step);
        common->queue_enable = 1;
    }
    common->device_status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
    for (int i = 0; i < count; i++) {
        fill(class, i, sizes[i]);
        kick(i, sizes[i], 0);
    }
    for (;;) {
        __asm__ volatile("sti; hlt; cli");
        for (int i = 0; i < count; i++)
            look(i, sizes[i]);
    }
}

// clang-format off
__asm__(
    ".section .multiboot, \"a\"\n"
    "  .long 0x1badb002, 0, -0x1badb002\n"
    ".text\n"
    ".globl _start\n"
    "_start:\n"
    "  cli\n"
    "  lgdt gdt_register\n"
    "  ljmp $8, $1f\n"
    "1: mov $16, %eax\n"
    "  mov %eax, %ds\n"
    "  mov %eax, %es\n"
    "  mov %eax, %ss\n"
    "  mov $stack + 16384, %esp\n"
    "  call main\n"
    "tick:\n"
    "  push %eax\n"
    "  mov $0x20, %al\n"
    "  out %al, $0x20\n"
    "  pop %eax\n"
    "  iret\n"
    ".data\n"
    ".balign 8\n"
    "gdt: .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff\n"
    "gdt_register: .word 23\n"
    "  .long gdt\n"
    ".bss\n"
    ".balign 16\n"
    "stack: .skip 16384\n"
    ".text\n"
);
// clang-format on

extern char tick[];

struct __attribute__((packed)) gate {
    uint16_t low, selector, flags, high;
};

struct __attribute__((packed)) table {
    uint16_t limit;
    uint32_t base;
};

void main(void) {
    static struct gate gates[48];
    const struct table table = {sizeof gates - 1, (uintptr_t)gates};
    const uint8_t controllers[] = {0x11, 0x20, 4, 1}; /* vectors from 0x20 on */
    for (unsigned i = 0; i < 48; i++) {
        uintptr_t at = (uintptr_t)tick;
        gates[i] = (struct gate){at & 0xffff, 8, 0x8e00, at >> 16};
    }
    __asm__ volatile("lidt %0" : : "m"(table));
    out8(0x20, controllers[0]);
    for (int i = 1; i < 4; i++)
        out8(0x21, controllers[i]);
    out8(0x21, 0xfe); /* the timer alone, */
    out8(0xa1, 0xff);
    out8(0x43, 0x34); /* every 2 ms */
    out8(0x40, 2386 & 0xff);
    out8(0x40, 2386 >> 8);
    start();
    for (;;)
        __asm__ volatile("sti; hlt");
}
