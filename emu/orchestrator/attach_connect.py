"""Connects the back-ends of `emu attach` before the VM is created: they determine its rings.

Each back-end gets one connection, which the VM's device then uses: many back-ends end when their
first front-end disconnects.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from emu.config.device_kinds import KINDS, load
from emu.errors import EmuError
from vhost_user.errors import DeadlineError
from vhost_user.frontend import FrontendConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from devices.device import BackEnd, VhostDevice
    from emu.config.vm_spec import DeviceGroup, DeviceSpec, VmSpec

#: Seconds for a back-end to listen, and for each of its replies.
TIMEOUT = 10.0
#: Seconds to wait for a back-end before a line about the wait is printed.
QUIET_TIMEOUT = 0.2
#: Rings of a device whose back-end offers more, unless the user sets their number.
DEFAULT_RINGS = 2


def connect(device: DeviceSpec, path: str, waiting: Callable[[str], None]) -> BackEnd:
    """Connect to a device's back-end, and negotiate features.

    Args:
        device: of the future VM; its number of rings is not used.
        path: the back-end's socket.
        waiting: called with a line of text when no back-end listens there yet.

    Raises:
        EmuError: the back-end offers no queue.
        VhostUserError: no back-end listens in time, the path is not a socket, or the back-end
            breaks the protocol.
    """
    name = device.name
    try:
        connection = FrontendConnection.connect(path, name=name, timeout=QUIET_TIMEOUT)
    except DeadlineError:
        waiting(f"{name}: waiting for a back-end at {path} ({TIMEOUT:g} s)")
        connection = FrontendConnection.connect(path, name=name, timeout=TIMEOUT)
    front_end: type[VhostDevice] = load(KINDS[device.device_class].front_end)
    back_end = front_end.negotiate(connection, TIMEOUT)
    if not back_end.queues:
        connection.close()
        raise EmuError(f"{name}: the back-end at {path} offers no queue")
    return back_end


def with_offered_rings(spec: VmSpec, back_ends: Mapping[str, BackEnd]) -> VmSpec:
    """The spec with `DEFAULT_RINGS` for each device, or fewer if its back-end offers fewer.

    Args:
        spec: each device has as many rings as the guest needs at least, so it may get more than
            `DEFAULT_RINGS`.
        back_ends: of each device, by its name.

    Raises:
        EmuError: a back-end offers fewer rings than the guest is to use.
    """

    def usable(group: DeviceGroup) -> DeviceGroup:
        kind = KINDS[group.device_class]
        names = [device.name for device in spec.devices if device.device_class == kind.name]
        name = min(names, key=lambda name: back_ends[name].queues)
        offered = back_ends[name].queues * kind.rings_per_unit
        if group.use.needed > offered:
            raise EmuError(
                f"{name}: the back-end offers {offered} of the {group.use.needed} rings of "
                f"{group.use.option(kind.name, kind.rings_per_unit)}"
            )
        wanted = max(DEFAULT_RINGS, kind.rings_for(group.use.needed))
        return dataclasses.replace(group, rings=min(wanted, offered, kind.max_rings))

    return dataclasses.replace(spec, groups=tuple(map(usable, spec.groups)))
