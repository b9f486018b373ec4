"""The order of the rounds, and what a failure costs."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from bench.qemu_baseline.measurement import MigrationFigures, StopFigures
from bench.qemu_baseline.rounds import EMU, QEMU, Rounds, other_back_ends, own_back_ends
from emu.config.plan import MachinePlan
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.errors import EmuError, SignalError
from emu.orchestrator.signals import SignalWatcher

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPEC = VmSpec(1, 256 << 20, (DeviceGroup("net", 1, 2), DeviceGroup("blk", 1, 1)))
PLAN = MachinePlan(SPEC)


class Numbers:
    """A VM whose figures are numbers in a row; the one with the number `fails` does not boot."""

    def __init__(self, fails: int = -1, error: EmuError | None = None) -> None:
        self.made: list[str] = []
        self._fails = fails
        self._error = error or EmuError("does not boot")

    @contextmanager
    def make(self, name: str, plan: MachinePlan) -> Iterator[Numbers]:
        self.made.append(f"{name} {','.join(plan.back_ends)}".strip())
        yield self

    def boot(self) -> None:
        if len(self.made) - 1 == self._fails:
            raise self._error

    def stop_and_cont(self) -> StopFigures:
        return StopFigures(1.0, 2.0, float(len(self.made)))

    def migrate(self) -> dict[str, MigrationFigures]:
        return {"prewired": MigrationFigures(float(len(self.made)), 1.0)}


def run(numbers: Numbers, rounds: int) -> Rounds:
    with SignalWatcher() as watcher:
        made = Rounds(
            PLAN,
            [own_back_ends(SPEC)],
            numbers.make,
            stops=2,
            watcher=watcher,
            report=lambda _: None,
        )
        made.run(rounds)
    return made


def test_the_vm_that_begins_changes() -> None:
    numbers = Numbers()
    made = run(numbers, 3)
    assert numbers.made == [QEMU, EMU, EMU, QEMU, QEMU, EMU]
    assert len(made.loads) == 6
    qemu, emu = (made.series["own"][name] for name in (QEMU, EMU))
    assert [each.gap_ms for each in qemu.stops] == [1, 1, 4, 4, 5, 5]
    assert [each.gap_ms for each in emu.migrations["prewired"]] == [2, 3, 6]


def test_a_failure_is_kept_and_the_rest_is_measured() -> None:
    made = run(Numbers(fails=1), 2)
    ((back_ends, vm, number, reason),) = made.failures
    assert (back_ends, vm, number, reason) == ("own", EMU, 1, "does not boot")
    assert len(made.series["own"][QEMU].stops) == 4
    assert len(made.series["own"][EMU].stops) == 2


def test_a_signal_ends_the_rounds() -> None:
    numbers = Numbers(1, SignalError(2, "SIGINT"))
    with pytest.raises(SignalError):
        run(numbers, 2)
    assert len(numbers.made) == 2


def test_the_programs_of_a_set_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert own_back_ends(SPEC).programs == "vhost-emu-net, vhost-emu-blk"
    monkeypatch.setenv("PATH", str(tmp_path))
    found, missing = other_back_ends(SPEC)
    assert found is None
    assert missing == [
        "testpmd is not measured: dpdk-testpmd is not installed",
        "qemu-storage-daemon is not measured: qemu-storage-daemon is not installed",
    ]
    program = tmp_path / "qemu-storage-daemon"
    program.touch()
    program.chmod(0o755)
    found, missing = other_back_ends(SPEC)
    assert found is not None
    assert (found.programs, list(found.commands)) == ("vhost-emu-net, qemu-storage-daemon", ["blk"])
    assert len(missing) == 1
