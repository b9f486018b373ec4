/* A guest without an operating system, which drives one virtio PCI device of any class.
 *
 * QEMU's firmware qboot loads it by Multiboot (-kernel); it knows no devices, so that none is used
 * before this guest. It takes the first virtio device on bus 0, accepts VERSION_1, indirect descriptors and EVENT_IDX, and gives each ring that
 * the device has a request that fits its class. A request that is completed is made available
 * again. Between two looks at the rings the CPU halts until the next tick of the timer.
 */
#include "bare_metal.h"

#define SIZE 16 /* descriptors of a ring, at most */
#define RINGS 8 /* rings that are used, at most */

#define WINDOW 0xf0000000u /* of the device's registers: addresses that q35 has for PCI */

/* A ring of fewer descriptors has its event index behind its last element, too. */
struct ring {
    struct descriptor desc[SIZE];
    struct {
        uint16_t flags, idx, ring[SIZE + 1]; /* used_event is the last one */
    } avail;
    struct {
        uint16_t flags, idx;
        struct used_element ring[SIZE + 1]; /* avail_event is in the last one */
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
    for (int function = 0; function < 256; function += 8) {
        if (is_virtio(function))
            return function;
    }
    return -1;
}

/* The address of a 64-bit BAR, which the firmware may have left to the guest. */
static uintptr_t base_of(int function, int bar) {
    int at = 0x10 + 4 * bar;
    if (!(pci(function, at) & ~15u)) {
        pci_write(function, at, WINDOW);
        pci_write(function, at + 4, 0);
    }
    return pci(function, at) & ~15u;
}

static uintptr_t structure(int function, uint32_t type, int *at) {
    *at = find_capability(function, CAP_VENDOR, type);
    return *at ? base_of(function, pci(function, *at + 4) & 0xff) + pci(function, *at + 8) : 0;
}

static void start(void) {
    int function = find(), class, at, count, sizes[RINGS];
    uintptr_t doorbell;
    uint32_t step, low;
    if (function < 0)
        return;
    class = class_of(function);
    pci_write(function, 4, pci(function, 4) | 6); /* memory, bus master */
    common = (volatile struct common *)structure(function, CFG_COMMON, &at);
    doorbell = structure(function, CFG_NOTIFY, &at);
    step = pci(function, at + 16);
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
    if (class == NET)
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

__attribute__((interrupt)) static void tick(struct interrupt_frame *frame) {
    (void)frame;
    out8(0x20, 0x20); /* end of interrupt */
}

void main(void) {
    static struct gate gates[48];
    for (unsigned i = 0; i < 48; i++)
        gates[i] = gate_to(tick);
    load_gates(gates, 48);
    set_up_8259(1);   /* the timer alone, */
    out8(0x43, 0x34); /* every 2 ms */
    out8(0x40, 2386 & 0xff);
    out8(0x40, 2386 >> 8);
    start();
    for (;;)
        __asm__ volatile("sti; hlt");
}
