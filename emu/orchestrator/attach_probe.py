"""What back-ends that run already offer, before the VM of `emu attach` is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.config.device_kinds import KINDS, load
from emu.errors import EmuError
from vhost_user.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from devices.device import VhostDevice

#: Seconds for a back-end to listen, and for each of its replies.
TIMEOUT = 10.0
#: Seconds for a back-end that listens already; then the user is told of the wait.
AT_ONCE = 0.2
#: Rings of a device whose back-end offers more, unless the user asks for them.
USUAL_RINGS = 2


def usable_rings(kind: str, paths: Sequence[str], notice: Callable[[str], None]) -> int:
    """Rings of each device of a kind: `USUAL_RINGS`, or what the back-ends offer if that is less.

    Each back-end is asked on a connection of its own, which is closed again.

    Args:
        kind: name of the kind.
        paths: the sockets of its back-ends.
        notice: called with a line when a back-end does not listen yet.

    Raises:
        EmuError: a back-end offers no queue.
        VhostUserError: it does not listen, or breaks the protocol.
    """
    return min(USUAL_RINGS, *(_offered(kind, n, path, notice) for n, path in enumerate(paths)))


def _offered(kind: str, number: int, path: str, notice: Callable[[str], None]) -> int:
    row = KINDS[kind]
    device: VhostDevice = load(row.front_end)(f"{kind}{number}", [], [])
    try:
        try:
            device.connect(path, timeout=TIMEOUT, connect_timeout=AT_ONCE)
        except DeadlineError:
            if device.connected:
                raise
            notice(f"{device.name}: waiting up to {TIMEOUT:g} s for a back-end at {path}")
            device.connect(path, timeout=TIMEOUT)
        rings = device.queues_offered(TIMEOUT) * row.rings_per_unit
    finally:
        device.close()
    if not rings:
        raise EmuError(f"{device.name}: the back-end at {path} offers no queue")
    return rings
