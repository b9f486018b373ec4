"""The scripts of known front-ends: their numbers, and complete starts and stops."""

from __future__ import annotations

import pytest

from vhost_user_conformance.back_end.cases.scripts import area
from vhost_user_conformance.back_end.front_ends import SCRIPTS
from vhost_user_conformance.back_end.script import (
    EVERY,
    USED,
    F,
    Script,
    messages_of,
)

RINGS = {USED: [0, 1], EVERY: [0, 1, 2]}


def test_a_script_s_place_is_part_of_its_cases_numbers() -> None:
    """So these never change."""
    assert [script.name for script in SCRIPTS[:8]] == [
        "QEMU 7.2 with a disk",
        "QEMU 7.2 with a NIC",
        "QEMU 10 with a disk",
        "QEMU 11 with a disk",
        "cloud-hypervisor",
        "crosvm",
        "DPDK virtio-user",
        "a front-end without REPLY_ACK",
    ]
    rules = {case.id: case.rule for case in area.cases}
    for number, script in enumerate(SCRIPTS, 2301):
        assert script.name in rules[f"VU-B-{number}"]
    for number, script in enumerate(SCRIPTS, 2321):
        assert (f"VU-B-{number}" in rules) == bool(script.stop)


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_a_start_sets_each_ring_up_completely(script: Script) -> None:
    """After its memory, and with the features sent before it or in between."""
    rings = {USED: range(max(2, script.least)), EVERY: range(max(2, script.least))}
    parts = (*script.setup, *script.start)
    planned = list(messages_of(parts, rings, negotiated=script.knows, bit_30=True))
    names = [each.step.id for each in planned]
    memory = F.ADD_MEM_REG if F.ADD_MEM_REG in names else F.SET_MEM_TABLE
    needed = {F.SET_VRING_NUM, F.SET_VRING_BASE, F.SET_VRING_ADDR, F.SET_VRING_KICK}
    assert names.index(memory) < names.index(F.SET_VRING_ADDR)
    assert F.SET_FEATURES in names
    for ring in rings[USED]:
        about = {each.step.id for each in planned if each.ring == ring}
        assert needed | {F.SET_VRING_CALL, F.SET_VRING_ENABLE} <= about
    assert script.source.startswith(("recorded: ", "read: "))


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s.stop], ids=str)
def test_a_stop_asks_for_each_base_once(script: Script) -> None:
    """The next start needs it."""
    rings = {USED: range(4), EVERY: range(4)}
    planned = messages_of(script.stop, rings, negotiated=script.knows, bit_30=True)
    assert [each.ring for each in planned if each.step.id is F.GET_VRING_BASE] == [0, 1, 2, 3]
