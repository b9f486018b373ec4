"""What the guest's request log was compared with."""

from __future__ import annotations

import pytest

from emu.config.backend_commands import BackEndCommand
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.report.proofs import Proof, compared, complete
from tests.emu.fake_runs import machine_plan

NICS = VmSpec(1, 1 << 30, (DeviceGroup("net", 1, 2),))
COMMAND = {"net": BackEndCommand.parse("net", "x {socket}")}


@pytest.mark.parametrize(
    ("proofs", "names"),
    [
        (set(Proof), list(Proof)),
        ({Proof.BLOCKS, Proof.IMAGES}, [Proof.BLOCKS, Proof.IMAGES]),
        (set(), []),
    ],
    ids=["all", "no counters", "none"],
)
def test_what_was_compared(proofs: set[Proof], names: list[Proof]) -> None:
    """The log first, and the others in one order."""
    plan = machine_plan()
    assert compared(plan, proofs) == ["the guest's request log", *names]
    assert complete(plan, proofs) == (len(names) == len(Proof))


def test_only_what_the_vm_has() -> None:
    """NICs have neither blocks nor images; back-ends of others have no counters to compare."""
    for plan in (machine_plan(spec=NICS), machine_plan(spec=NICS, back_ends=COMMAND)):
        assert compared(plan, set(Proof)) == ["the guest's request log"]
        assert complete(plan, set())
