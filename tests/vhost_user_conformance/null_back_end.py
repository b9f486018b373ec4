"""A back-end that acknowledges its set-up and does nothing: it serves no ring.

    python -m tests.vhost_user_conformance.null_back_end SOCKET

What it passes says nothing about a back-end that works. `tests/peers/null_peers.toml` lists these
cases, with the reason why each may pass, and `test_null_back_end` holds the list.
"""

from __future__ import annotations

import selectors
import socket
import sys
from typing import TYPE_CHECKING

from vhost_user.codec import NEED_REPLY, REPLY, VERSION
from vhost_user.features import ProtocolFeature
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import Config
from vhost_user_conformance.peer.wire import HEADER

if TYPE_CHECKING:
    from collections.abc import Sequence

#: VERSION_1, EVENT_IDX, INDIRECT_DESC, LOG_ALL, bit 30; FLUSH and MQ of a disk.
FEATURES = 1 << 32 | 1 << 29 | 1 << 28 | 1 << 26 | 1 << 30 | 1 << 9 | 1 << 12
PROTOCOL_FEATURES = (
    ProtocolFeature.MQ
    | ProtocolFeature.LOG_SHMFD
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.CONFIG
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.STATUS
)
QUEUES = 4
_U64 = {
    F.GET_FEATURES: FEATURES,
    F.GET_PROTOCOL_FEATURES: int(PROTOCOL_FEATURES),
    F.GET_QUEUE_NUM: QUEUES,
    F.GET_STATUS: 0,
    F.SET_LOG_BASE: 0,
}


def answer(number: int, payload: bytes) -> bytes | None:
    """The payload of the reply to a request, or None where it has none of its own."""
    if number == F.GET_VRING_BASE:
        return payload[:4] + bytes(4)
    if number == F.GET_CONFIG:
        asked = Config.unpack(payload)
        return asked._replace(data=bytes(len(asked.data))).pack()
    value = _U64.get(F(number)) if number in F._value2member_map_ else None
    return None if value is None else value.to_bytes(8, "little")


def reply(sock: socket.socket) -> bool:
    """Read one message, and reply to it; False when the front-end has disconnected."""
    head, fds, _, _ = socket.recv_fds(sock, HEADER.size, 8, socket.MSG_WAITALL)
    for fd in fds:
        socket.close(fd)
    if len(head) < HEADER.size:
        return False
    number, flags, size = HEADER.unpack(head)
    payload = sock.recv(size, socket.MSG_WAITALL) if size else b""
    own = answer(number, payload)
    if own is None and flags & NEED_REPLY:
        own = bytes(8)
    if own is not None:
        sock.sendall(HEADER.pack(number, VERSION | REPLY, len(own)) + own)
    return True


def main(arguments: Sequence[str]) -> None:
    """Serve front-ends until the process is ended."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(arguments[0])
    listening.listen()
    ready = selectors.DefaultSelector()
    ready.register(listening, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            if key.fileobj is listening:
                ready.register(listening.accept()[0], selectors.EVENT_READ)
                continue
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            try:
                goes_on = reply(sock)
            except OSError:
                goes_on = False
            if not goes_on:
                ready.unregister(sock)
                sock.close()


if __name__ == "__main__":
    main(sys.argv[1:])
