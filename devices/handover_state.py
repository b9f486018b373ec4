"""The state of a device that one process transfers to another, with its descriptors.

The back-end does not take part. Connection and eventfds are transferred as they are, so the rings
stay started, and the back-end does not notice that another process has their other ends.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, NamedTuple, Self

from devices.device import InflightFile, VhostDevice
from vhost_user.errors import UsageError
from vhost_user.frontend import FrontendConnection
from vhost_user.payloads import Inflight
from vhost_user.session import SessionState
from vhost_user.virtqueue import RingAddresses

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class RingHandoverState(NamedTuple):
    """The state of a ring: the fields of `devices.device.Vring` that change."""

    addresses: RingAddresses | None
    base: int
    started: bool
    ran: bool


class DeviceHandoverState(NamedTuple):
    """The state of a device.

    Attributes:
        name: of the device.
        acked_features: feature bits that the guest's driver has acked.
        features: feature bits that both ends can use (`FrontendConnection.features`).
        session: the state of its connection's session.
        rings: each of its rings.
        inflight: the description of its inflight region, if it has one.
        setups: how often its driver has set up its rings, or reset it.
    """

    name: str
    acked_features: int
    features: int
    session: SessionState
    rings: tuple[RingHandoverState, ...]
    inflight: Inflight | None
    setups: int

    @classmethod
    def of(cls, device: VhostDevice) -> Self:
        """The current state of a connected device.

        Raises:
            UsageError: it has no back-end, or messages are in flight on its connection.
        """
        connection = device.connection
        return cls(
            device.name,
            device.acked_features,
            connection.features,
            connection.session_state,
            tuple(RingHandoverState(r.addresses, r.base, r.started, r.ran) for r in device.rings),
            None if device.inflight is None else device.inflight.area,
            device.setups,
        )

    @classmethod
    def from_json(cls, fields: Sequence[Any]) -> Self:
        """The state from parsed and checked JSON, which has lists instead of tuples."""
        name, acked, features, session, rings, inflight, setups = fields
        offered, driver, offered_protocol, protocol, states = session
        return cls(
            str(name),
            int(acked),
            int(features),
            SessionState(offered, driver, offered_protocol, protocol, tuple(states)),
            tuple(
                RingHandoverState(None if where is None else RingAddresses(*where), *rest)
                for where, *rest in rings
            ),
            None if inflight is None else Inflight(*inflight),
            int(setups),
        )

    def still_matches(self, device: VhostDevice) -> bool:
        """Whether the driver has neither set up nor reset the device since."""
        rings = zip(self.rings, device.rings, strict=True)
        return self.setups == device.setups and all(
            left.started == ring.started for left, ring in rings
        )

    @property
    def descriptors(self) -> int:
        """How many descriptors belong to it; see `descriptors_of`."""
        return 1 + 2 * len(self.rings) + (self.inflight is not None)


def descriptors_of(device: VhostDevice) -> list[int]:
    """Its socket, kick and call of each ring, and its inflight region if it has one."""
    fds = [device.connection.fileno()]
    for ring in device.rings:
        fds += (ring.kick_fd, ring.call_fd)
    if device.inflight is not None:
        fds.append(device.inflight.fd)
    return fds


def restore(device: VhostDevice, state: DeviceHandoverState, fds: Sequence[int]) -> None:
    """Restore the state of a device in another process, in a device that is not connected.

    The descriptors of its eventfds keep their numbers but become those of the other process, so
    this must come before any notifier is assigned.

    Args:
        device: a device with the same name and number of rings.
        state: the state in the other process.
        fds: those of `descriptors_of`; they stay the caller's.

    Raises:
        UsageError: the state is that of another device.
        OSError: out of descriptors.
    """
    if state.name != device.name or len(state.rings) != len(device.rings):
        raise UsageError(
            f"{state.name} with {len(state.rings)} rings was handed over where this side "
            f"has {device.name} with {len(device.rings)}",
            device=device.name,
        )
    sock, *notifiers = fds
    inflight = None
    if state.inflight is not None:
        inflight = InflightFile(os.dup(notifiers.pop()), state.inflight)
    connection = FrontendConnection.restore(
        socket.socket(fileno=os.dup(sock)),
        name=device.name,
        features=state.features,
        state=state.session,
    )
    device.restore(connection, state.acked_features, inflight)
    for index, (ring, known) in enumerate(zip(device.rings, state.rings, strict=True)):
        ring.take_eventfds(notifiers[2 * index], notifiers[2 * index + 1])
        ring.set_up(known.addresses, known.base)
        ring.started, ring.ran, ring.served = known.started, known.ran, known.ran
