/* What guests without an operating system share: their start, PCI, and virtio's structures.
 *
 * QEMU's firmware qboot loads such a guest by Multiboot (-kernel). Its 32-bit entry turns on long
 * mode, as some hosts' KVM runs 64-bit code natively and emulates all other, not every instruction
 * of it. The first 4 GiB are mapped one to one. A guest defines `main`, which runs with interrupts
 * disabled, and includes this header once.
 */
#include <stdint.h>

#define ALIGNED __attribute__((aligned(4096)))

enum { ID_CONSOLE_BASE = 0x1000, ID_BASE = 0x1040, VENDOR = 0x1af4 };
enum { F_MQ_BLK = 12, F_CTRL_VQ = 17, F_MQ_NET = 22 };
enum { F_INDIRECT = 28, F_EVENT_IDX = 29, F_VERSION_1 = 32 };
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8 };
enum { CAP_VENDOR = 9, CAP_MSIX = 0x11, CFG_COMMON = 1, CFG_NOTIFY = 2, CFG_DEVICE = 4 };
enum { NEXT = 1, WRITE = 2 };
enum { NET = 1, BLK = 2 };

/* virtio 1.3, 4.1.4.3 */
struct common {
    uint32_t device_feature_select, device_feature, driver_feature_select, driver_feature;
    uint16_t config_msix_vector, num_queues;
    uint8_t device_status, config_generation;
    uint16_t queue_select, queue_size, queue_msix_vector, queue_enable, queue_notify_off;
    uint32_t desc, desc_high, avail, avail_high, used, used_high;
} __attribute__((packed));

struct descriptor {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

struct used_element {
    uint32_t id, len;
};

static inline void out8(uint16_t port, uint8_t value) {
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

/* -- PCI: `function` is the number of a device on bus 0, times 8, plus that of its function. */

static inline uint32_t pci(int function, int at) {
    uint32_t value, address = 0x80000000u | function << 8 | (at & 0xfc);
    __asm__ volatile("outl %0, %1" : : "a"(address), "Nd"((uint16_t)0xcf8));
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"((uint16_t)0xcfc));
    return value >> (at & 3) * 8;
}

static inline void pci_write(int function, int at, uint32_t value) {
    pci(function, at);
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"((uint16_t)0xcfc));
}

static inline int is_virtio(int function) {
    uint32_t id = pci(function, 0);
    return (id & 0xffff) == VENDOR && id >> 16 >= ID_CONSOLE_BASE && id >> 16 < ID_BASE + 64;
}

/* The class, from the id of the device or, of a transitional one, from that of its subsystem. */
static inline int class_of(int function) {
    uint32_t id = pci(function, 0) >> 16;
    return id >= ID_BASE ? id - ID_BASE : pci(function, 0x2c) >> 16;
}

/* Where a capability is in the configuration space, or 0: the first one of this type of virtio's
 * structures (`cfg`), or any if `cfg` is 0. */
static inline int find_capability(int function, uint32_t type, uint32_t cfg) {
    for (int at = pci(function, 0x34) & 0xff; at; at = pci(function, at + 1) & 0xff) {
        if ((pci(function, at) & 0xff) == type && (!cfg || (pci(function, at + 3) & 0xff) == cfg))
            return at;
    }
    return 0;
}

/* -- Interrupts */

struct __attribute__((packed)) gate {
    uint16_t low, selector, flags, middle;
    uint32_t high, zero;
};

struct __attribute__((packed)) table {
    uint16_t limit;
    uint64_t base;
};

/* What the CPU passes to a handler, which has the attribute `interrupt`. */
struct interrupt_frame;

static inline struct gate gate_to(void (*handler)(struct interrupt_frame *)) {
    uint64_t at = (uintptr_t)handler;
    return (struct gate){at & 0xffff, 8, 0x8e00, at >> 16 & 0xffff, at >> 32, 0};
}

static inline void load_gates(const struct gate *gates, unsigned count) {
    const struct table table = {count * sizeof *gates - 1, (uintptr_t)gates};
    __asm__ volatile("lidt %0" : : "m"(table));
}

/* The vectors of the two 8259 begin at 0x20; all of their interrupts but those in `enabled`, of the
 * first one, are masked. */
static inline void set_up_8259(uint8_t enabled) {
    const uint8_t words[] = {0x20, 4, 1};
    out8(0x20, 0x11);
    for (unsigned i = 0; i < sizeof words; i++)
        out8(0x21, words[i]);
    out8(0x21, ~enabled);
    out8(0xa1, 0xff);
}

// clang-format off
__asm__(
    /* From 32-bit protected mode, with this GDT, to long mode. */
    ".macro long_mode\n"
    "  mov $root, %eax\n"
    "  mov %eax, %cr3\n"
    "  mov %cr4, %eax\n"
    "  or $0x20, %eax\n" /* PAE */
    "  mov %eax, %cr4\n"
    "  mov $0xc0000080, %ecx\n" /* EFER: long mode */
    "  rdmsr\n"
    "  or $0x100, %eax\n"
    "  wrmsr\n"
    "  mov %cr0, %eax\n"
    "  or $0x80000000, %eax\n" /* paging */
    "  mov %eax, %cr0\n"
    "  ljmp $8, $1f\n"
    ".code64\n"
    "1: mov $16, %eax\n"
    "  mov %eax, %ds\n"
    "  mov %eax, %es\n"
    "  mov %eax, %ss\n"
    ".endm\n"
    /* The Multiboot header has to be within the first 8 KiB of the file: the linker puts this
     * section first. It has addresses (bit 16), as QEMU refuses a 64-bit ELF file without them; the
     * second one is that of -Ttext. */
    ".section .text.unlikely, \"ax\"\n"
    "  .balign 4\n"
    "multiboot: .long 0x1badb002, 0x10000, -0x1baeb002\n"
    "  .long multiboot, 0x100000, _edata, _end, _start\n"
    ".text\n"
    ".code32\n"
    ".globl _start\n"
    "_start:\n"
    "  cli\n"
    "  lgdt gdt_register\n"
    "  long_mode\n"
    "  mov $stack + 16384, %esp\n"
    "  call main\n"
    "2: hlt\n"
    "  jmp 2b\n"
    ".data\n"
    ".balign 8\n"
    /* 64-bit code, data, 32-bit code */
    "gdt: .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff, 0x00cf9a000000ffff\n"
    "gdt_register: .word 31\n"
    "  .long gdt\n"
    ".balign 4096\n" /* pages of 2 MiB, present and writable */
    "root: .quad directories + 3\n"
    ".balign 4096\n"
    "directories: .quad pages + 3, pages + 0x1003, pages + 0x2003, pages + 0x3003\n"
    ".balign 4096\n"
    "pages:\n"
    ".set page, 0\n"
    ".rept 2048\n"
    "  .quad page << 21 | 0x83\n"
    ".set page, page + 1\n"
    ".endr\n"
    ".bss\n"
    ".balign 16\n"
    "stack: .skip 16384\n"
    ".text\n"
);
// clang-format on
