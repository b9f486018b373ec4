"""How many rings a device of each kind may have."""

from __future__ import annotations

from typing import NamedTuple

from vhost_user.payloads import MAX_RINGS


class RingLimits(NamedTuple):
    """The numbers of rings that a device may have: the multiples of ``unit`` up to ``most``.

    Attributes:
        most: by the specification of its kind, or else what a vhost-user message can index.
        unit: rings that belong together, such as a NIC's pair.
    """

    most: int = MAX_RINGS
    unit: int = 1

    def why_not(self, rings: int, plural: str) -> str:
        """Why ``plural``, such as "NICs", cannot have so many rings each; empty if they can."""
        if rings < 1:
            return f"{plural} have at least {_rings(self.unit)} each"
        if rings > self.most:
            return f"{plural} have {'' if self.most == 1 else 'at most '}{_rings(self.most)} each"
        if rings % self.unit:
            pairs = self.unit == 2
            units = "pairs" if pairs else f"groups of {self.unit}"
            number = "even" if pairs else f"a multiple of {self.unit}"
            return f"rings of {plural} come in {units}, so their number must be {number}"
        return ""


def _rings(number: int) -> str:
    return "1 ring" if number == 1 else f"{number} rings"


#: Where the specification of the kind has no limit.
ANY = RingLimits()
NET = RingLimits(unit=2)
BLK = ANY
RNG = RingLimits(most=1)  # virtio 1.3, 5.4.2: requestq is the only virtqueue
