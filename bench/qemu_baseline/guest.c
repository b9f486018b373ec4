/* The guest of the control run: it sets up all rings of all disks and NICs of its VM, and keeps a
 * heartbeat.
 *
 * It enables MSI-X, with a vector for each ring, where a device has it. A timer of the local APIC
 * adds one to the heartbeat each millisecond; between two interrupts the vCPU halts. All other vCPUs
 * halt for ever. Another program
 * looks at the page at `BOARD` through the file of the guest's memory, and may ask for a request on
 * each ring that can complete one by itself: those of disks, and those of NICs that transmit.
 */
#include "bare_metal.h"

#define SIZE 16                /* descriptors of a ring, at most */
#define MAX_RINGS 8192         /* of all devices together */
#define BOARD 0x200000u        /* as in guest_board.py */
#define RINGS_AT 0x1000000u    /* a page for each ring, up to 32 MiB */
#define WINDOW 0xf0000000u     /* of the devices' registers: addresses that q35 has for PCI */
#define STARTUP 0x8000u        /* of the other vCPUs: a page below 1 MiB */
#define LOCAL_APIC 0xfee00000u
#define TICKS 1000000u         /* of the local APIC's clock, which runs at 1 GHz: a millisecond */
#define PATIENCE 100000000u    /* looks at the used ring of a control queue */

enum { TIMER = 0x30, MESSAGE = 0x31, SPURIOUS = 0xff };
enum { BOOTING, READY, FAILED };
enum { CTRL_MQ = 4, NO_VECTOR = 0xffff };
/* What a ring is for. Those that receive complete nothing by themselves. */
enum { READS, TRANSMITS, RECEIVES, CONTROL };

/* Offsets are those of guest_board.py. `beats` has a cache line of its own. */
struct board {
    uint32_t state, failure; /* the line of this file, in FAILED */
    uint32_t devices, rings, vectors, interrupts, vcpus;
    uint32_t pad[9];
    uint64_t beats;
    uint64_t more_pad[7];
    uint32_t asked; /* written by the other program */
    uint32_t answered;
};

/* A page: the ring, a request's header and status, and its data. */
struct ring {
    struct descriptor desc[SIZE];
    struct {
        uint16_t flags, idx, ring[SIZE + 1];
    } avail;
    struct {
        uint16_t flags, idx;
        struct used_element ring[SIZE + 1];
    } used __attribute__((aligned(16)));
    uint8_t header[64] __attribute__((aligned(64)));
    uint8_t status;
    uint8_t data[2048] __attribute__((aligned(64)));
} ALIGNED;

struct queue {
    volatile struct ring *ring;
    volatile uint16_t *doorbell;
    uint16_t index, use;
};

static struct queue queues[MAX_RINGS];
static unsigned count;
static uint32_t next_address = WINDOW;
static volatile struct board *const board = (volatile struct board *)BOARD;

static void __attribute__((noreturn)) fail(int line) {
    board->failure = line;
    __sync_synchronize();
    board->state = FAILED;
    for (;;)
        __asm__ volatile("cli; hlt");
}

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail(__LINE__);                                                                        \
    } while (0)

/* Gives each of the device's memory BARs an address; the firmware may have given it another one. */
static void assign(int function) {
    uint32_t size, low;
    pci_write(function, 4, 0x400); /* no INTx */
    for (int at = 0x10; at < 0x28; at += 4) {
        low = pci(function, at);
        if (low & 1)
            continue; /* I/O ports */
        pci_write(function, at, ~0u);
        size = ~(pci(function, at) & ~15u) + 1;
        if (!size)
            continue;
        next_address = (next_address + size - 1) & ~(size - 1);
        pci_write(function, at, next_address);
        next_address += size;
        if ((low & 6) == 4) {
            at += 4;
            pci_write(function, at, 0);
        }
    }
    pci_write(function, 4, 0x406); /* memory, bus master */
}

static uintptr_t bar(int function, int number) { return pci(function, 0x10 + 4 * number) & ~15u; }

static uintptr_t structure(int function, int type) {
    int at = find_capability(function, CAP_VENDOR, type);
    REQUIRE(at);
    return bar(function, pci(function, at + 4) & 0xff) + pci(function, at + 8);
}

/* Enables MSI-X with all of its vectors; returns how many there are. */
static unsigned enable_vectors(int function) {
    int at = find_capability(function, CAP_MSIX, 0);
    uint32_t control, place;
    unsigned vectors;
    if (!at)
        return 0;
    control = pci(function, at);
    vectors = (control >> 16 & 0x7ff) + 1;
    place = pci(function, at + 4);
    for (unsigned i = 0; i < vectors; i++) {
        volatile uint32_t *entry =
            (volatile uint32_t *)(bar(function, place & 7) + (place & ~7u) + 16 * i);
        entry[0] = LOCAL_APIC;
        entry[1] = 0;
        entry[2] = MESSAGE;
        entry[3] = 0;
    }
    pci_write(function, at, control | 1u << 31);
    return vectors;
}

static void describe(volatile struct ring *ring, int at, volatile void *data, uint32_t length,
                     uint16_t flags) {
    ring->desc[at].addr = (uintptr_t)data;
    ring->desc[at].len = length;
    ring->desc[at].flags = flags;
    ring->desc[at].next = at + 1;
}

static void submit(const struct queue *queue) {
    volatile struct ring *ring = queue->ring;
    uint16_t at = ring->avail.idx;
    ring->status = 0xff;
    ring->avail.ring[at % SIZE] = 0;
    __sync_synchronize();
    ring->avail.idx = at + 1;
    __sync_synchronize();
    *queue->doorbell = queue->index;
}

static int is_idle(const struct queue *queue) {
    return queue->ring->used.idx == queue->ring->avail.idx;
}

/* Sets up the device's ring of that index, whose memory is zeroed. */
static struct queue *add_ring(volatile struct common *common, uintptr_t doorbells, uint32_t step,
                              unsigned index, unsigned vectors, int use) {
    struct queue *queue = &queues[count];
    volatile struct ring *ring = (volatile struct ring *)(RINGS_AT + count * sizeof(struct ring));
    REQUIRE(++count <= MAX_RINGS);
    common->queue_select = index;
    REQUIRE(common->queue_size >= SIZE);
    common->queue_size = SIZE;
    if (vectors) {
        REQUIRE(index + 1 < vectors);
        common->queue_msix_vector = index + 1;
        REQUIRE(common->queue_msix_vector == index + 1);
        board->vectors++;
    }
    common->desc = (uintptr_t)ring->desc;
    common->avail = (uintptr_t)&ring->avail;
    common->used = (uintptr_t)&ring->used;
    common->desc_high = common->avail_high = common->used_high = 0;
    queue->ring = ring;
    queue->doorbell = (volatile uint16_t *)(doorbells + common->queue_notify_off * step);
    queue->index = index;
    queue->use = use;
    common->queue_enable = 1;
    return queue;
}

/* A read of the first sector. */
static void describe_read(volatile struct ring *ring) {
    describe(ring, 0, ring->header, 16, NEXT);
    describe(ring, 1, ring->data, 512, NEXT | WRITE);
    describe(ring, 2, &ring->status, 1, WRITE);
}

/* A broadcast frame of 60 bytes, behind a header of 12. */
static void describe_frame(volatile struct ring *ring) {
    for (int i = 0; i < 6; i++)
        ring->data[12 + i] = 0xff;
    ring->data[18] = 2;
    ring->data[24] = 0x88;
    ring->data[25] = 0xb5;
    describe(ring, 0, ring->data, 72, 0);
}

/* Enables all pairs of rings of a NIC, by its control queue, and waits until that is done. */
static void enable_pairs(const struct queue *control, unsigned pairs) {
    volatile struct ring *ring = control->ring;
    uint32_t looks = 0;
    ring->header[0] = CTRL_MQ;
    ring->data[0] = pairs;
    ring->data[1] = pairs >> 8;
    describe(ring, 0, ring->header, 2, NEXT);
    describe(ring, 1, ring->data, 2, NEXT);
    describe(ring, 2, &ring->status, 1, WRITE);
    submit(control);
    while (!is_idle(control))
        REQUIRE(++looks < PATIENCE);
    REQUIRE(!ring->status);
}

static void start(int function) {
    int class = class_of(function);
    volatile struct common *common;
    const struct queue *control = 0;
    unsigned vectors, rings, pairs = 0;
    const unsigned first = count;
    uintptr_t doorbells;
    uint32_t step, low;
    if (class != NET && class != BLK)
        return;
    assign(function);
    common = (volatile struct common *)structure(function, CFG_COMMON);
    doorbells = structure(function, CFG_NOTIFY);
    step = pci(function, find_capability(function, CAP_VENDOR, CFG_NOTIFY) + 16);
    common->device_status = 0;
    while (common->device_status)
        ;
    common->device_status = ACKNOWLEDGE | DRIVER;
    common->device_feature_select = 0;
    low = common->device_feature;
    low &= class == BLK ? 1u << F_MQ_BLK : 1u << F_MQ_NET | 1u << F_CTRL_VQ;
    common->driver_feature_select = 0;
    common->driver_feature = low;
    common->driver_feature_select = 1;
    common->driver_feature = 1u << (F_VERSION_1 - 32);
    common->device_status = ACKNOWLEDGE | DRIVER | FEATURES_OK;
    REQUIRE(common->device_status & FEATURES_OK);
    vectors = enable_vectors(function);
    if (vectors) {
        common->config_msix_vector = 0;
        REQUIRE(common->config_msix_vector != NO_VECTOR);
    }
    if (class == BLK) {
        rings = common->num_queues;
    } else {
        /* virtio 1.3, 5.1.4: a MAC, a status, then the number of pairs */
        pairs =
            low >> F_MQ_NET & 1 ? *(volatile uint16_t *)(structure(function, CFG_DEVICE) + 8) : 1;
        rings = 2 * pairs;
    }
    for (unsigned i = 0; i < rings; i++) {
        int use = class == BLK ? READS : i % 2 ? TRANSMITS : RECEIVES;
        volatile struct ring *ring = add_ring(common, doorbells, step, i, vectors, use)->ring;
        if (use == READS)
            describe_read(ring);
        else if (use == TRANSMITS)
            describe_frame(ring);
        else
            describe(ring, 0, ring->data, sizeof ring->data, WRITE);
    }
    if (pairs > 1)
        control = add_ring(common, doorbells, step, rings, vectors, CONTROL);
    common->device_status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
    if (control)
        enable_pairs(control, pairs);
    for (unsigned i = first; i < first + rings; i++)
        submit(&queues[i]);
    board->rings += rings;
    board->devices++;
}

/* Whether all requests of disks are completed, without an error, and all frames are sent. */
static int all_done(void) {
    for (unsigned i = 0; i < count; i++) {
        if (queues[i].use != RECEIVES && !is_idle(&queues[i]))
            return 0;
        REQUIRE(queues[i].use != READS || !queues[i].ring->status);
    }
    return 1;
}

static void serve(void) {
    uint32_t under_way = 0;
    for (;;) {
        __asm__ volatile("sti; hlt; cli");
        if (board->answered != under_way) {
            if (all_done())
                board->answered = under_way;
        } else if (board->asked != under_way) {
            under_way = board->asked;
            /* Also a ring that receives gets its buffer back, if that was used. */
            for (unsigned i = 0; i < count; i++) {
                if (queues[i].use != CONTROL && is_idle(&queues[i]))
                    submit(&queues[i]);
            }
        }
    }
}

static volatile uint32_t *const apic = (volatile uint32_t *)LOCAL_APIC;

static void end_of_interrupt(void) { apic[0xb0 / 4] = 0; }

__attribute__((interrupt)) static void timer(struct interrupt_frame *frame) {
    (void)frame;
    board->beats++;
    end_of_interrupt();
}

__attribute__((interrupt)) static void message(struct interrupt_frame *frame) {
    (void)frame;
    board->interrupts++;
    end_of_interrupt();
}

__attribute__((interrupt)) static void spurious(struct interrupt_frame *frame) { (void)frame; }

static void start_timer(void) {
    static struct gate gates[256];
    gates[TIMER] = gate_to(timer);
    gates[MESSAGE] = gate_to(message);
    gates[SPURIOUS] = gate_to(spurious);
    load_gates(gates, 256);
    set_up_8259(0);
    apic[0xf0 / 4] = 0x100 | SPURIOUS;   /* enabled */
    apic[0x3e0 / 4] = 0xb;               /* divide by 1 */
    apic[0x320 / 4] = 1u << 17 | TIMER;  /* periodic */
    apic[0x380 / 4] = TICKS;
}

/* The code of the other vCPUs, from real mode on, which runs at STARTUP: each one counts itself, and
 * halts for ever. */
extern const char others[], others_end[];

// clang-format off
__asm__(
    ".data\n"
    ".code16\n"
    "others:\n"
    "  cli\n"
    "  xor %ax, %ax\n"
    "  mov %ax, %ds\n"
    "  lgdtl 0x8000 + 1f - others\n"
    "  mov %cr0, %eax\n"
    "  or $1, %al\n"
    "  mov %eax, %cr0\n"
    "  ljmpl $24, $2f\n"
    "1: .word 31\n"
    "  .long gdt\n"
    "others_end:\n"
    ".text\n"
    ".code32\n"
    "2: mov $16, %eax\n"
    "  mov %eax, %ds\n"
    "  long_mode\n"
    "  lock incl 0x200018\n" /* board->vcpus */
    "3: cli\n"
    "  hlt\n"
    "  jmp 3b\n"
);
// clang-format on

static void await_ticks(uint64_t ticks) {
    for (ticks += board->beats; board->beats < ticks;)
        __asm__ volatile("sti; hlt; cli");
}

/* Starts them all (INIT, then STARTUP twice, as the architecture has it). */
static void start_others(void) {
    volatile char *at = (volatile char *)STARTUP;
    for (const char *from = others; from < others_end; from++)
        *at++ = *from;
    apic[0x300 / 4] = 0xc4500;
    await_ticks(10);
    for (int i = 0; i < 2; i++) {
        apic[0x300 / 4] = 0xc4600 | STARTUP >> 12;
        await_ticks(2);
    }
}

void main(void) {
    board->vcpus = 1;
    for (int function = 0; function < 256; function++) {
        if (is_virtio(function))
            start(function);
    }
    start_timer();
    start_others();
    do {
        __asm__ volatile("sti; hlt; cli");
    } while (!all_done());
    board->state = READY;
    serve();
}
