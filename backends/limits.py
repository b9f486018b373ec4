"""The bounds on what a front-end, or its guest, can make a program hold or do at once.

Each bound is per device, except where its text has another unit. `BOUNDS` is the table of
docs/reference/backends.md; the modules that keep a bound take it from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vhost_user.channel import READ_FDS, READ_SIZE
from vhost_user.connection import MAX_READS
from vhost_user.payloads import MAX_RINGS
from vhost_user.virtqueue.layout import MAX_CHAIN, MAX_SIZE

if TYPE_CHECKING:
    from vhost_user.virtqueue import Chain

#: Front-ends that wait in a socket's backlog while one is served.
BACKLOG = 8
#: Slots for ADD_MEM_REG, as libvhost-user has them.
MAX_MEM_SLOTS = 509
#: Messages whose replies are queued before they are sent.
REPLIES = 64
#: Nanoseconds of one turn of the loop that a device's messages may take; the rest wait.
MESSAGES_NS = 5_000_000
#: Descriptors of stopped rings that wait to be closed; if there are more, all are closed at the end
#: of the turn.
CLOSING = 1024
#: Requests that one poll of a ring serves, so that a driver that never stops adding requests
#: delays neither the other rings nor the control socket.
BUDGET = 16
#: Descriptors of a chain that count as one more request.
CHAIN_SHARE = 64
#: Requests that one poll of a ring serves, where a compiled function serves them.
COMPILED_BUDGET = 64
#: Bytes of such requests: the poll ends with the request that reaches it.
COMPILED_BYTES = 1 << 20
#: Nanoseconds that a call of the loop's thread may block before another thread takes the loop over;
#: it happens within twice this time.
TAKE_OVER_NS = 1_000_000
#: Nanoseconds after such a call for which the device's calls are made by other threads.
SLOW_NS = 50_000_000
#: Kicks without a request, one after the other, and besides one for each descriptor of the ring;
#: after these the ring is polled.
IDLE_KICKS = 1024
#: Control descriptors are checked again after this many rings.
RINGS_PER_CHECK = 4
#: Bytes of one disk request; a larger one fails. The used length has 32 bits.
DISK_REQUEST_BYTES = 1 << 30
#: Bytes of a disk request that is served in the loop's thread; a larger one goes to another thread.
INLINE_BYTES = 256 << 10
#: Ranges of one discard or write-zeroes request.
MAX_SEGMENTS = 32
#: Bytes that one request gets from an entropy device: the driver asks again for more (virtio 1.3,
#: 5.4.6.1).
RNG_REQUEST_BYTES = 64 << 10
#: Threads for calls that may block.
IO_THREADS = 4
#: Frames that wait for the thread of another NIC.
INBOX_FRAMES = 4096
#: Size of an address table; the oldest address is dropped from a full one.
MAX_ADDRESSES = 4096
#: Frames that are read from the uplink, or from a TAP queue, in one turn of the loop.
FRAMES_PER_TURN = 64
#: Bytes of a frame, with its virtio header; a longer one is dropped.
LARGEST_FRAME = 65550


def requests_in(chain: Chain) -> int:
    """As how many requests of `BUDGET` a chain counts."""
    return 1 + (len(chain.readable) + len(chain.writable)) // CHAIN_SHARE


class Bound(NamedTuple):
    """One row of the table.

    Attributes:
        what: what is bounded.
        most: the bound.
        beyond: what happens when there is more.
    """

    what: str
    most: int
    beyond: str


BOUNDS = (
    Bound("front-ends that are served", 1, "they wait in the backlog"),
    Bound("front-ends in the backlog of a socket", BACKLOG, "`connect` blocks"),
    Bound("rings", MAX_RINGS, "the program does not start"),
    Bound("memory regions", MAX_MEM_SLOTS, "ADD_MEM_REG is refused"),
    Bound("reads of the socket in one turn", MAX_READS, "the rest is read in the next turn"),
    Bound("bytes of one read", READ_SIZE, "the rest is read in the next turn"),
    Bound("descriptors of one read", READ_FDS, "the connection is closed"),
    Bound("ns for messages in one turn", MESSAGES_NS, "the rest waits for the next turn"),
    Bound("messages whose replies are not sent yet", REPLIES, "no more are read until they are"),
    Bound("descriptors that wait to be closed", CLOSING, "they are closed in the same turn"),
    Bound("descriptors of a ring, and of a chain in it", MAX_SIZE, "the ring fails"),
    Bound("descriptors of an indirect table, if the ring has fewer", MAX_CHAIN, "the ring fails"),
    Bound("requests of a ring in one poll", BUDGET, "the ring is polled again"),
    Bound(
        "requests of a ring in one poll, by a compiled function",
        COMPILED_BUDGET,
        "the ring is polled again",
    ),
    Bound("bytes of these requests", COMPILED_BYTES, "the ring is polled again"),
    Bound(
        "descriptors of a chain that counts as one request", CHAIN_SHARE - 1, "it counts as several"
    ),
    Bound("kicks without a request, besides one for each descriptor", IDLE_KICKS, "it is polled"),
    Bound("polls between two reads of the sockets", RINGS_PER_CHECK, "messages are read first"),
    Bound("bytes of a disk request", DISK_REQUEST_BYTES, "its status is IOERR"),
    Bound("bytes of a disk request in the loop", INLINE_BYTES, "another thread serves it"),
    Bound("ranges of a discard or write-zeroes", MAX_SEGMENTS, "its status is IOERR"),
    Bound("threads for calls that may block", IO_THREADS, "requests wait for a thread"),
    Bound("ns that a write blocks the loop", TAKE_OVER_NS, "another thread takes the loop over"),
    Bound("bytes of an entropy request", RNG_REQUEST_BYTES, "it gets only these"),
    Bound("bytes of a frame", LARGEST_FRAME, "it is dropped"),
    Bound("frames that wait for another thread", INBOX_FRAMES, "they are dropped"),
    Bound("frames from outside in one turn", FRAMES_PER_TURN, "they are read in the next turn"),
    Bound("addresses in a table of the switch", MAX_ADDRESSES, "the oldest one is dropped"),
)


def table() -> str:
    """The bounds, as a table of Markdown."""
    rows = [f"| {bound.what} | {bound.most:,} | {bound.beyond} |" for bound in BOUNDS]
    return "\n".join(["| of each device | at most | if there are more |", "|---|---|---|", *rows])
