"""Every kind of descriptor, in every message that takes one."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.hostile import descriptors
from tests.hostile.cell import Cell, ClosedByPeer
from tests.hostile.front_end.requests import good_request
from tests.hostile.front_end.well_formed import payload_of, rows
from vhost_user.message_spec import FdRule, ReplyRule
from vhost_user.messages import FrontendRequest as F

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.hostile.front_end.peer import Peer
    from tests.hostile.front_end.program import Attack
    from vhost_user.message_spec import MessageSpec

#: Those that are a part of the ring's set-up, which leaves them out then.
_NOTIFIERS = (F.SET_VRING_KICK, F.SET_VRING_CALL, F.SET_VRING_ERR)
#: Seconds until a request that was made available is complete, if it is ever.
_PATIENCE = 0.05


def cells(program: str) -> Iterator[Cell]:
    """All cells of this group."""
    for row in rows():
        if row.fds is FdRule.NONE:
            continue
        for name, make in descriptors.KINDS.items():
            yield Cell(
                "descriptor kinds", f"{program} {row.name}", name, program, _passed(row, make)
            )
        yield Cell(
            "descriptor kinds",
            f"{program} {row.name}",
            "the connection itself",
            program,
            _passed(row, None),
        )


def _passed(
    row: MessageSpec, make: Callable[..., descriptors.Wrong] | None
) -> Callable[[Attack], None]:
    def attack(on: Attack) -> None:
        peer = on.negotiated()
        ring = on.ring(peer)
        wrong = descriptors.Wrong(peer.sock.fileno()) if make is None else make(on.owned)
        skip = [F(row.id)] if row.id in _NOTIFIERS else []
        before = row.id not in _NOTIFIERS
        if before:
            ring.set_up(skip=skip)
        _send(peer, row, payload_of(row, ring), wrong.fd)
        if not before:
            ring.set_up(skip=skip)
        if wrong.later is not None and row.id != F.SET_MEM_TABLE:
            wrong.later()
        for number in range(2):
            good_request(on, ring)
            with suppress(OSError):
                os.eventfd_write(ring.kick_fd, 1)
            if row.id == F.SET_VRING_KICK:
                with suppress(OSError):
                    os.set_blocking(wrong.fd, False)
                    os.write(wrong.fd, b"\1" + bytes(7))
            peer.settle()
            ring.await_used(number + 1, _PATIENCE)
            if wrong.later is not None and row.id == F.SET_MEM_TABLE and not number:
                wrong.later()
        if row.id == F.SET_VRING_ERR:
            ring.offer(ring.size + 5)
            ring.kick()
        if row.id == F.SET_BACKEND_REQ_FD and on.kind.refreshes:
            on.grow()
            on.program.signal(signal.SIGHUP)
            peer.settle()

    return attack


def _send(peer: Peer, row: MessageSpec, payload: bytes, fd: int) -> None:
    if row.reply is ReplyRule.ACK:
        with suppress(ClosedByPeer):
            peer.order(row.id, payload, [fd])
    else:
        peer.send(row.id, payload, [fd])
