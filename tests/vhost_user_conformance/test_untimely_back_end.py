"""The suite accuses no back-end that serves, logs and calls at other times than most do.

A device may serve a request as soon as it is available, without a kick, and may log and call after
the driver has seen the completion. A case that relies on another order fails here each time, and
with most back-ends once in a thousand runs.
"""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.timeouts import PROGRAM_TIMEOUT
from tests.vhost_user_conformance.untimely_back_end import BEHAVIOURS
from vhost_user.virtqueue import DriverQueue
from vhost_user_conformance.model.case import BACK_END
from vhost_user_conformance.model.verdict import Verdict
from vhost_user_conformance.target import Target, areas_of

if TYPE_CHECKING:
    from vhost_user_conformance.model.result import CaseResult

ROOT = Path(__file__).parents[2]
#: Seconds for all cases on a busy machine, where the back-end that polls takes a processor.
LONGEST = 20 * PROGRAM_TIMEOUT
#: Seconds that a driver leaves to the device after each `publish`.
PAUSE = 0.002
OPTIONS = {
    "blk": "--num-queues 4 --blk-file",
    "net": "--num-queues 4 --mac 02:00:00:00:00:01",
    "rng": "",
}
#: Of a disk: areas where much depends on the order of requests and other events.
QUICK = {"polls": ("dirty_log", "memory_slots"), "late": ("dirty_log",)}


@pytest.fixture(autouse=True)
def time_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the driver do nothing after `publish` until the device has served, or could have."""
    usual = DriverQueue.publish

    def publish(queue: DriverQueue) -> bool:
        wanted = usual(queue)
        end = time.monotonic() + PAUSE
        while queue._used[1] != queue._avail[1] and time.monotonic() < end:
            time.sleep(PAUSE / 20)  # a device that polls gives no event
        return wanted

    monkeypatch.setattr(DriverQueue, "publish", publish)


def failed(behaviour: str, device: str, folder: Path, areas: tuple[str, ...]) -> list[str]:
    """The cases that such a back-end fails, with the reasons; of these areas, or of all."""
    options = OPTIONS[device]
    if device == "blk":
        image = folder / "disk.img"
        with image.open("wb") as file:
            file.truncate(16 << 20)
        options += f" {shlex.quote(str(image))}"
    program = f"{shlex.quote(sys.executable)} -m tests.vhost_user_conformance.untimely_back_end"
    command = f"env PYTHONPATH={ROOT} {program} {behaviour} backends.{device}"
    target = Target(
        BACK_END, None, f"{command} --socket-path {{socket}} {options}", device, scratch=True
    )
    cases = [
        case
        for area in areas_of(BACK_END)
        for case in area.cases
        if case.works and case.device in ("", device) and (not areas or area.name in areas)
    ]
    results: list[CaseResult] = []
    with target.opened() as runner:
        runner.probe()
        runner.run(cases, results.append)
    assert len(results) == len(cases)
    assert any(result.verdict is Verdict.PASS for result in results)
    wrong = (Verdict.FAIL, Verdict.ERROR)
    return [f"{each.case.id}: {each.seen}" for each in results if each.verdict in wrong]


@pytest.mark.timeout(LONGEST)
@pytest.mark.slow
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_a_disk_is_not_accused_of_its_times(behaviour: str, tmp_path: Path) -> None:
    """In areas that do not take long."""
    assert failed(behaviour, "blk", tmp_path, QUICK[behaviour]) == []


@pytest.mark.soak
@pytest.mark.timeout(LONGEST)
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("device", OPTIONS)
def test_no_device_is_accused_of_its_times(behaviour: str, device: str, tmp_path: Path) -> None:
    """In all areas."""
    assert failed(behaviour, device, tmp_path, ()) == []
