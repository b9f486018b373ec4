"""A point in a process of its own."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
import pickle
import subprocess
import sys

from emu.report.progress import SilentProgress
from emu.sweep.point import PointResult, measure
from tests.emu.sweep.plans import planned
from tests.timeouts import PROGRAM_TIMEOUT

POINT = (sys.executable, "-m", "emu.sweep.point")


def test_the_process_writes_the_result_as_json() -> None:
    (plan,) = planned(1).values()
    done = subprocess.run(
        POINT,
        input=pickle.dumps(plan),
        stdout=subprocess.PIPE,
        timeout=PROGRAM_TIMEOUT,
        check=True,
    )
    result = PointResult(**json.loads(done.stdout))
    assert result.complete
    assert (result.failure, result.document is not None) == ("", True)
    assert result.document is not None
    (run,) = result.document["runs"]
    assert (run["strategy"], run["outcome"], run["integrity"]["lost"]) == ("split", "completed", 0)


def test_a_host_that_cannot_run_the_vm_is_a_failure() -> None:
    """Nothing was started."""
    (plan,) = planned(1).values()
    machine = plan.machine.__class__(plan.machine.spec, "none")
    result, error = measure(plan.__class__(machine, ("split",)), SilentProgress())
    assert result == PointResult(None, str(error))
    assert "unknown accelerator 'none'" in result.failure
