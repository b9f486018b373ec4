"""The state of a device that one process transfers to another, with its descriptors.

The back-end does not take part. The process passes on the connection and the eventfds as they are,
so the rings run on, and the back-end cannot tell that another process holds their other ends.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, NamedTuple, Self

from devices.device import InflightFile, VhostDevice
from vhost_user.agreement import Agreed
from vhost_user.errors import UsageError
from vhost_user.frontend import FrontendConnection
from vhost_user.payloads import Inflight
from vhost_user.virtqueue import RingAddresses

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class RingHandoverState(NamedTuple):
    """What is known of a ring; the fields of `devices.device.Vring` that change."""

    addresses: RingAddresses | None
    base: int
    started: bool
    ran: bool


class DeviceHandoverState(NamedTuple):
    """What is known of a device.

    Attributes:
        name: of the device.
        acked_features: feature bits that the guest's driver has acked.
        features: feature bits that both ends can use (`FrontendConnection.features`).
        agreed: what its connection has agreed on.
        rings: each of its rings.
        inflight: what describes its inflight region, if it has one.
        setups: how often its driver has set its rings up, or reset them.
    """

    name: str
    acked_features: int
    features: int
    agreed: Agreed
    rings: tuple[RingHandoverState, ...]
    inflight: Inflight | None
    setups: int

    @classmethod
    def of(cls, device: VhostDevice) -> Self:
        """A connected device as it is now.

        Raises:
            UsageError: it is without a back-end, or something is under way on its connection.
        """
        connection = device.connection
        return cls(
            device.name,
            device.acked_features,
            connection.features,
            connection.agreed,
            tuple(RingHandoverState(r.addresses, r.base, r.started, r.ran) for r in device.rings),
            None if device.inflight is None else device.inflight.area,
            device.setups,
        )

    @classmethod
    def from_json(cls, fields: Sequence[Any]) -> Self:
        """The reverse of ``json.dumps``, which makes lists of all tuples.

        Raises:
            TypeError, ValueError: it makes no sense.
        """
        name, acked, features, agreed, rings, inflight, setups = fields
        offered, driver, offered_protocol, protocol, states = agreed
        return cls(
            str(name),
            int(acked),
            int(features),
            Agreed(offered, driver, offered_protocol, protocol, tuple(states)),
            tuple(
                RingHandoverState(None if where is None else RingAddresses(*where), *rest)
                for where, *rest in rings
            ),
            None if inflight is None else Inflight(*inflight),
            int(setups),
        )

    def still_matches(self, device: VhostDevice) -> bool:
        """Whether the driver has left the device alone since."""
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
    """Have a device that is not connected go on as one of another process.

    The descriptors of its own eventfds keep their numbers and become those of the other process,
    so this must come before any notifier is assigned.

    Args:
        device: of the same name and shape.
        state: what the other process knows of it.
        fds: as `descriptors_of` gives them; they stay the caller's.

    Raises:
        UsageError: it is another device.
        OSError: out of descriptors.
    """
    if state.name != device.name or len(state.rings) != len(device.rings):
        raise UsageError(
            f"{state.name} with {len(state.rings)} rings was handed over where this side "
            f"has {device.name} with {len(device.rings)}",
            device=device.name,
        )
    sock, *notifiers = fds
    device.adopt(
        FrontendConnection.adopt(
            socket.socket(fileno=os.dup(sock)),
            name=device.name,
            features=state.features,
            agreed=state.agreed,
        ),
        state.acked_features,
    )
    if state.inflight is not None:
        device.inflight = InflightFile(os.dup(notifiers.pop()), state.inflight)
    for index, (ring, left) in enumerate(zip(device.rings, state.rings, strict=True)):
        os.dup2(notifiers[2 * index], ring.kick_fd, inheritable=False)
        os.dup2(notifiers[2 * index + 1], ring.call_fd, inheritable=False)
        ring.addresses, ring.base, ring.started, ring.ran = left
