"""`emu run`: samples of a fake VM with real back-ends."""

from __future__ import annotations

import io
import json
import os
import signal
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from emu.errors import ProgramError, SignalError
from emu.orchestrator import run_under_load
from emu.orchestrator.run_under_load import LoadRun
from emu.orchestrator.supervisor import Supervisor
from emu.report.live_view import LineView, show_report
from emu.report.progress import SilentProgress
from tests.emu.fake_runs import FAKE_VM, machine_plan, no_leftovers

if TYPE_CHECKING:
    from emu.report.load_results import LoadReport
    from emu.report.progress import Progress


def run(out: io.StringIO, seconds: float | None, progress: Progress | None = None) -> LoadReport:
    """Run, and check that no process and no file is left."""
    supervisor = Supervisor(
        machine_plan(), progress or SilentProgress(), sides=1, vm_program=FAKE_VM
    )
    with no_leftovers(), supervisor:
        return LoadRun(supervisor, LineView(out), seconds).run()


def test_rates_are_for_a_second_and_totals_since_the_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake VM counts 1000 requests and 2000 packets a second."""
    monkeypatch.setattr(run_under_load, "INTERVAL", 0.1)
    out = io.StringIO()
    report = run(out, 0.5)
    ends = [sample.seconds for sample in report.samples]
    intervals = [end - begin for begin, end in pairwise([0.0, *ends])]
    assert all(interval >= 0.1 for interval in intervals[:-1])  # the last one is what is left
    assert ends[-1] >= 0.5
    for sample, interval in zip(report.samples, intervals, strict=True):
        # The counters are whole numbers.
        assert sample.rates["blk"]["requests"] == pytest.approx(1000, abs=1 / interval)
        assert sample.rates["net"]["packets"] == pytest.approx(2000, abs=1 / interval)
        assert sample.rates["blk"]["kicks"] == 0
    assert report.seconds >= ends[-1]
    assert report.totals["blk"]["requests"] >= report.samples[-1].totals["blk"]["requests"]
    assert out.getvalue().count("requests/s") == len(report.samples)
    assert report.integrity.clean


class SignalAtFirstSample(io.StringIO):
    """The output; the first sample sends the signal to this process."""

    def __init__(self, signum: signal.Signals) -> None:
        super().__init__()
        self._signum = signum

    def write(self, text: str) -> int:
        """Keep the text, and send the signal once."""
        if not self.tell():
            os.kill(os.getpid(), self._signum)
        return super().write(text)


class SignalAtRun(SilentProgress):
    """The signal comes before the first counters are read."""

    def step(self, text: str) -> None:
        """``run`` is the name of the phase that a user ends."""
        if text == "run":
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("out", "progress"),
    [
        (SignalAtFirstSample(signal.SIGINT), None),
        (io.StringIO(), SignalAtRun()),
    ],
    ids=["at the first sample", "before it"],
)
def test_ctrl_c_ends_the_run_without_an_error(out: io.StringIO, progress: Progress | None) -> None:
    """The run still reports the totals and compares the counters."""
    report = run(out, None, progress)
    assert report.totals["blk"]["requests"] > 0
    assert report.integrity.requests == 10


def test_sigterm_ends_the_run_with_an_error() -> None:
    """At once."""
    with pytest.raises(SignalError, match="SIGTERM"):
        run(SignalAtFirstSample(signal.SIGTERM), None)


def test_the_end_of_a_vm_process_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the last line of its stderr."""
    monkeypatch.setenv("FAKE_VM", "die-at-start")
    with pytest.raises(ProgramError, match="caught fire"):
        run(io.StringIO(), 1)


def test_the_document_and_the_text_have_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The document is described in docs/reference/json.md."""
    monkeypatch.setattr(run_under_load, "INTERVAL", 0.1)
    report = run(io.StringIO(), 0.3)
    document = json.loads(json.dumps(report.to_json()))
    assert {"schema", "host", "vm", "accel", "costs"} < set(document)
    assert set(document) >= {"seconds", "samples", "totals", "integrity"}
    assert "requests_per_s" in document["samples"][0]["blk"]
    out = io.StringIO()
    show_report(report, out)
    assert f"{document['totals']['blk']['requests']} requests" in out.getvalue()
    assert "lost 0, duplicated 0, corrupted 0" in out.getvalue()
