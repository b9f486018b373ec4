/*
 * The front-end's floor: sends the messages of many devices, all in flight, and receives the
 * replies, on sockets that are connected already. Nothing is checked, and nothing is parsed.
 *
 * Standard input, in 32-bit words of this machine: the number of devices; then for each the socket's
 * descriptor, the bytes of all its replies, and the number of writes; then for each write the number
 * of bytes, the number of descriptors, the descriptors, and the bytes.
 *
 * Printed: the nanoseconds from the first write to the last reply. Status 1: it failed.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "floor.h"

enum { MAX_FDS = 253, MAX_DEVICES = 1024, TIMEOUT_S = 60 };

struct write {
    uint32_t size, count;
    int fds[MAX_FDS];
    char *data;
};

struct device {
    int sock;
    uint32_t replies, writes;
    struct write *write;
};

static void *allocate(size_t size) {
    void *memory = calloc(1, size ? size : 1);
    if (!memory)
        die("calloc");
    return memory;
}

static void read_all(void *data, size_t size) {
    if (fread(data, 1, size, stdin) != size) {
        errno = EINVAL;
        die("standard input");
    }
}

static uint32_t word(uint32_t most) {
    uint32_t value;
    read_all(&value, sizeof value);
    if (value > most) {
        errno = ERANGE;
        die("standard input");
    }
    return value;
}

static struct device read_device(void) {
    struct device device = {.sock = (int)word(INT32_MAX), .replies = word(INT32_MAX)};
    device.writes = word(UINT16_MAX);
    device.write = allocate(device.writes * sizeof *device.write);
    for (uint32_t i = 0; i < device.writes; i++) {
        struct write *each = &device.write[i];
        each->size = word(INT32_MAX);
        each->count = word(MAX_FDS);
        read_all(each->fds, each->count * sizeof *each->fds);
        each->data = allocate(each->size);
        read_all(each->data, each->size);
    }
    return device;
}

/* The sockets do not block: their open file descriptions belong to the program that made them. */
static void await(int sock, short events) {
    struct pollfd wait = {.fd = sock, .events = events};
    if (errno != EAGAIN && errno != EINTR)
        die("socket");
    if (poll(&wait, 1, TIMEOUT_S * 1000) <= 0)
        die("poll");
}

static void send_write(int sock, const struct write *each) {
    char space[CMSG_SPACE(sizeof each->fds)];
    uint32_t sent = 0;
    while (sent < each->size) {
        struct iovec bytes = {each->data + sent, each->size - sent};
        struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};
        if (each->count && !sent) { /* they belong to the first byte */
            message.msg_control = space;
            message.msg_controllen = CMSG_SPACE(each->count * sizeof *each->fds);
            struct cmsghdr *head = CMSG_FIRSTHDR(&message);
            head->cmsg_level = SOL_SOCKET;
            head->cmsg_type = SCM_RIGHTS;
            head->cmsg_len = CMSG_LEN(each->count * sizeof *each->fds);
            memcpy(CMSG_DATA(head), each->fds, each->count * sizeof *each->fds);
        }
        ssize_t n = sendmsg(sock, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0)
            await(sock, POLLOUT);
        else
            sent += (uint32_t)n;
    }
}

static void receive(int sock, uint32_t due) {
    char data[1 << 16];
    while (due) {
        ssize_t n = recv(sock, data, due < sizeof data ? due : sizeof data, MSG_DONTWAIT);
        if (!n) {
            errno = ECONNRESET;
            die("the back-end has disconnected");
        }
        if (n < 0)
            await(sock, POLLIN);
        else
            due -= (uint32_t)n;
    }
}

int main(void) {
    static struct device devices[MAX_DEVICES];
    uint32_t count = word(MAX_DEVICES);
    for (uint32_t d = 0; d < count; d++)
        devices[d] = read_device();
    uint64_t begin = now();
    for (uint32_t d = 0; d < count; d++)
        for (uint32_t i = 0; i < devices[d].writes; i++)
            send_write(devices[d].sock, &devices[d].write[i]);
    for (uint32_t d = 0; d < count; d++)
        receive(devices[d].sock, devices[d].replies);
    printf("%llu\n", (unsigned long long)(now() - begin));
    return 0;
}
