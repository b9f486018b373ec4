"""Numbers of rings, and the reason when a device cannot have as many."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import pytest

from vhost_user.payloads import MAX_RINGS
from vhost_user.virtio.ring_limits import BLK, NET, RNG, RingLimits


@pytest.mark.parametrize(
    ("limits", "rings", "reason"),
    [
        (NET, 0, "things have at least 2 rings each"),
        (NET, 3, "rings of things come in pairs, so their number must be even"),
        (NET, MAX_RINGS + 2, "things have at most 256 rings each"),
        (BLK, 0, "things have at least 1 ring each"),
        (BLK, MAX_RINGS + 1, "things have at most 256 rings each"),
        (RNG, 2, "things have 1 ring each"),
        (RNG, 0, "things have at least 1 ring each"),
        (
            RingLimits(9, 3),
            7,
            "rings of things come in groups of 3, so their number must be a multiple of 3",
        ),
    ],
)
def test_a_number_that_a_device_cannot_have(limits: RingLimits, rings: int, reason: str) -> None:
    assert limits.why_not(rings, "things") == reason


@pytest.mark.parametrize("limits", [NET, BLK, RNG, RingLimits(9, 3)])
def test_each_multiple_of_the_unit_is_possible(limits: RingLimits) -> None:
    possible = [n for n in range(300) if not limits.why_not(n, "things")]
    assert possible == list(range(limits.unit, limits.most + 1, limits.unit))
