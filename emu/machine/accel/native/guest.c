/* The code of the vCPUs of a KVM machine: 64-bit code that only handles notifiers.
 *
 * The drivers run on the host. They queue their writes to notify addresses in a vCPU's mailbox and
 * interrupt it; it makes the writes, as plain stores that KVM turns into signals on ioeventfds. For
 * an interrupt that an irqfd has raised, the vCPU increments a counter and sets a bit in the
 * mailbox, and notifies the drivers by a write to a port, which has an ioeventfd as well. So the
 * kernel handles notifiers in both directions, without an exit to user space.
 *
 * A mailbox is a page; the base of %gs points to it:
 *
 *   0x000 u64       how often the vCPU left its halt
 *   0x008 u64       the port that notifies the drivers
 *   0x010 u32, u32  number of writes queued by the host, and made by the guest; both only grow
 *   0x018 u64       ticks of the timer
 *   0x020 u64 x 4   a bit for each vector that was taken and that the drivers have not seen
 *   0x040 u32       ticks of the APIC's clock between two ticks of the timer, 0 for no timer
 *   0x100 u64 x 128 queue of writes: the address (below 0x10000: a port), and in the upper half the
 *                   value
 *   0x500           the vCPU's stack, from 0x800 downwards
 *   0x800 u64 x 256 interrupts taken, by vector
 *
 * Vectors: 0x20 for queued writes, 0x21 for the timer, all others are of devices.
 *
 * A vCPU notifies the drivers once, without a vector, when it is ready for interrupts. A halted
 * vCPU always has the same register values. So at the destination of a migration a halted vCPU has
 * them already, and they need not be set.
 */
#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

#include "kvm.h"

// clang-format off
__asm__(
    ".section .rodata\n"
    ".balign 64\n"
    ".globl vk_guest_code\n"
    ".globl vk_guest_end\n"
    "vk_guest_code:\n"
    /* offset 0: entry; 16 and on: a stub of 16 bytes for each of the 256 vectors */
    "  jmp 9f\n"
    "  .balign 16\n"
    ".set vector, 0\n"
    ".rept 256\n"
    "  .balign 16\n"
    "  push %rax\n"
    "  mov $vector, %eax\n"
    "  jmp 1f\n"
    ".set vector, vector + 1\n"
    ".endr\n"
    "  .balign 16\n"
    "1:\n"
    "  push %rcx\n"
    "  push %rdx\n"
    "  cmp $0x20, %eax\n"
    "  jb 8f\n"
    "  incq %gs:0x800(,%rax,8)\n"
    "  cmp $0x20, %eax\n"
    "  je 4f\n"
    "  cmp $0x21, %eax\n"
    "  jne 2f\n"
    "  incq %gs:0x18\n"
    "2:\n"
    /* mark the vector, and notify the drivers unless it was marked already */
    "  lock btsq %rax, %gs:0x20\n"
    "  jc 3f\n"
    "  mov %gs:0x8, %rdx\n"
    "  out %ax, (%dx)\n"
    "3:\n"
    /* end of interrupt: x2APIC register 0x80b */
    "  mov $0x80b, %ecx\n"
    "  xor %eax, %eax\n"
    "  xor %edx, %edx\n"
    "  wrmsr\n"
    "  pop %rdx\n"
    "  pop %rcx\n"
    "  pop %rax\n"
    "  iretq\n"
    /* make the queued writes */
    "4:\n"
    "  mov %gs:0x14, %ecx\n"
    "5:\n"
    "  cmp %gs:0x10, %ecx\n"
    "  je 3b\n"
    "  mov %ecx, %eax\n"
    "  and $127, %eax\n"
    "  mov %gs:0x100(,%rax,8), %rdx\n"
    "  mov %edx, %eax\n"
    "  shr $32, %rdx\n"
    "  cmp $0x10000, %eax\n"
    "  jb 10f\n"
    "  mov %edx, (%rax)\n"
    "  jmp 11f\n"
    "10:\n"
    "  xchg %eax, %edx\n"
    "  out %eax, (%dx)\n"
    "11:\n"
    "  inc %ecx\n"
    "  mov %ecx, %gs:0x14\n"
    "  jmp 5b\n"
    /* an exception, which this code never raises: a write that exits to the host */
    "8:\n"
    "  mov $0xdffff000, %edx\n"
    "  mov %eax, (%rdx)\n"
    "  hlt\n"
    "  jmp 8b\n"
    "9:\n"
    /* the local APIC: spurious vector register with the enable bit */
    "  mov $0x80f, %ecx\n"
    "  mov $0x1ff, %eax\n"
    "  xor %edx, %edx\n"
    "  wrmsr\n"
    /* the timer, on the vCPU that has one: divide by 1, periodic, initial count */
    "  cmpl $0, %gs:0x40\n"
    "  je 7f\n"
    "  mov $0x83e, %ecx\n"
    "  mov $0xb, %eax\n"
    "  wrmsr\n"
    "  mov $0x832, %ecx\n"
    "  mov $0x20021, %eax\n"
    "  wrmsr\n"
    "  mov $0x838, %ecx\n"
    "  mov %gs:0x40, %eax\n"
    "  wrmsr\n"
    "7:\n"
    /* ready */
    "  mov %gs:0x8, %rdx\n"
    "  out %ax, (%dx)\n"
    "  xor %edx, %edx\n"
    "  xor %ecx, %ecx\n"
    "  xor %eax, %eax\n"
    "6:\n"
    "  sti\n"
    "  hlt\n"
    "  incq %gs:0x0\n"
    "  xor %eax, %eax\n"
    "  jmp 6b\n"
    "vk_guest_end:\n"
    ".text\n");
// clang-format on
