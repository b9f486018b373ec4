#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "clock.h"
#include "native.h"

enum {
    EVENTS = 64,
    PIECE = 65536,
    MAX_FDS = 253, /* SCM_MAX_FD in Linux */
    MOST = sizeof(vu_record) + PIECE + sizeof(int) * (MAX_FDS + 1) + 8,
    SET_BACKEND_REQ_FD = 21,
    LOST = -1, /* of descriptors, as in vu_record */
    UNREAD = -2,
};

typedef union control {
    char space[CMSG_SPACE(sizeof(int) * MAX_FDS)];
    struct cmsghdr align;
} control;

/* Whether these bytes, which have descriptors among them, are one message, with its header. Its first
   byte has the descriptors then: it can be read on its own, and sent with the others. Python divides
   everything else, and replaces the descriptor of SET_BACKEND_REQ_FD. */
static int is_one_message(const uint8_t *bytes, ssize_t size) {
    uint32_t header[3]; /* request, flags, bytes of the payload */
    if (size < (ssize_t)sizeof header)
        return 0;
    memcpy(header, bytes, sizeof header);
    return header[0] != SET_BACKEND_REQ_FD && (header[1] & 3) == 1 &&
           header[2] == (uint64_t)size - sizeof header;
}

/* Reads one byte with its descriptors: their number, or LOST if there are fewer than were sent, or
   UNREAD. */
static int read_first(int source, uint8_t *byte, int *fds) {
    control ancillary;
    struct iovec part = {byte, 1};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &ancillary,
                             .msg_controllen = sizeof ancillary};
    int count = 0;
    if (recvmsg(source, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != 1)
        return UNREAD;
    for (struct cmsghdr *each = CMSG_FIRSTHDR(&message); each; each = CMSG_NXTHDR(&message, each))
        if (each->cmsg_level == SOL_SOCKET && each->cmsg_type == SCM_RIGHTS && !count) {
            count = (int)((each->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(fds, CMSG_DATA(each), sizeof(int) * (size_t)count);
        }
    if (!(message.msg_flags & MSG_CTRUNC))
        return count;
    vu_close(fds, count);
    return LOST;
}

static ssize_t send_piece(int sink, uint8_t *bytes, size_t size, const int *fds, int count) {
    control ancillary;
    struct iovec part = {bytes, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count) {
        size_t length = sizeof(int) * (size_t)count;
        message.msg_control = &ancillary;
        message.msg_controllen = CMSG_SPACE(length);
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(length);
        memcpy(CMSG_DATA(rights), fds, length);
    }
    ssize_t sent = sendmsg(sink, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent < 0 ? 0 : sent; /* Python tries again, and sees why */
}

/* Forwards what one read returns; 0 when anything is left to Python. As in emu/tap/forwarding.py,
   the bytes are first looked at. Several messages stay together, and so do the parts of one: DPDK
   takes a part of a header for an error. */
static int forward(vu_relay *relay, int source, int sink) {
    vu_record *record = (vu_record *)(relay->log + relay->used);
    uint8_t *bytes = (uint8_t *)(record + 1);
    struct iovec whole = {bytes, PIECE};
    struct msghdr look = {.msg_iov = &whole, .msg_iovlen = 1};
    ssize_t size = recvmsg(source, &look, MSG_DONTWAIT | MSG_PEEK), first = 0;
    int fds[MAX_FDS], count = 0, some = !!(look.msg_flags & MSG_CTRUNC);
    if (size <= 0 || (some && !is_one_message(bytes, size)))
        return 0;
    if (some) {
        first = 1;
        count = read_first(source, bytes, fds);
        if (count == UNREAD)
            return 0;
        if (count <= 0) /* they came after a part of the message: Python finds them */
            size = 1;
    }
    if (size > first) { /* what is read counts, not what was seen */
        ssize_t rest = recv(source, bytes + first, (size_t)(size - first), MSG_DONTWAIT);
        size = first + (rest > 0 ? rest : 0);
    }
    if (!size)
        return 0;
    record->time = now();
    record->source = source;
    record->fd_count = count;
    record->size = (uint32_t)size;
    record->sent = count < 0 ? 0 : (uint32_t)send_piece(sink, bytes, (size_t)size, fds, count);
    uint64_t end = relay->used + sizeof *record + (uint64_t)size;
    if (count > 0 && record->sent)
        vu_close(fds, count);
    else if (count > 0) {
        memcpy(relay->log + end, fds, sizeof(int) * (size_t)count);
        end += sizeof(int) * (uint64_t)count;
    }
    relay->used = record->next = (end + 7) / 8 * 8;
    return record->sent == record->size && (!some || count);
}

/* Forwards until there is something for Python, or nothing for some time. The thread polls before it
   sleeps: a front-end that waits for each reply sends the next request soon. */
void vu_relay_run(vu_relay *relay) {
    struct epoll_event events[EVENTS];
    uint64_t begin = now(), last = begin, at;
    int left = 0;
    relay->used = 0;
    do {
        int count = epoll_wait((int)relay->epoll, events, EVENTS, 0);
        left = count < 0;
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (events[i].events != EPOLLIN || (uint64_t)fd >= relay->sink_count ||
                relay->sinks[fd] < 0 || relay->log_bytes - relay->used < MOST ||
                !forward(relay, fd, relay->sinks[fd]))
                left = 1;
        }
        at = now();
        if (count > 0)
            last = at;
        else
            sched_yield();
    } while (!left && at - last < relay->spin_ns && at - begin < relay->longest_ns);
}
