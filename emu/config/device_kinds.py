"""Device kinds: one row each, and the only place that lists them.

Another distribution adds a row by an entry point (`GROUP`). Options, help texts, tables, back-end
processes, devices and the guest's drivers are made from the rows. Classes and modules are dotted
names that are imported when the first VM needs them, so that this module depends on none of them.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from emu.errors import EmuError
from vhost_user.virtio.ring_limits import ANY, BLK, NET, RNG, RingLimits

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class DeviceKind:
    """One kind of vhost-user device.

    Attributes:
        name: its name in options, tables and JSON; with a number, the name of a device.
        title: the term for one device, in messages and help texts.
        plural: the term for several.
        front_end: class of the front-end's device, a `devices.device.VhostDevice`.
        back_end: module of the back-end program, run with ``python -m``.
        driver: class of the guest's driver, an `emu.guest.driver.Driver`.
        counters: counters that are reported while a VM runs, from the guest (``stats`` of the
            driver) and from the back-ends (`backends.stats.COUNTERS`). If ``requests`` is among
            them, the guest's completed requests are compared with those that back-ends served.
        default: number of devices and rings of each in the default VM; None for no device.
        ring_limits: how many rings a device may have. The interrupts of the rings of a unit go to
            the same vCPU.
        enables_units: the driver may enable some units only (VIRTIO_NET_CTRL_MQ).
        has_image: the back-end serves a disk image for each device.
        has_uplink: the back-end is connected to the network outside of the VM.
    """

    name: str
    title: str
    plural: str
    front_end: str
    back_end: str
    driver: str
    counters: tuple[str, ...]
    default: tuple[int, int] | None = None
    ring_limits: RingLimits = ANY
    enables_units: bool = False
    has_image: bool = False
    has_uplink: bool = False

    @property
    def default_text(self) -> str:
        """The default VM's devices of the kind, in an option's format: ``16x32``, or ``0``."""
        return "0" if self.default is None else "{}x{}".format(*self.default)

    @property
    def rings_per_unit(self) -> int:
        """How many rings belong together."""
        return self.ring_limits.unit

    @property
    def max_rings(self) -> int:
        """The most rings of one device."""
        return self.ring_limits.most

    def rings_for(self, needed: int) -> int:
        """The fewest rings of a device of the kind that are at least ``needed``, and one unit."""
        return max(1, -(-needed // self.rings_per_unit)) * self.rings_per_unit

    def why_not(self, rings: int) -> str:
        """Why a device of the kind cannot have so many rings; empty if it can."""
        return self.ring_limits.why_not(rings, self.plural)


#: In the order of the devices on the bus.
_ROWS = (
    DeviceKind(
        name="net",
        title="NIC",
        plural="NICs",
        front_end="devices.net.VhostUserNet",
        back_end="backends.net",
        driver="emu.guest.nics.NicDriver",
        counters=("packets", "interrupts", "kicks", "calls", "packets_dropped"),
        default=(16, 32),
        ring_limits=NET,
        enables_units=True,
        has_uplink=True,
    ),
    DeviceKind(
        name="blk",
        title="disk",
        plural="disks",
        front_end="devices.blk.VhostUserBlk",
        back_end="backends.blk",
        driver="emu.guest.disks.DiskDriver",
        counters=("requests", "interrupts", "kicks", "calls", "bytes_read", "bytes_written"),
        default=(24, 4),
        ring_limits=BLK,
        has_image=True,
    ),
    DeviceKind(
        name="rng",
        title="entropy device",
        plural="entropy devices",
        front_end="devices.rng.VhostUserRng",
        back_end="backends.rng",
        driver="emu.guest.rng_driver.RngDriver",
        counters=("requests", "interrupts", "kicks", "calls", "bytes_written"),
        ring_limits=RNG,
    ),
)
#: Entry points of this group are rows of other distributions: a `DeviceKind` each.
GROUP = "vhost_emu.device_kinds"


def _rows() -> dict[str, DeviceKind]:
    """All rows, with those of other distributions at the end.

    Raises:
        EmuError: an entry point is not a row, or its name exists already.
    """
    rows = {row.name: row for row in _ROWS}
    for point in entry_points(group=GROUP):
        row = point.load()
        if not isinstance(row, DeviceKind):
            raise EmuError(f"the entry point {point.name} of {GROUP} is not a DeviceKind")
        if row.name in rows:
            raise EmuError(f"the entry point {point.name} of {GROUP}: {row.name!r} exists already")
        rows[row.name] = row
    return rows


KINDS: Mapping[str, DeviceKind] = _rows()


def load(dotted: str) -> Any:
    """Import the object that a row names, such as a class."""
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


def one_of() -> str:
    """The names of all kinds, for messages: ``net or blk``."""
    *others, last = KINDS
    return f"{', '.join(others)} or {last}" if others else last
