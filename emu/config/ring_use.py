"""Which of a device's rings the guest's driver uses.

A driver need not use all rings that a device offers (virtio 1.3, 3.1.1 and 5.1.2): it uses those
that it has set up. A NIC's driver sets up all pairs, and enables as many as it needs with
VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET; the front-end then disables the rings of the others with
SET_VRING_ENABLE.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhost_user.payloads import MAX_RINGS

if TYPE_CHECKING:
    from collections.abc import Iterable

_ITEM = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


@dataclass(frozen=True, slots=True)
class RingUse:
    """The rings of a device that the driver uses, and what it does with the others.

    Attributes:
        rings: their indices, in ascending order, each once; None for all rings of the device.
        disable_others: the driver sets up the other rings, too, and they are disabled; otherwise
            it never sets them up.
    """

    rings: tuple[int, ...] | None = None
    disable_others: bool = False

    def used(self, count: int) -> tuple[int, ...]:
        """The rings in use of a device that has ``count`` rings."""
        return tuple(range(count)) if self.rings is None else self.rings

    def set_up(self, count: int) -> tuple[int, ...]:
        """The rings that the driver sets up, of a device that has ``count`` rings."""
        return tuple(range(count)) if self.disable_others else self.used(count)

    def disabled(self, count: int) -> tuple[int, ...]:
        """The rings that are set up and disabled, of a device that has ``count`` rings."""
        used = self.used(count)
        return tuple(ring for ring in self.set_up(count) if ring not in used)

    @property
    def needed(self) -> int:
        """How many rings a device must have at least, so that all rings in use exist."""
        return max(self.rings or (), default=-1) + 1

    def note(self, count: int) -> str:
        """What is not so by default, for reports and errors: an empty text if all rings are used.

        For example ``(used: 1,3)``, ``(used: none)`` or ``(used: 0-3, the others disabled)``.
        """
        if self.used(count) == tuple(range(count)):
            return ""
        others = ", the others disabled" if self.disable_others else ""
        return f"(used: {rings_text(self.used(count))}{others})"

    def option(self, kind: str, unit: int) -> str:
        """The option that a user gives for devices of a kind, for errors."""
        if self.disable_others:
            return f"--pairs-used {len(self.rings or ()) // unit}"
        return f"--rings-used {kind}={rings_text(self.rings or ())}"

    def why_not(self, count: int, unit: int, title: str) -> str:
        """Why a device cannot be used in this way; empty if it can.

        Args:
            count: how many rings the device has.
            unit: rings that are used together, such as the two of a NIC's pair.
            title: the term for such a device.
        """
        rings = self.rings
        if rings is None:
            return ""
        article = "an" if title[0] in "aeiou" else "a"
        device = f"{article} {title} of {count} {'ring' if count == 1 else 'rings'}"
        if self.needed > count and self.disable_others:
            return f"{device} has {count // unit} {'pair' if count == unit else 'pairs'}"
        if self.needed > count:
            return f"{device} has no ring {next(ring for ring in rings if ring >= count)}"
        for ring in rings:
            first = ring - ring % unit
            missing = [other for other in range(first, first + unit) if other not in rings]
            if missing:
                return f"ring {ring} of {article} {title} is used together with ring {missing[0]}"
        return ""


#: The driver uses all rings.
ALL_RINGS = RingUse()


def first_units(units: int, rings_per_unit: int) -> RingUse:
    """The first units of a device, such as a NIC's pairs, are enabled, and the others disabled.

    Raises:
        ValueError: no device has so many, or it is none.
    """
    most = MAX_RINGS // rings_per_unit
    if not 1 <= units <= most:
        raise ValueError(f"{units} is not a number of pairs: 1 to {most}")
    return RingUse(tuple(range(units * rings_per_unit)), disable_others=True)


def these_rings(rings: Iterable[int]) -> RingUse:
    """The rings with these indices, in any order; the driver does not set up the others.

    Raises:
        ValueError: an index is there twice, or no device has such a ring.
    """
    found = sorted(rings)
    for ring, following in itertools.pairwise(found):
        if ring == following:
            raise ValueError(f"ring {ring} is there twice")
    for ring in found:
        if ring not in range(MAX_RINGS):
            raise ValueError(f"{ring} is not a ring: 0 to {MAX_RINGS - 1}")
    return RingUse(tuple(found))


def parse_rings(text: str) -> RingUse:
    """The rings of ``1,3``, ``0-3,8`` or ``none``; the driver does not set up the others.

    Raises:
        ValueError: the text is of another form, an index is there twice, or no device has it.
    """
    if text.strip() == "none":
        return RingUse(())
    found: list[int] = []
    for part in text.split(","):
        match = _ITEM.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{text!r} is not a list of rings: write it like 1,3 or 0-3, or none")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"{part.strip()} is not a range: it ends before it begins")
        # One index beyond those of any device is enough for an error.
        found += range(first, min(last, max(first, MAX_RINGS)) + 1)
    return these_rings(found)


def rings_text(rings: Iterable[int]) -> str:
    """Ascending indices in the format of `parse_rings`."""
    runs = [
        [ring for _, ring in run]
        for _, run in itertools.groupby(enumerate(rings), lambda pair: pair[1] - pair[0])
    ]
    parts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return ",".join(parts) or "none"
