"""A front-end that sends whatever bytes and descriptors a cell wants, from a socket on."""

from __future__ import annotations

import array
import mmap
import os
import socket
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from tests.hostile.cell import ANSWER, ClosedByPeer, NotOk
from vhost_user.codec import HEADER, NEED_REPLY, VERSION
from vhost_user.features import VHOST_F_LOG_ALL, VHOST_USER_F_PROTOCOL_FEATURES, ProtocolFeature
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import (
    U64,
    MemoryRegion,
    MemTable,
    VringAddr,
    VringState,
)
from vhost_user.virtqueue import split_offsets
from vhost_user.virtqueue.layout import DESCRIPTOR, DESCRIPTOR_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import ExitStack

#: User address of guest address 0.
USER = 0x7E00_0000_0000
MEMORY = 16 << 20
ALL = (1 << 64) - 1
NO_LOG = ALL & ~(1 << VHOST_F_LOG_ALL)
_GONE = (BrokenPipeError, ConnectionResetError, ConnectionAbortedError)
_FD = array.array("i").itemsize


class Answer(NamedTuple):
    """A reply as it arrived; its descriptors are closed."""

    number: int
    flags: int
    payload: bytes

    @property
    def value(self) -> int:
        """The reply's payload as a number."""
        return int.from_bytes(self.payload[:8], "little")


class Peer:
    """A connection to the device under attack.

    Args:
        path: of the device's socket.
        owned: closes the connection at the end of the cell.
    """

    def __init__(self, path: str, owned: ExitStack) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        owned.callback(self.sock.close)
        self.sock.settimeout(ANSWER)
        self.sock.connect(path)
        self.owned = owned
        self.features = 0
        self.protocol = 0

    def raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes, and descriptors with the first of them.

        Raises:
            ClosedByPeer: the connection is closed.
        """
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sent = self.sock.sendmsg([data], ancillary)
            self.sock.sendall(data[sent:])
        except _GONE:
            raise ClosedByPeer from None
        except TimeoutError:
            raise NotOk(f"takes no bytes for {ANSWER:g} s") from None

    def send(
        self,
        number: int,
        payload: bytes = b"",
        fds: Sequence[int] = (),
        *,
        flags: int = VERSION,
        announced: int | None = None,
    ) -> None:
        """Send a message; ``announced`` is the size in its header, if that is a wrong one."""
        size = len(payload) if announced is None else announced
        self.raw(HEADER.pack(number & 0xFFFF_FFFF, flags, size) + payload, fds)

    def receive(self) -> Answer:
        """The next reply.

        Raises:
            ClosedByPeer: the connection is closed.
            NotOk: neither happens in time.
        """
        header = self._exactly(HEADER.size)
        number, flags, size = HEADER.unpack(header)
        return Answer(number, flags, self._exactly(size) if size else b"")

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part, ancillary, _, _ = self.sock.recvmsg(
                    size - len(data), socket.CMSG_SPACE(32 * _FD), socket.MSG_CMSG_CLOEXEC
                )
            except _GONE:
                raise ClosedByPeer from None
            except TimeoutError:
                raise NotOk(f"neither answers nor closes within {ANSWER:g} s") from None
            for _, _, content in ancillary:
                fds = array.array("i")
                fds.frombytes(content[: len(content) - len(content) % _FD])
                for fd in fds:
                    os.close(fd)
            if not part:
                raise ClosedByPeer
            data += part
        return data

    def ask(self, number: int, payload: bytes = b"", fds: Sequence[int] = ()) -> Answer:
        """Send a message that has a reply of its own; the reply."""
        self.send(number, payload, fds)
        while (answer := self.receive()).number != number:
            pass
        return answer

    def order(self, number: int, payload: bytes = b"", fds: Sequence[int] = ()) -> int:
        """Send a message and ask for an acknowledgement: 0 if it was taken, else its code.

        What was not negotiated is not acknowledged, so the answer to one more message is the end.
        """
        self.send(number, payload, fds, flags=VERSION | NEED_REPLY)
        self.send(F.GET_FEATURES)
        code = 0
        while (answer := self.receive()).number != F.GET_FEATURES:
            if answer.number == number:
                code = answer.value
        return code

    def settle(self) -> None:
        """Return when all that was sent has been dealt with."""
        with suppress(ClosedByPeer):
            self.ask(F.GET_FEATURES)

    def negotiate(self, features: int = NO_LOG, protocol: int = ALL) -> Peer:
        """The usual beginning, with these of the features that are offered."""
        self.features = self.ask(F.GET_FEATURES).value & features
        if self.features >> VHOST_USER_F_PROTOCOL_FEATURES & 1:
            self.protocol = self.ask(F.GET_PROTOCOL_FEATURES).value & protocol
            self.send(F.SET_PROTOCOL_FEATURES, U64(self.protocol).pack())
        self.send(F.SET_OWNER)
        self.send(F.SET_FEATURES, U64(self.features).pack())
        return self

    def has(self, feature: ProtocolFeature) -> bool:
        """Whether a protocol feature was negotiated."""
        return bool(self.protocol & feature)


class Memory:
    """Guest memory of a hostile front-end: one region from guest address 0."""

    def __init__(self, owned: ExitStack, size: int = MEMORY) -> None:
        self.fd = os.memfd_create("hostile-ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        owned.callback(os.close, self.fd)
        os.ftruncate(self.fd, size)
        self.size = size
        self.bytes = mmap.mmap(self.fd, size)
        self.region = MemoryRegion(0, size, USER, 0)

    def table(self) -> tuple[bytes, tuple[int, ...]]:
        """The payload of SET_MEM_TABLE, and its descriptors."""
        return MemTable((self.region,)).pack(), (self.fd,)


class HostileRing:
    """A split ring whose every field a cell writes itself."""

    def __init__(
        self, peer: Peer, memory: Memory, index: int, size: int = 16, at: int = 0x1000
    ) -> None:
        self.peer = peer
        self.memory = memory
        self.index = index
        self.size = size
        offsets = split_offsets(size)
        self.desc, self.avail, self.used = (at + n for n in offsets[:3])
        self.kick_fd, self.call_fd, self.err_fd = (self._eventfd() for _ in range(3))
        self._offered = 0

    def _eventfd(self) -> int:
        fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.peer.owned.callback(os.close, fd)
        return fd

    def addresses(self, wrong: Mapping[str, int] | None = None) -> bytes:
        """The payload of SET_VRING_ADDR; ``wrong`` replaces fields."""
        right = VringAddr(
            self.index, 0, USER + self.desc, USER + self.used, USER + self.avail, self.used
        )
        return right._replace(**(wrong or {})).pack()

    def set_up(
        self, *, skip: Sequence[F] = (), wrong: Mapping[str, int] | None = None
    ) -> list[int]:
        """The usual messages, but for ``skip``; the codes of those that were refused."""
        index = U64(self.index).pack()
        messages: list[tuple[F, bytes, tuple[int, ...]]] = [
            (F.SET_VRING_NUM, VringState(self.index, self.size).pack(), ()),
            (F.SET_VRING_BASE, VringState(self.index, 0).pack(), ()),
            (F.SET_VRING_ADDR, self.addresses(wrong), ()),
            (F.SET_VRING_ERR, index, (self.err_fd,)),
            (F.SET_VRING_CALL, index, (self.call_fd,)),
            (F.SET_VRING_KICK, index, (self.kick_fd,)),
            (F.SET_VRING_ENABLE, VringState(self.index, 1).pack(), ()),
        ]
        codes = [
            self.peer.order(number, payload, fds)
            for number, payload, fds in messages
            if number not in skip
        ]
        return [code for code in codes if code]

    def descriptor(
        self, at: int, address: int, length: int, flags: int = 0, following: int = 0
    ) -> None:
        """Write a descriptor of the ring's own table."""
        DESCRIPTOR.pack_into(
            self.memory.bytes,
            self.desc + at * DESCRIPTOR_SIZE,
            address & ALL,
            length & 0xFFFF_FFFF,
            flags & 0xFFFF,
            following & 0xFFFF,
        )

    def chain(self, buffers: Sequence[tuple[int, int, int]], at: int = 0) -> None:
        """Write linked descriptors: (address, bytes, flags without F_NEXT)."""
        for n, (address, length, flags) in enumerate(buffers):
            last = n == len(buffers) - 1
            self.descriptor(at + n, address, length, flags | (not last), at + n + 1)

    def offer(self, *heads: int) -> None:
        """Put heads into the available ring, and publish them."""
        for head in heads:
            slot = self.avail + 4 + 2 * (self._offered % self.size)
            struct.pack_into("=H", self.memory.bytes, slot, head & 0xFFFF)
            self._offered += 1
        self.set_avail_index(self._offered)

    def set_avail_index(self, index: int) -> None:
        """Write the available index."""
        struct.pack_into("=H", self.memory.bytes, self.avail + 2, index & 0xFFFF)

    @property
    def used_index(self) -> int:
        """The used index as the device has left it."""
        return int(struct.unpack_from("=H", self.memory.bytes, self.used + 2)[0])

    def kick(self) -> None:
        """Signal the kick descriptor, and have all messages after it dealt with."""
        os.eventfd_write(self.kick_fd, 1)
        self.peer.settle()

    def await_used(self, index: int = 1, seconds: float = ANSWER) -> bool:
        """Whether the used index reaches a value in time; False if the ring has failed first."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.used_index == index & 0xFFFF:
                return True
            with suppress(BlockingIOError):
                if os.eventfd_read(self.err_fd):
                    return False
            time.sleep(0.001)
        return False
