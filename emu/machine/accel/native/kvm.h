/* The kernel's virtual machine, in calls that each handle a batch. cffi reads this file.
 *
 * Every function that can fail returns 0 or a negative errno. When a batch fails, `*done` is the
 * number of its entries that were completed.
 */

typedef struct vk_machine vk_machine;

typedef struct {
    uint32_t gsi;
    int32_t fd;
} vk_irqfd;

typedef struct {
    uint32_t apic;   /* identifier of the vCPU's local APIC */
    uint32_t vector; /* of that local APIC, 0 for no route */
} vk_route;

typedef struct {
    int32_t reason; /* one of VK_* */
    uint32_t length;
    uint64_t address;
    uint64_t value;
    uint32_t kernel_reason; /* KVM_EXIT_* where reason is VK_FAILED */
    uint32_t detail;
    uint64_t rip;
} vk_exit;

typedef struct {
    uint64_t rip, rsp, rdi, cr3, gdt, idt, gs;
    uint16_t gdt_limit, idt_limit, code, data;
} vk_start;

#define VK_STOPPED 0
#define VK_WRITE 1
#define VK_FAILED 2

/* /dev/kvm itself */
int vk_api(void);
int vk_capability(int number);

/* A machine */
vk_machine *vk_open(int *error);
void vk_close(vk_machine *m);
int vk_memory(vk_machine *m, uint32_t slot, uint64_t gpa, uint64_t size, void *host, int log);
int vk_dirty_log(vk_machine *m, uint32_t slot, void *bitmap);
int vk_ioeventfds(vk_machine *m, const struct kvm_ioeventfd *list, size_t count, int assign,
                  size_t *done);
int vk_irqfds(vk_machine *m, const vk_irqfd *list, size_t count, int assign, size_t *done);
/* The whole table: an entry's index is its GSI. */
int vk_routes(vk_machine *m, const vk_route *list, size_t count);
/* Raise an interrupt without a route. */
int vk_interrupt(vk_machine *m, uint32_t index, uint32_t vector);
/* Words of guest memory in which the vCPUs' code sets bits: read and clear them, or set bits. */
void vk_take(void *words, uint64_t *taken, size_t count);
void vk_put_back(void *words, const uint64_t *taken, size_t count);

/* Its vCPUs. They are paused until vk_resume. */
int vk_vcpus(vk_machine *m, uint32_t count);
int vk_begin(vk_machine *m, uint32_t index, const vk_start *start);
/* A vCPU's thread runs in here. After a write it is at a safe point only once it calls again. */
int vk_run(vk_machine *m, uint32_t index, vk_exit *exit);
void vk_thread_ends(vk_machine *m,
                    uint32_t index); /* from its thread: it will not call vk_run again */
void vk_end(vk_machine *m, uint32_t index);    /* have vk_run return VK_STOPPED */
int vk_pause(vk_machine *m, uint64_t timeout_ns);
int vk_resume(vk_machine *m, uint64_t timeout_ns);
void vk_stop(vk_machine *m);
size_t vk_state_size(void);
int vk_save(vk_machine *m, uint32_t index, void *state);
/* Sets only the parts that differ from the kernel's; adds their number to `set`. */
int vk_load(vk_machine *m, uint32_t index, const void *state, uint32_t *set);

/* The guest's own code, see guest.c */
extern const uint8_t vk_guest_code[];
extern const uint8_t vk_guest_end[];
