"""The phases: their names are those of tables, JSON and traces."""
# ruff: noqa: D103 - the names say what they do

from __future__ import annotations

import json

from devices.procedure import Phase

BLACKOUT = """
src.pause_vcpus src.drain_requests src.get_vring_base
src.disable_guest_notify src.disable_host_notify src.final_ram src.device_state
dst.load_state dst.set_mem_table dst.enable_host_notify dst.enable_guest_notify
dst.start_vrings dst.resume_vcpus
"""


def test_the_blackout_has_these_phases_in_this_order() -> None:
    inside = [phase for phase in sorted(Phase, key=lambda p: p.order) if phase.side != "precopy"]
    assert inside == BLACKOUT.split()


def test_a_phase_is_its_name_in_json_and_in_text() -> None:
    for phase in Phase:
        assert json.loads(json.dumps({phase: phase})) == {phase.value: phase.value}
        assert f"{phase}" == f"{phase.side}.{phase.step}" == phase.value
